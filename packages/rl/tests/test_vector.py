"""Vector environments: episodes end where they must, and no transition crosses a reset."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rostral_rl.errors import InvalidSettingError, SimulationError, UnknownNameError
from rostral_rl.simulate import GymVector, Slab, VectorEnv, make_vector
from rostral_rl.simulate.kernels import CartPoleVector
from rostral_rl.simulate.vector import Env


class Count(gymnasium.Env[Any, Any]):
    """Shows (episode, step); ends after `length` steps, by truncation where `truncates`."""

    def __init__(self, length: int, *, truncates: bool) -> None:
        self.observation_space = spaces.Box(0.0, 1e6, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._length = length
        self._truncates = truncates
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
        ends = self._step == self._length
        return self._seen(), 1.0, ends and not self._truncates, ends and self._truncates, {}


def slab_for(vector: VectorEnv, steps: int) -> Slab:
    return Slab.allocate(
        steps,
        vector.count,
        observation_space=vector.observation_space,
        action_space=vector.action_space,
    )


def test_the_last_observation_and_the_next_first_arrive_in_the_same_step() -> None:
    vector = GymVector(
        [lambda: Count(2, truncates=False), lambda: Count(3, truncates=True)], [0, 1]
    )
    slab = slab_for(vector, 3)
    vector.reset(slab.obs[0])
    ends = [vector.step(slab, t) for t in range(3)]

    assert ends[0] is None
    assert ends[1] is not None and ends[2] is not None
    np.testing.assert_array_equal(ends[1].index, [0])
    np.testing.assert_array_equal(ends[1].obs, [[1, 2]])
    np.testing.assert_array_equal(ends[2].index, [1])
    np.testing.assert_array_equal(ends[2].obs, [[1, 3]])
    # Environment 0: episode 1 for two steps, and row 2 is episode 2's first observation.
    np.testing.assert_array_equal(slab.obs[:, 0], [[1, 0], [1, 1], [2, 0], [2, 1]])
    np.testing.assert_array_equal(slab.obs[:, 1], [[1, 0], [1, 1], [1, 2], [2, 0]])
    np.testing.assert_array_equal(slab.terminated[:, 0], [False, True, False])
    np.testing.assert_array_equal(slab.truncated[:, 1], [False, False, True])
    # Every step has its reward: there is no step that belongs to no episode.
    np.testing.assert_array_equal(slab.reward, np.ones((3, 2)))


def test_cart_pole_equals_gymnasiums_step_for_step_and_seed_for_seed() -> None:
    seeds = [11, 12, 13, 14]

    def make() -> Env:
        return gymnasium.make("CartPole-v1", disable_env_checker=True)

    ours, theirs = CartPoleVector(seeds), GymVector([make] * 4, seeds)
    generator = np.random.default_rng(0)
    mine, reference = slab_for(ours, 600), slab_for(theirs, 600)
    # Random, but for environment 0, which is balanced by the sign of its lean until time is up.
    actions = generator.integers(0, 2, (600, 4))
    ours.reset(mine.obs[0])
    theirs.reset(reference.obs[0])
    for t in range(600):
        mine.actions[t] = reference.actions[t] = actions[t]
        lean = mine.obs[t, 0, 2] + 0.4 * mine.obs[t, 0, 3] + 0.05 * mine.obs[t, 0, 1]
        mine.actions[t, 0] = reference.actions[t, 0] = int(lean > 0)
        left, right = ours.step(mine, t), theirs.step(reference, t)
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            np.testing.assert_array_equal(left.index, right.index)
            np.testing.assert_allclose(left.obs, right.obs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mine.obs, reference.obs, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mine.terminated, reference.terminated)
    np.testing.assert_array_equal(mine.truncated, reference.truncated)
    assert mine.truncated[:, 0].any(), "the time limit was never reached"
    theirs.close()


def test_an_environment_is_the_same_in_any_layout() -> None:
    together = make_vector("CartPole-v1", 6, seed=5)
    parts = [make_vector("CartPole-v1", n, seed=5, first=f) for f, n in ((0, 1), (1, 3), (4, 2))]
    whole = slab_for(together, 60)
    together.reset(whole.obs[0])
    whole.actions[:] = np.random.default_rng(1).integers(0, 2, (60, 6))
    for t in range(60):
        together.step(whole, t)
    column = 0
    for part in parts:
        slab = slab_for(part, 60)
        columns = slice(column, column + part.count)
        slab.actions[:] = whole.actions[:, columns]
        part.reset(slab.obs[0])
        for t in range(60):
            part.step(slab, t)
        np.testing.assert_array_equal(slab.obs, whole.obs[:, columns])
        column += part.count


def test_a_misspelt_environment_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="CartPole-v1"):
        make_vector("CartPoll-v1", 1, seed=0)


def test_no_environments_is_an_error() -> None:
    with pytest.raises(InvalidSettingError, match="> 0"):
        make_vector("CartPole-v1", 0, seed=0)


def test_a_factory_that_raises_is_a_simulation_error() -> None:
    def broken() -> Env:
        raise OSError("no display")

    with pytest.raises(SimulationError, match="no display"):
        GymVector([broken], [0])
