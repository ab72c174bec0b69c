"""Fragments: what the critic bootstraps from, whose log-probability is stored, which noise."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rostral_rl import forward
from rostral_rl.arrays import Weights
from rostral_rl.errors import SimulationError
from rostral_rl.simulate import Fragment, GymVector, Sampler, make_vector
from rostral_rl.simulate.fragment import join

SPEC = forward.NetSpec(inputs=4, hidden=(8,), outputs=2, activation="tanh", head="categorical")


def random_weights(spec: forward.NetSpec, *, seed: int = 0) -> Weights:
    generator = np.random.default_rng(seed)
    weights: Weights = {}
    for name, outputs in (("pi", spec.outputs), ("vf", 1)):
        widths = (spec.inputs, *spec.hidden, outputs)
        for i, (before, after) in enumerate(pairwise(widths)):
            weights[f"{name}.{i}.weight"] = generator.standard_normal(
                (before, after), dtype=np.float32
            )
            weights[f"{name}.{i}.bias"] = generator.standard_normal(after, dtype=np.float32)
    if spec.head == "gaussian":
        weights["log_std"] = generator.standard_normal(spec.outputs, dtype=np.float32)
    return weights


class Line(gymnasium.Env[Any, Any]):
    """Counts up from 0 and shows the count; ends at 3, truncated or terminated by turns."""

    def __init__(self, *, action_space: Any = None, broken_at: int = -1) -> None:
        self.observation_space = spaces.Box(-1e6, 1e6, (1,), np.float32)
        self.action_space = action_space or spaces.Discrete(2)
        self._at = 0
        self._episode = -1
        self._broken_at = broken_at
        self.seen_actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._at = 0
        self._episode += 1
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.seen_actions.append(np.copy(action))
        self._at += 1
        ends = self._at == 3
        reward = np.nan if self._at == self._broken_at else float(self._at)
        terminated, truncated = ends and self._episode % 2 == 1, ends and self._episode % 2 == 0
        return np.full(1, self._at, np.float32), reward, terminated, truncated, {}


def identity_critic() -> tuple[forward.NetSpec, Weights]:
    """A net without hidden layers, whose critic says 10 plus what it sees."""
    spec = forward.NetSpec(inputs=1, hidden=(), outputs=2, activation="tanh", head="categorical")
    weights = random_weights(spec)
    weights["vf.0.weight"] = np.ones((1, 1), np.float32)
    weights["vf.0.bias"] = np.full(1, 10.0, np.float32)
    return spec, weights


def test_truncation_bootstraps_from_the_true_last_observation_and_termination_from_nothing() -> (
    None
):
    spec, weights = identity_critic()
    sampler = Sampler(GymVector([Line], [0]), spec=spec, horizon=7, seed=0)
    fragment = sampler.collect(weights, 3)

    np.testing.assert_array_equal(fragment["obs"][:, 0, 0], [0, 1, 2, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(fragment["value"][:, 0], [10, 11, 12, 10, 11, 12, 10])
    # Row 2 was truncated at 3 (and not at the 0 that follows); row 5 terminated.
    np.testing.assert_array_equal(fragment["next_value"][:, 0], [11, 12, 13, 11, 12, 0, 11])
    np.testing.assert_array_equal(fragment["final_index"], [[2, 0], [5, 0]])
    np.testing.assert_array_equal(fragment["final_obs"], [[3], [3]])
    np.testing.assert_array_equal(fragment["episode_return"], [6, 6])
    np.testing.assert_array_equal(fragment["episode_length"], [3, 3])
    assert int(fragment["version"]) == 3


def test_episodes_are_counted_across_fragments() -> None:
    spec, weights = identity_critic()
    sampler = Sampler(GymVector([Line], [0]), spec=spec, horizon=2, seed=0)
    fragments = [sampler.collect(weights, 0) for _ in range(3)]
    assert [f["episode_return"].tolist() for f in fragments] == [[], [6.0], [6.0]]
    assert [f["episode_length"].tolist() for f in fragments] == [[], [3], [3]]
    np.testing.assert_array_equal(fragments[1]["obs"][:, 0, 0], [2, 0, 1])


def test_a_fragment_is_not_touched_by_the_next() -> None:
    sampler = Sampler(make_vector("CartPole-v1", 3, seed=1), spec=SPEC, horizon=9, seed=1)
    weights = random_weights(SPEC)
    first = sampler.collect(weights, 0)
    kept = {name: np.array(array) for name, array in first.items()}
    second = sampler.collect(weights, 1)
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)  # type: ignore[literal-required]
    np.testing.assert_array_equal(second["obs"][0], first["obs"][-1])


def test_log_probability_is_that_of_the_drawn_action_and_the_environment_gets_it_clipped() -> None:
    spec = forward.NetSpec(inputs=1, hidden=(4,), outputs=2, activation="relu", head="gaussian")
    weights = random_weights(spec)
    weights["log_std"] = np.full(2, 1.0, np.float32)
    env = Line(action_space=spaces.Box(-0.5, 0.5, (2,), np.float32))
    fragment = Sampler(GymVector([lambda: env], [0]), spec=spec, horizon=20, seed=4).collect(
        weights, 0
    )
    drawn = fragment["actions"][:, 0]  # (T, 2)
    assert np.abs(drawn).max() > 0.5, "nothing was clipped, so nothing was tested"
    np.testing.assert_array_equal(np.stack(env.seen_actions), np.clip(drawn, -0.5, 0.5))
    mean = forward.Tower(weights, "pi", layers=2, activation="relu")(fragment["obs"][:-1, 0])
    std = np.exp(weights["log_std"].astype(np.float64))
    density = -0.5 * ((drawn - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(fragment["logp"][:, 0], density.sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outputs", [2, 5])
def test_sampling_follows_the_categorical(outputs: int) -> None:
    spec = forward.NetSpec(
        inputs=1, hidden=(), outputs=outputs, activation="tanh", head="categorical"
    )
    logits = np.linspace(-1.0, 1.0, outputs, dtype=np.float32)
    grid = ((np.arange(20_000) + 0.5) / 20_000).astype(np.float32)
    actions = forward.sample(spec, np.tile(logits, (20_000, 1)), grid, {})
    shares = np.bincount(actions, minlength=outputs) / 20_000
    np.testing.assert_allclose(shares, np.exp(logits) / np.exp(logits).sum(), atol=2e-4)
    rows = np.tile(logits, (outputs, 1))
    logp = forward.log_prob(spec, rows, np.arange(outputs), {})
    np.testing.assert_allclose(np.exp(logp), np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


def test_extreme_logits_neither_overflow_nor_lose_a_choice() -> None:
    for outputs in (2, 3):
        spec = forward.NetSpec(
            inputs=1, hidden=(), outputs=outputs, activation="tanh", head="categorical"
        )
        logits = np.zeros((2, outputs), np.float32)
        logits[0, 0], logits[1, -1] = 500.0, 500.0
        noise = np.full(2, 0.999, np.float32)
        assert forward.sample(spec, logits, noise, {}).tolist() == [0, outputs - 1]


def test_fragments_of_any_split_join_to_the_same() -> None:
    weights = random_weights(SPEC)

    def play(parts: list[tuple[int, int]]) -> Fragment:
        samplers = [
            Sampler(
                make_vector("CartPole-v1", count, seed=9, first=first),
                spec=SPEC,
                horizon=40,
                seed=9,
                first=first,
            )
            for first, count in parts
        ]
        return join([sampler.collect(weights, 0) for sampler in samplers])

    whole, split = play([(0, 7)]), play([(0, 2), (2, 4), (6, 1)])
    for name in ("obs", "actions", "reward", "terminated", "truncated"):
        np.testing.assert_array_equal(whole[name], split[name])
    # Matrix products of other sizes round otherwise in the last place.
    np.testing.assert_allclose(whole["logp"], split["logp"], atol=1e-5)
    np.testing.assert_allclose(whole["next_value"], split["next_value"], atol=1e-4)
    assert sorted(whole["episode_return"]) == sorted(split["episode_return"])
    order = np.lexsort(split["final_index"].T[::-1])
    np.testing.assert_array_equal(whole["final_index"], split["final_index"][order])


def test_a_reward_that_is_not_finite_is_a_simulation_error() -> None:
    spec, weights = identity_critic()
    sampler = Sampler(GymVector([lambda: Line(broken_at=2)], [0]), spec=spec, horizon=4, seed=0)
    with pytest.raises(SimulationError, match="not finite"):
        sampler.collect(weights, 0)
