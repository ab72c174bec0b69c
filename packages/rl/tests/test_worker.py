"""Rollout actors on a fake engine: who holds which environments, and what a death changes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rostral_rl import forward
from rostral_rl.errors import InvalidSettingError, RLError, WorkersLostError
from rostral_rl.simulate import crew
from rostral_rl.simulate.crew import RESTARTS_MAX, split
from rostral_rl.simulate.fragment import join
from rostral_rl.simulate.worker import ActorRollouts, InlineRollouts, Layout
from rostral_rl.train.parts.nets import ActorCritic

SPEC = forward.NetSpec(inputs=4, hidden=(8,), outputs=2, activation="tanh", head="categorical")
LAYOUT = Layout(env="CartPole-v1", envs=5, horizon=30, spec=SPEC, seed=3)
WEIGHTS = ActorCritic(SPEC, log_std=0.0, seed=0).weights()


class ActorDiedError(RLError):
    """What the fake raises for a dead actor."""


class TaskError(RLError):
    """What the fake raises for a call that raised."""

    cause: Exception | None = None


class FakeEngine:
    """The part of the engine's public face that rollouts use, in this process.

    Args:
        cpus: Size of the cluster.
        dies: Says of the n-th call of `collect`, from 0, whether its actor dies in it.
    """

    exceptions = SimpleNamespace(
        ActorDiedError=ActorDiedError, TaskError=TaskError, GetTimeoutError=TimeoutError
    )

    def __init__(self, *, cpus: float = 4.0, dies: Callable[[int], bool] = lambda call: False):
        self.cpus = cpus
        self.dies = dies
        self.calls = 0
        self.started: list[tuple[Any, ...]] = []
        self.killed = 0
        self.running = False
        self.puts = 0

    def is_initialized(self) -> bool:
        return self.running

    def init(self, *address: str, num_cpus: int | None = None) -> None:
        self.running = True

    def shutdown(self) -> None:
        self.running = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus}

    def put(self, value: Any) -> Any:
        self.puts += 1
        return value

    def kill(self, actor: Any) -> None:
        self.killed += 1

    def remote(self, kind: type) -> Any:
        def start(*arguments: Any) -> Any:
            self.started.append(arguments[1:])
            actor = kind(*arguments)

            def collect(*given: Any) -> Callable[[], Any]:
                call, self.calls = self.calls, self.calls + 1

                def result() -> Any:
                    if self.dies(call):
                        raise ActorDiedError(f"call {call}")
                    return actor.collect(*given)

                return result

            return SimpleNamespace(collect=SimpleNamespace(remote=collect))

        return SimpleNamespace(options=lambda **kw: SimpleNamespace(remote=start))

    def get(self, result: Callable[[], Any], *, timeout: float) -> Any:
        return result()


def rollouts_on(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, workers: int) -> ActorRollouts:
    monkeypatch.setattr(crew, "engine", lambda: engine)
    return ActorRollouts(LAYOUT, workers=workers)


@pytest.mark.parametrize(
    ("envs", "workers", "parts"),
    [
        (8, 1, [(0, 8)]),
        (8, 3, [(0, 3), (3, 3), (6, 2)]),
        (3, 3, [(0, 1), (1, 1), (2, 1)]),
    ],
)
def test_environments_are_divided_evenly(
    envs: int, workers: int, parts: list[tuple[int, int]]
) -> None:
    assert split(envs, workers) == parts


def test_actors_together_play_what_one_process_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    rollouts = rollouts_on(engine, monkeypatch, 3)
    inline = InlineRollouts(LAYOUT)
    for version in range(3):
        ours = join(rollouts.collect(WEIGHTS, version))
        reference = inline.collect(WEIGHTS, version)[0]
        np.testing.assert_array_equal(ours["obs"], reference["obs"])
        np.testing.assert_array_equal(ours["actions"], reference["actions"])
    assert engine.puts == 3, "one object of weights an update, however many workers"


def test_what_was_begun_is_collected_unless_the_weights_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = FakeEngine()
    rollouts = rollouts_on(engine, monkeypatch, 2)
    rollouts.begin(WEIGHTS, 4)
    assert [int(f["version"]) for f in rollouts.collect(WEIGHTS, 4)] == [4, 4]
    assert engine.puts == 1
    rollouts.begin(WEIGHTS, 5)
    assert [int(f["version"]) for f in rollouts.collect(WEIGHTS, 6)] == [6, 6]
    assert engine.puts == 3


def test_a_cluster_of_our_own_is_stopped_and_a_given_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = FakeEngine()
    rollouts = rollouts_on(own, monkeypatch, 2)
    rollouts.close()
    rollouts.close()
    assert (own.running, own.killed) == (False, 2)

    given = FakeEngine()
    given.init()
    rollouts_on(given, monkeypatch, 2).close()
    assert (given.running, given.killed) == (True, 2)


def test_a_dead_actor_is_replaced_with_fresh_episodes_in_its_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = FakeEngine(dies=lambda call: call == 2)
    rollouts = rollouts_on(engine, monkeypatch, 2)
    first = rollouts.collect(WEIGHTS, 0)
    second = rollouts.collect(WEIGHTS, 1)
    assert rollouts.restarts == 1
    # (first environment, how many, life) of each actor started.
    assert engine.started == [(0, 3, 0), (3, 2, 0), (0, 3, 1)]
    assert not np.array_equal(second[0]["obs"][0], first[0]["obs"][0]), "other episodes, not again"
    np.testing.assert_array_equal(second[1]["obs"][0], first[1]["obs"][-1])


def test_actors_that_keep_dying_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(dies=lambda call: True)
    rollouts = rollouts_on(engine, monkeypatch, 1)
    with pytest.raises(WorkersLostError, match="environments 0 to 4"):
        rollouts.collect(WEIGHTS, 0)
    assert len(engine.started) == 1 + RESTARTS_MAX


@pytest.mark.parametrize(("workers", "said"), [(6, "cannot share 5"), (3, "the cluster has 2")])
def test_more_workers_than_can_run_is_refused_and_leaves_nothing(
    workers: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(cpus=2.0)
    with pytest.raises(InvalidSettingError, match=said):
        rollouts_on(engine, monkeypatch, workers)
    assert not engine.running
    assert not engine.started
