"""Rollouts, trainings and deaths on a real cluster: one node of two CPUs for this file."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

import rostral
import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import InvalidSettingError, SimulationError, WorkersLostError
from rostral_rl.simulate.crew import RESTARTS_MAX
from rostral_rl.simulate.fragment import Fragment, join
from rostral_rl.simulate.worker import ActorRollouts, InlineRollouts, Layout
from rostral_rl.train.parts.nets import ActorCritic

SPEC = forward.NetSpec(inputs=4, hidden=(8,), outputs=2, activation="tanh", head="categorical")
WEIGHTS = ActorCritic(SPEC, log_std=0.0, seed=0).weights()
SMALL: dict[str, Any] = {"envs": 4, "steps": 32, "minibatch": 64, "epochs": 2}
DRIVER = os.getpid()

EXACT = ("obs", "actions", "reward", "terminated", "truncated")
ROUNDED = ("logp", "value", "next_value")
"""What the critic says of a batch may differ in the last bit with the size of the batch."""
IN_PLACE_BYTES_MIN = 512
"""Shorter columns come inside the pickle."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with rostral.init("local", num_cpus=2):
        yield


def layout(env: Any = "CartPole-v1", *, horizon: int = 100) -> Layout:
    return Layout(env=env, envs=5, horizon=horizon, spec=SPEC, seed=3)


def gym_cart_pole() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1")


def arrays(fragment: Fragment) -> dict[str, SpaceArray]:
    return cast("dict[str, SpaceArray]", fragment)


def pids(rollouts: Any) -> list[int]:
    actors = [seat.actor for seat in rollouts._crew.seats]
    found: list[int] = rostral.get(
        [actor.__ray_call__.remote(lambda self: os.getpid()) for actor in actors]
    )
    return found


def same(fragment: Fragment, of_one_process: Fragment) -> None:
    ours, reference = arrays(fragment), arrays(of_one_process)
    for name in EXACT:
        np.testing.assert_array_equal(ours[name], reference[name], err_msg=name)
    for name in ROUNDED:
        np.testing.assert_allclose(ours[name], reference[name], rtol=1e-5, atol=1e-6, err_msg=name)
    # Episodes that ended: one worker after the other here, in the order of time there.
    assert sorted(map(tuple, ours["final_index"].tolist())) == sorted(
        map(tuple, reference["final_index"].tolist())
    )
    assert sorted(ours["episode_return"].tolist()) == sorted(reference["episode_return"].tolist())


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("env", ["CartPole-v1", gym_cart_pole], ids=["arrays", "gymnasium"])
def test_actors_play_what_one_process_plays(workers: int, env: Any) -> None:
    rollouts = ActorRollouts(layout(env), workers=workers)
    inline = InlineRollouts(layout(env))
    try:
        for version in range(3):
            fragments = rollouts.collect(WEIGHTS, version)
            assert [int(f["version"]) for f in fragments] == [version] * workers
            same(join(fragments), inline.collect(WEIGHTS, version)[0])
    finally:
        rollouts.close()
        inline.close()


def test_fragments_are_read_where_the_actor_sealed_them() -> None:
    rollouts = ActorRollouts(layout(), workers=2)
    try:
        for fragment in rollouts.collect(WEIGHTS, 0):
            for name in (*EXACT, *ROUNDED):
                array = arrays(fragment)[name]
                if array.nbytes < IN_PLACE_BYTES_MIN:
                    continue
                assert not array.flags.owndata, f"{name} is a view"
                with pytest.raises(ValueError, match="read-only"):
                    array[...] = 0
        # Played on, with the first fragments gone.
        assert join(rollouts.collect(WEIGHTS, 1))["obs"].flags.writeable, "what learning gets"
    finally:
        rollouts.close()


def test_actors_play_on_while_the_driver_does_something_else() -> None:
    rollouts = ActorRollouts(layout(), workers=2)
    try:
        rollouts.begin(WEIGHTS, 7)
        assert rollouts._round is not None
        calls = rollouts._round.calls
        assert rostral.wait(calls, num_returns=2, timeout=30)[1] == []
        assert [int(f["version"]) for f in rollouts.collect(WEIGHTS, 7)] == [7, 7]
    finally:
        rollouts.close()


