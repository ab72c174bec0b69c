"""The native classic-control kernels: Gymnasium's own, step for step and seed for seed."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from rostral_rl.simulate import GymVector, Slab, VectorEnv
from rostral_rl.simulate.kernels import KERNELS

STEPS = 450
SEEDS = [11, 12, 13, 14, 15, 16]


def play(vector: VectorEnv, actions: Any) -> tuple[Slab, list[Any]]:
    slab = Slab.allocate(
        len(actions),
        vector.count,
        observation_space=vector.observation_space,
        action_space=vector.action_space,
    )
    slab.actions[...] = actions
    vector.reset(slab.obs[0])
    return slab, [vector.step(slab, t) for t in range(len(actions))]


def actions_for(env: str) -> Any:
    """Some for each environment: pushed to and fro, so that episodes end; beyond the bounds too."""
    generator = np.random.default_rng(5)
    space: Any = gymnasium.make(env).action_space
    shape = (STEPS, len(SEEDS))
    if space.shape:
        return (generator.standard_normal((*shape, 1)) * 1.5).astype(space.dtype)
    # Runs of one action swing a car or an acrobot up sooner than a new one every step.
    runs = np.repeat(generator.integers(space.n, size=(STEPS // 10, len(SEEDS))), 10, axis=0)
    steps = generator.integers(space.n, size=shape)
    return np.where(np.arange(len(SEEDS)) % 2 == 0, runs, steps)


@pytest.mark.slow
@pytest.mark.parametrize("env", KERNELS)
def test_a_kernel_equals_gymnasiums_step_for_step_and_seed_for_seed(env: str) -> None:
    def make() -> Any:
        return gymnasium.make(env, disable_env_checker=True)

    actions = actions_for(env)
    ours, our_ends = play(KERNELS[env](SEEDS), actions)
    reference = GymVector([make] * len(SEEDS), SEEDS)
    theirs, their_ends = play(reference, actions)
    reference.close()

    for name in ("obs", "reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert [e is None for e in our_ends] == [e is None for e in their_ends]
    for mine, theirs_end in zip(our_ends, their_ends, strict=True):
        if mine is not None:
            np.testing.assert_array_equal(mine.index, theirs_end.index)
            np.testing.assert_array_equal(mine.obs, theirs_end.obs)
    if env != "Acrobot-v1" and env != "MountainCarContinuous-v0":
        assert any(e is not None for e in our_ends), "no episode ended, so no reset was compared"


@pytest.mark.parametrize("env", KERNELS)
def test_a_kernel_alone_plays_what_it_plays_among_others(env: str) -> None:
    actions = actions_for(env)[:600]
    together, ends = play(KERNELS[env](SEEDS), actions)
    for i, seed in enumerate(SEEDS):
        alone, own_ends = play(KERNELS[env]([seed]), actions[:, i : i + 1])
        for name in ("obs", "reward", "terminated", "truncated"):
            np.testing.assert_array_equal(
                getattr(alone, name)[:, 0], getattr(together, name)[:, i], err_msg=name
            )
        for mine, theirs in zip(own_ends, ends, strict=True):
            assert (mine is not None) == (theirs is not None and i in theirs.index)
            if mine is not None and theirs is not None:
                np.testing.assert_array_equal(mine.obs, theirs.obs[theirs.index == i])


@pytest.mark.parametrize("env", KERNELS)
def test_a_kernel_goes_on_elsewhere_from_its_state(env: str) -> None:
    actions = actions_for(env)[:260]
    whole, _ = play(KERNELS[env](SEEDS), actions)
    first = KERNELS[env](SEEDS)
    play(first, actions[:120])
    states = first.states()

    second = KERNELS[env]([0] * len(SEEDS))
    slab = Slab.allocate(
        140,
        len(SEEDS),
        observation_space=second.observation_space,
        action_space=second.action_space,
    )
    slab.actions[...] = actions[120:]
    second.restore(states, slab.obs[0])
    for t in range(140):
        second.step(slab, t)
    np.testing.assert_array_equal(slab.obs, whole.obs[120:])
    np.testing.assert_array_equal(slab.reward, whole.reward[120:])
