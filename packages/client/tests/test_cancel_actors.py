"""`cancel` of actors' calls: what may be done to a call, and never to its actor."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.exceptions import GetTimeoutError

from .cancelling import actor_of, append, begin, cancelled, lines, sleeper
from .waiting import until

pytestmark = pytest.mark.usefixtures("cluster")

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@rostral.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count

    def sleep(self, marks: Path, seconds: float = 60.0) -> int:
        append(marks, os.getpid())
        end = time.monotonic() + seconds
        while time.monotonic() < end and not rostral.is_cancelled():
            time.sleep(0.01)
        return self.add()

    def deaf(self, marks: Path) -> None:
        append(marks, os.getpid())
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                append(marks, "interrupted")


def test_a_call_of_an_actor_is_flagged_and_its_result_not_kept(marks: Path) -> None:
    actor = actor_of(Counter).remote()
    running, queued = actor.sleep.remote(marks), actor.add.remote()
    begin(marks, running)
    with pytest.raises(ValueError, match=r"rostral\.kill"):
        rostral.cancel(running, force=True)
    assert rostral.cancel(queued)
    assert rostral.cancel(running, grace_s=0.1)
    for ref in (running, queued):
        with cancelled():
            rostral.get(ref, timeout=5)
    assert rostral.get(actor.add.remote()) == 2, "the first add was the cancelled call's"


def test_an_actor_that_may_restart_is_interrupted_and_killed_after_the_grace(marks: Path) -> None:
    actor = actor_of(Counter).options(max_restarts=1, max_task_retries=1).remote()
    ref = begin(marks, actor.deaf.remote(marks))
    assert rostral.get(actor_of(Counter).remote().add.remote()) == 1
    rostral.cancel(ref, grace_s=0.2)
    with cancelled():
        rostral.get(ref, timeout=5)
    assert lines(marks)[1:] == ["interrupted"]
    assert rostral.get(actor.add.remote(), timeout=5) == 1, "it began anew"


def test_an_actor_that_may_restart_lives_if_its_call_ends_in_time(marks: Path) -> None:
    @rostral.remote(max_restarts=1)
    class Sleeper:
        def sleep(self, marks: Path) -> None:
            append(marks, os.getpid())
            time.sleep(60)

        def pid(self) -> int:
            return os.getpid()

    actor = actor_of(Sleeper).remote()
    ref = begin(marks, actor.sleep.remote(marks))
    rostral.cancel(ref)
    with cancelled():
        rostral.get(ref, timeout=5)
    assert rostral.get(actor.pid.remote()) == int(lines(marks)[0])


def test_an_async_actors_call_is_cancelled_in_its_loop(marks: Path) -> None:
    @rostral.remote
    class Async:
        async def sleep(self, marks: Path) -> None:
            append(marks, "began")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                append(marks, "cancelled")
                raise

        async def probe(self) -> str:
            try:
                rostral.is_cancelled()
            except RuntimeError as error:
                return str(error)
            return ""

    actor = actor_of(Async).remote()
    ref, other = actor.sleep.remote(marks), actor.sleep.remote(marks)
    until(lambda: len(lines(marks)) == 2, "both calls")
    rostral.cancel(ref)
    with cancelled():
        rostral.get(ref, timeout=5)
    assert lines(marks) == ["began", "began", "cancelled"]
    assert "coroutine" in rostral.get(actor.probe.remote())
    rostral.cancel(other)
    with cancelled():
        rostral.get(other, timeout=5)


def test_a_threaded_actors_call_is_flagged(marks: Path) -> None:
    actor = actor_of(Counter).options(max_concurrency=2, max_restarts=1).remote()
    ref = begin(marks, actor.sleep.remote(marks))
    rostral.cancel(ref, grace_s=0.0)
    with cancelled():
        rostral.get(ref, timeout=5)
    assert rostral.get(actor.add.remote()) == 2


def test_a_call_that_waits_for_its_input_is_ended_before_it(marks: Path) -> None:
    @rostral.remote
    class Taker:
        def take(self, value: Any) -> Any:
            return value

    slow = begin(marks, sleeper.remote(marks))
    actor = actor_of(Taker).remote()
    assert rostral.get(actor.take.remote(1)) == 1
    parked, behind = actor.take.remote(slow), actor.take.remote("behind")
    with pytest.raises(GetTimeoutError):
        rostral.get(behind, timeout=0.1)
    rostral.cancel(parked)
    with cancelled():
        rostral.get(parked, timeout=5)
    assert rostral.get(behind, timeout=5) == "behind"
    rostral.cancel(slow)


def test_calls_of_an_actor_are_reached_as_children(marks: Path) -> None:
    actor = actor_of(Counter).remote()

    @rostral.remote
    def parent(actor: Any, marks: Path) -> None:
        rostral.get(actor.sleep.remote(marks))

    ref = begin(marks, parent.remote(actor, marks))
    rostral.cancel(ref, force=True)
    with cancelled():
        rostral.get(ref, timeout=5)
    assert rostral.get(actor.add.remote(), timeout=5) == 2, "it was flagged, and not killed"