def test_training_on_actors_is_training_in_one_process() -> None:
    runs = [
        rl.train("ppo", "CartPole-v1", total_steps=512, seed=5, workers=workers, **SMALL)
        for workers in (0, 2)
    ]
    assert runs[0].env_steps == runs[1].env_steps == 512
    for alone, together in zip(runs[0].history, runs[1].history, strict=True):
        assert alone["return_mean"] == pytest.approx(together["return_mean"], nan_ok=True)
    for name, array in runs[0].policy.weights.items():
        np.testing.assert_allclose(runs[1].policy.weights[name], array, atol=1e-4, err_msg=name)


def test_training_on_actors_learns_and_what_it_learned_is_served() -> None:
    run = rl.train("ppo", "CartPole-v1", total_steps=100_000, seed=1, workers=2, stop_at=475.0)
    assert run.evaluate(episodes=100, seed=77).mean >= 475.0
    assert run.restarts == 0
    obs = np.random.default_rng(0).uniform(-0.2, 0.2, (16, 4)).astype(np.float32)
    with rl.serve(run.policy, http=0) as server, rl.PolicyClient(server.url) as client:
        np.testing.assert_array_equal(client.act(obs), run.policy(obs))
        assert client.version == run.policy.info.version == run.history[-1]["update"]


@pytest.mark.parametrize("when", ["idle", "playing"])
def test_training_outlives_a_killed_actor(when: str) -> None:
    settings = rl.PPO(**{**SMALL, "steps": 512})
    with settings.build("CartPole-v1", total_steps=8 * 2048, seed=2, workers=2) as trainer:
        rollouts: Any = cast("Any", trainer)._rollouts
        for iteration in trainer:
            if iteration.update == 3:
                victim = pids(rollouts)[0]
                if when == "playing":
                    rollouts.begin(trainer.weights, trainer.update)
                os.kill(victim, signal.SIGKILL)
        assert iteration.update == trainer.updates == 8
        assert iteration.env_steps == 8 * 2048
        assert iteration.metrics["restarts"] == 1
        assert victim not in pids(rollouts)


def test_actors_that_keep_dying_end_the_training() -> None:
    class Deadly(CartPoleEnv):
        def step(self, action: Any) -> Any:
            os._exit(3)

    with pytest.raises(WorkersLostError, match=f"died {RESTARTS_MAX + 1} times"):
        rl.train("ppo", Deadly, total_steps=256, workers=1, **SMALL)


def test_what_an_environment_raises_in_an_actor_is_a_simulation_error() -> None:
    class Broken(CartPoleEnv):
        def step(self, action: Any) -> Any:
            raise KeyError("no such lever")

    class Unmakable(CartPoleEnv):
        def __init__(self) -> None:
            if os.getpid() != DRIVER:
                raise RuntimeError("the licence is for one process")
            super().__init__()

    with pytest.raises(SimulationError, match="no such lever"):
        rl.train("ppo", Broken, total_steps=256, workers=2, **SMALL)
    with pytest.raises(SimulationError, match="the licence is for one process"):
        rl.train("ppo", Unmakable, total_steps=256, workers=2, **SMALL)


def test_a_factory_that_cannot_travel_is_refused() -> None:
    lock = threading.Lock()

    def make() -> Any:
        with lock:
            return CartPoleEnv()

    with pytest.raises(InvalidSettingError, match="cannot be sent to actors"):
        rl.train("ppo", make, total_steps=256, workers=2, **SMALL)


def test_more_workers_than_cpus_or_a_second_cluster_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="the cluster has 2"):
        rl.train("ppo", "CartPole-v1", total_steps=256, workers=3, **SMALL)
    with pytest.raises(InvalidSettingError, match="in a cluster already"):
        rl.train("ppo", "CartPole-v1", workers=2, address="127.0.0.1:1", **SMALL)
    assert rostral.is_initialized(), "a cluster that is not ours is left alone"
