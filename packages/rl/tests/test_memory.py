"""Training with memory, and with images: in fragments, across resets, resumed, and learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl.recurrent import RecurrentPolicy
from rostral_rl.simulate.make import EnvSource, make_vector
from rostral_rl.simulate.sampler import Sampler
from rostral_rl.train.actor_critic import log_prob_and_entropy
from rostral_rl.train.algorithms import settings_for
from rostral_rl.train.parts.memory import Memory
from rostral_rl.train.parts.shared import SharedActorCritic
from rostral_rl.train.trainer import net_spec, spaces_of

from .beacon import Beacon


class Recall(gymnasium.Env[Any, Any]):
    """Shows a bit, then nothing for a while, then asks for it: a guess is worth 0."""

    length = 4

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.at = 0
        self.bit = 0

    def _obs(self) -> Any:
        shown = (2.0 * self.bit - 1.0) * (self.at == 0)
        return np.array([shown, float(self.at == self.length - 1)], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.at, self.bit = 0, int(self.np_random.integers(2))
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        last = self.at == self.length - 1
        reward = (1.0 if int(action) == self.bit else -1.0) if last else 0.0
        self.at += 1
        return self._obs(), reward, last, False, {}


def next_step_vector(count: int) -> Any:
    return gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * count)


def cart_pole() -> Any:
    return gymnasium.make("CartPole-v1", max_episode_steps=9)


@pytest.mark.parametrize(
    "env", [Recall, cart_pole, rl.VectorSource(next_step_vector)], ids=["ends", "cut", "next step"]
)
def test_what_learns_retraces_what_acted(env: EnvSource) -> None:
    """1. Two fragments in a row. 2. Torch, from the second's state, says the same of it."""
    spec = net_spec(*spaces_of(env), hidden=(6,), activation="tanh", lstm=5)
    net = SharedActorCritic(spec, log_std=0.0, seed=2)
    sampler = Sampler(make_vector(env, 3, seed=1), spec=spec, horizon=30, seed=1)
    sampler.collect(net.weights(), 0)
    fragment = sampler.collect(net.weights(), 0)
    sampler.close()
    assert fragment["state"].shape == (3, 10) and fragment["state"].any()
    assert len(fragment["final_index"]) > 2
    space = make_vector(env, 1, seed=0).observation_space
    raw = fragment["obs"][:-1].reshape(90, -1)
    features = torch.from_numpy(raw.astype(np.float32))
    assert rl_features(space) == features.shape[1]
    with torch.no_grad():
        outputs, value, states = net.unroll(features, Memory.of(fragment))
        logp, _ = log_prob_and_entropy(net, outputs, torch.from_numpy(fragment["actions"].ravel()))
        assert states is not None
        t, b = fragment["final_index"].T
        finals = net.values(torch.from_numpy(fragment["final_obs"]).float(), states[t, b])
        last = net.values(torch.from_numpy(fragment["obs"][-1]).float(), states[-1])
    np.testing.assert_allclose(fragment["logp"].ravel(), logp.numpy(), atol=1e-5)
    np.testing.assert_allclose(fragment["value"].ravel(), value.numpy(), atol=1e-5)
    ends = np.where(fragment["terminated"][t, b], 0.0, finals.numpy())
    np.testing.assert_allclose(fragment["next_value"][t, b], ends, atol=1e-5)
    on = ~(fragment["terminated"] | fragment["truncated"])[-1] & fragment["valid"][-1]
    np.testing.assert_allclose(fragment["next_value"][-1][on], last.numpy()[on], atol=1e-5)


def rl_features(space: Any) -> int:
    return int(np.prod(space.shape))


LEARNERS: dict[str, dict[str, Any]] = {
    "ppo": {"envs": 16, "steps": 16, "minibatch": 64, "epochs": 4, "lr": 3e-3},
    "a2c": {"envs": 16, "steps": 16, "lr": 7e-3, "lam": 0.9, "normalise_advantage": True},
    "appo": {"envs": 16, "steps": 16, "lr": 5e-3},
    "impala": {"envs": 16, "steps": 16, "lr": 5e-3},
}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", LEARNERS)
def test_a_memory_is_learned_where_one_is_needed(algorithm: str) -> None:
    given = {**LEARNERS[algorithm], "hidden": (16,), "gamma": 0.9}
    run = rl.train(algorithm, Recall, total_steps=40_000, seed=1, lstm=16, **given)
    assert isinstance(run.policy, RecurrentPolicy)
    assert run.evaluate(episodes=200, seed=9).mean >= 0.95
    assert run.evaluate(episodes=200, seed=9, sample=True).mean >= 0.8


@pytest.mark.slow
def test_without_a_memory_there_is_nothing_to_learn() -> None:
    given = {**LEARNERS["ppo"], "hidden": (16,), "gamma": 0.9}
    run = rl.train("ppo", Recall, total_steps=10_000, seed=1, **given)
    assert abs(run.evaluate(episodes=400, seed=9).mean) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "appo"])
def test_pictures_are_learned_from(algorithm: str) -> None:
    given = {**LEARNERS[algorithm], "hidden": (32,), "activation": "relu", "gamma": 0.9}
    run = rl.train(algorithm, Beacon, total_steps=12_000, seed=1, **given)
    assert run.policy.spec.conv == ((16, 3, 1),)
    assert run.evaluate(episodes=200, seed=9).mean >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", LEARNERS)
def test_a_training_with_memory_is_resumed_bit_for_bit(algorithm: str, tmp_path: Path) -> None:
    given = {"envs": 4, "steps": 6, "hidden": (6,), "lstm": 5}
    given |= {"minibatch": 12} if algorithm == "ppo" else {}
    settings = settings_for(algorithm, "", given)

    def build(env: Callable[[], Any] = Recall) -> Any:
        return settings.build(env, total_steps=20 * settings.batch, seed=3)

    with build() as reference:
        expected = [iteration.metrics["return_mean"] for iteration in reference]
    with build() as interrupted:
        for _ in range(8):
            interrupted.step()
        interrupted.save(tmp_path)
    with rl.resume(tmp_path, env=Recall) as resumed:
        assert [iteration.metrics["return_mean"] for iteration in resumed] == expected[8:]
        for name, array in reference.weights.items():
            np.testing.assert_array_equal(resumed.weights[name], array, err_msg=name)


def test_settings_of_nets_survive_a_checkpoint(tmp_path: Path) -> None:
    given: dict[str, Any] = {"envs": 2, "steps": 4, "minibatch": 8, "conv": ((4, 3, 2), (8, 2, 1))}
    with settings_for("ppo", "", given).build(Beacon, total_steps=24) as trainer:
        trainer.step()
        trainer.save(tmp_path)
    with rl.resume(tmp_path, env=Beacon) as resumed:
        assert resumed.settings == trainer.settings
        resumed.step()
