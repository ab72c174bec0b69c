"""Environments in processes of their own: what they do is what one process does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

import rostral_rl as rl
from rostral_rl.errors import InvalidSettingError, SimulationError
from rostral_rl.simulate.make import make_vector
from rostral_rl.simulate.shared import SharedSource, SharedVector
from rostral_rl.simulate.slabs import Slab

STEPS = 60

pytestmark = pytest.mark.slow


def cart_pole() -> Any:
    return gymnasium.make("CartPole-v1", disable_env_checker=True)


class Broken(CartPoleEnv):
    """Has no lever."""

    def step(self, action: Any) -> Any:
        raise KeyError("no such lever")


@pytest.fixture(autouse=True)
def _found_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environments' processes import this module as pytest has named it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))


@pytest.fixture
def vector() -> Iterator[SharedVector]:
    made = SharedVector(SharedSource(cart_pole, processes=2), [3, 4, 5])
    yield made
    made.close()


def slab_of(vector: Any) -> Slab:
    return Slab.allocate(
        STEPS,
        vector.count,
        observation_space=vector.observation_space,
        action_space=vector.action_space,
    )


def played(vector: Any, slab: Slab, first: int, last: int) -> list[tuple[int, Any, Any]]:
    slab.actions[...] = np.random.default_rng(0).integers(2, size=slab.actions.shape)
    ends = []
    for t in range(first, last):
        finals = vector.step(slab, t)
        if finals is not None:
            ends.append((t, finals.index.tolist(), finals.obs.tolist()))
    return ends


@pytest.mark.parametrize(("env", "processes"), [(cart_pole, 2), ("CartPole-v1", 3)])
def test_processes_play_what_one_process_plays(env: Any, processes: int) -> None:
    source = SharedSource(env, processes=processes)
    slabs, ends = [], []
    for made in (env, source):
        vector = make_vector(made, 3, seed=1)
        slab = slab_of(vector)
        vector.reset(slab.obs[0])
        ends.append(played(vector, slab, 0, STEPS))
        vector.close()
        vector.close()
        slabs.append(slab)
    assert ends[0] == ends[1] and len(ends[0]) > 3
    for name in Slab.__slots__:
        np.testing.assert_array_equal(getattr(slabs[0], name), getattr(slabs[1], name))


def test_states_are_told_and_taken(vector: SharedVector) -> None:
    whole, again = slab_of(vector), slab_of(vector)
    vector.reset(whole.obs[0])
    played(vector, whole, 0, 20)
    states = vector.states()
    played(vector, whole, 20, STEPS)
    vector.restore(states, again.obs[20])
    played(vector, again, 20, STEPS)
    np.testing.assert_array_equal(again.obs[20:], whole.obs[20:])


def test_a_process_that_dies_is_told_of(vector: SharedVector) -> None:
    slab = slab_of(vector)
    vector.reset(slab.obs[0])
    pid = vector._processes[1].pid
    os.kill(pid, signal.SIGKILL)
    vector._processes[1].join()
    with pytest.raises(SimulationError, match="the process of environments 2 to 2 died"):
        vector.step(slab, 0)


def test_what_an_environment_raises_comes_back() -> None:
    vector = make_vector(SharedSource(Broken), 2, seed=0)
    slab = slab_of(vector)
    vector.reset(slab.obs[0])
    with pytest.raises(SimulationError, match="no such lever"):
        vector.step(slab, 0)
    vector.reset(slab.obs[0])
    vector.close()


def test_training_is_the_same() -> None:
    given: dict[str, Any] = {"envs": 4, "steps": 16, "minibatch": 32, "epochs": 1}
    runs = [
        rl.train("ppo", env, total_steps=256, seed=2, **given)
        for env in (cart_pole, rl.SharedSource(cart_pole, processes=2))
    ]
    for name, array in runs[0].policy.weights.items():
        np.testing.assert_array_equal(runs[1].policy.weights[name], array)


def test_no_process_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="processes must be >= 1"):
        SharedSource("CartPole-v1", processes=0)
