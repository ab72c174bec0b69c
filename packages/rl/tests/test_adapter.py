"""Gymnasium's vector environments: in all three autoreset modes, nothing crosses a reset."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.errors import UsageError
from rostral_rl.simulate import GymVector, Sampler, VectorAdapter, VectorSource, make_vector
from rostral_rl.train.parts.nets import ActorCritic
from rostral_rl.train.parts.nstep import NStep

SPEC = forward.NetSpec(inputs=2, hidden=(), outputs=2, activation="tanh", head="categorical")
WEIGHTS = ActorCritic(SPEC, log_std=0.0, seed=0).weights()


class Count(gymnasium.Env[Any, Any]):
    """Shows (episode, step); ends after `length` steps, truncated in every other episode."""

    observation_space = spaces.Box(0.0, 1e6, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length: int) -> None:
        self._length = length
        self._episode = 0
        self._step = 0

    def _seen(self) -> Any:
        return np.array((self._episode, self._step), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._episode += 1
        self._step = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self._step += 1
        ends, cut = self._step == self._length, self._episode % 2 == 0
        return self._seen(), float(self._step), ends and not cut, ends and cut, {}


FACTORIES: list[Any] = [lambda: Count(2), lambda: Count(3), lambda: Count(5)]


def transitions(vector: Any, horizon: int) -> set[tuple[float, ...]]:
    """(environment's length shows in the rows) all one-step transitions of two fragments."""
    sampler = Sampler(vector, spec=SPEC, horizon=horizon, seed=0)
    window, found = NStep(1, 1.0), set()
    for version in range(2):
        steps = window(sampler.collect(WEIGHTS, version))
        for i in range(len(steps)):
            numbers = (steps.reward[i].item(), steps.discount[i].item())
            found.add((*steps.obs[i], *steps.next_obs[i], *numbers))
    sampler.close()
    return found


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode_gives_the_transitions_of_the_environments_themselves(
    mode: AutoresetMode,
) -> None:
    ours = transitions(
        VectorAdapter(SyncVectorEnv(FACTORIES, autoreset_mode=mode), [0, 1, 2]), horizon=40
    )
    reference = transitions(GymVector(FACTORIES, [0, 1, 2]), horizon=40)
    # NEXT_STEP spends steps on resets, and so sees fewer episodes in as many steps.
    assert ours <= reference
    assert len(ours) > 0.6 * len(reference)
    for episode, step, next_episode, next_step, reward, _ in ours:
        assert (next_episode, next_step) == (episode, step + 1) and reward == step + 1


def test_a_step_spent_on_a_reset_is_marked_and_counts_for_no_episode() -> None:
    vector = SyncVectorEnv(FACTORIES[:1], autoreset_mode=AutoresetMode.NEXT_STEP)
    fragment = Sampler(VectorAdapter(vector, [0]), spec=SPEC, horizon=6, seed=0).collect(WEIGHTS, 0)
    assert fragment["valid"][:, 0].tolist() == [True, True, False, True, True, False]
    assert fragment["reward"][:, 0].tolist() == [1.0, 2.0, 0.0, 1.0, 2.0, 0.0]
    assert fragment["episode_length"].tolist() == [2, 2]
    assert fragment["episode_return"].tolist() == [3.0, 3.0]


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_algorithms_learn_in_gymnasiums_vectors(algorithm: str, mode: AutoresetMode) -> None:
    def make(count: int) -> Any:
        factories = [lambda: gymnasium.make("CartPole-v1") for _ in range(count)]
        return SyncVectorEnv(factories, autoreset_mode=mode)

    every: dict[str, dict[str, Any]] = {
        "ppo": {"envs": 4, "steps": 32, "minibatch": 64, "epochs": 1},
        "dqn": {"envs": 4, "steps": 4, "minibatch": 16, "start": 64, "hidden": (8,)},
    }
    run = rl.train(algorithm, rl.VectorSource(make), total_steps=1_024, seed=0, **every[algorithm])
    assert run.env_steps == 1_024
    assert run.history[-1]["return_mean"] > 9.0
    assert len(run.evaluate(episodes=3).returns) == 3


def test_a_vector_of_another_size_or_of_dicts_is_refused() -> None:
    with pytest.raises(UsageError, match="3 environments, asked for 2"):
        make_vector(VectorSource(lambda count: SyncVectorEnv(FACTORIES)), 2, seed=0)

    class Dicts(Count):
        observation_space = spaces.Dict({"a": spaces.Discrete(2)})  # type: ignore[assignment]

    with pytest.raises(UsageError, match="Dict"):
        make_vector(VectorSource(lambda count: SyncVectorEnv([lambda: Dicts(2)])), 1, seed=0)
