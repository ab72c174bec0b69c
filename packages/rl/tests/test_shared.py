"""Environments in processes of their own: what they do is what one process does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.errors import InvalidSettingError, SimulationError
from rostral_rl.simulate.halves import HalvesSampler
from rostral_rl.simulate.make import make_vector
from rostral_rl.simulate.shared import SharedSource, SharedVector
from rostral_rl.simulate.slabs import Slab
from rostral_rl.simulate.worker import Layout
from rostral_rl.train.parts.nets import ActorCritic

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
    pid = vector._processes.running[1].pid
    os.kill(pid, signal.SIGKILL)
    vector._processes.running[1].join()
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


def sampler_of(env: Any, count: int) -> Any:
    spec = forward.NetSpec(inputs=4, hidden=(8,), outputs=2, activation="tanh", head="categorical")
    return spec, Layout(env=env, envs=count, horizon=STEPS, spec=spec, seed=2).sampler(0, count)


def test_halves_that_take_turns_play_what_all_play_at_once() -> None:
    fragments = []
    for env in (cart_pole, SharedSource(cart_pole, processes=2)):
        spec, sampler = sampler_of(env, 5)
        assert isinstance(sampler, HalvesSampler) == (env is not cart_pole)
        weights = ActorCritic(spec, log_std=0.0, seed=1).weights()
        sampler.collect(weights, 0)
        fragments.append(sampler.collect(weights, 1))
        states = sampler.states()
        again = sampler.collect(weights, 2)
        sampler.restore(states)
        np.testing.assert_array_equal(sampler.collect(weights, 2)["obs"], again["obs"])
        sampler.close()
        sampler.close()
    whole, halves = fragments
    for name in ("obs", "actions", "reward", "terminated", "truncated", "valid"):
        np.testing.assert_array_equal(halves[name], whole[name], err_msg=name)
    # A net asked for fewer rows at a time rounds otherwise.
    for name in ("logp", "value", "next_value"):
        np.testing.assert_allclose(halves[name], whole[name], rtol=1e-4, atol=1e-5, err_msg=name)
    order = np.lexsort(halves["final_index"].T[::-1])
    np.testing.assert_array_equal(halves["final_index"][order], whole["final_index"])
    np.testing.assert_array_equal(halves["final_obs"][order], whole["final_obs"])
    np.testing.assert_array_equal(halves["episode_return"][order], whole["episode_return"])


class Gated(CartPoleEnv):
    """Steps when the file in ROSTRAL_TEST_GATE is there."""

    def step(self, action: Any) -> Any:
        while not Path(os.environ["ROSTRAL_TEST_GATE"]).exists():
            time.sleep(0.01)
        return super().step(action)  # type: ignore[no-untyped-call]


def test_the_other_half_can_act_while_one_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv("ROSTRAL_TEST_GATE", str(gate))
    halves = SharedVector.halves(SharedSource(Gated, processes=2), [1, 2, 3, 4])
    slabs = [slab_of(half) for half in halves]
    for half, slab in zip(halves, slabs, strict=True):
        half.reset(slab.obs[0])
    for half, slab in zip(halves, slabs, strict=True):
        half.begin(slab, 0)  # Would never return if it waited for the step.
    gate.touch()
    for half, slab in zip(halves, slabs, strict=True):
        assert half.finish(slab, 0) is None
        assert (slab.obs[1] != slab.obs[0]).any()
    halves[0].close()


class Breaks(CartPoleEnv):
    """Has no lever for choice 1."""

    def step(self, action: Any) -> Any:
        if action == 1:
            raise KeyError("no such lever")
        return super().step(action)  # type: ignore[no-untyped-call]


def test_a_half_that_fails_leaves_nothing_behind() -> None:
    halves = SharedVector.halves(SharedSource(Breaks, processes=2), [1, 2, 3, 4])
    slabs = [slab_of(half) for half in halves]
    for half, slab in zip(halves, slabs, strict=True):
        half.reset(slab.obs[0])
    slabs[0].actions[0] = 1
    halves[0].begin(slabs[0], 0)
    halves[1].begin(slabs[1], 0)
    with pytest.raises(SimulationError, match="no such lever"):
        halves[0].finish(slabs[0], 0)
    # Nobody has asked how the other half's step went; the next answers are those of the resets.
    for half, slab in zip(halves, slabs, strict=True):
        half.reset(slab.obs[0])
    slabs[0].actions[0] = 0
    for half, slab in zip(halves, slabs, strict=True):
        assert half.step(slab, 0) is None
    assert len(halves[1].states()) == 2
    halves[1].close()


def test_training_is_the_same() -> None:
    given: dict[str, Any] = {"envs": 4, "steps": 16, "minibatch": 32, "epochs": 1}
    runs = [
        rl.train("ppo", env, total_steps=256, seed=2, **given)
        for env in (cart_pole, rl.SharedSource(cart_pole, processes=2))
    ]
    for name, array in runs[0].policy.weights.items():
        np.testing.assert_allclose(
            runs[1].policy.weights[name], array, rtol=1e-3, atol=1e-5, err_msg=name
        )


def test_no_process_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="processes must be >= 1"):
        SharedSource("CartPole-v1", processes=0)
