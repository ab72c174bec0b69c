"""`deadline_s` of actors' calls: one that is late never begins, or is cancelled as by `cancel`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.exceptions import TaskCancelledError, TaskDeadlineExceededError

from .cancelling import append, lines, results
from .waiting import until

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

# Short against what the calls would take, and long against what the machine needs to begin one.
DEADLINE_S = 0.5
TIMEOUT_S = 10.0


@pytest.fixture(autouse=True)
def nothing_left(cluster: rostral.Context) -> Iterator[None]:
    """Whatever was late, no object of it may stay."""
    before = results()
    yield
    until(lambda: not results() - before, "the end of the test's objects")


class Sleeper:
    def __init__(self, marks: Path) -> None:
        self.marks = marks

    def sleep(self, name: str, seconds: float = 60.0) -> str:
        append(self.marks, name)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and not rostral.is_cancelled():
            time.sleep(0.01)
        append(self.marks, f"{name}-ended")
        return name

    @rostral.method(deadline_s=DEADLINE_S)
    def hurry(self, name: str, seconds: float = 60.0) -> str:
        return self.sleep(name, seconds)

    @rostral.method(deadline_s=DEADLINE_S)
    def items(self) -> Iterator[int]:
        yield 1
        self.sleep("items")
        yield 2


class AsyncSleeper(Sleeper):
    async def sleep(self, name: str, seconds: float = 60.0) -> str:  # type: ignore[override]
        append(self.marks, name)
        try:
            await asyncio.sleep(seconds)
        finally:
            append(self.marks, f"{name}-ended")
        return name

    @rostral.method(deadline_s=DEADLINE_S)
    async def hurry(self, name: str, seconds: float = 60.0) -> str:  # type: ignore[override]
        return await self.sleep(name, seconds)


KINDS = pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Sleeper, {}),
        (Sleeper, {"max_restarts": 1}),
        (Sleeper, {"max_concurrency": 2}),
        (AsyncSleeper, {"max_concurrency": 2}),
    ],
    ids=["plain", "restartable", "threaded", "async"],
)


def make(cls: Any, options: dict[str, Any], marks: Path) -> Any:
    actor: Any = rostral.remote(cls).options(**options).remote(marks)
    rostral.get(actor.__ray_ready__.remote(), timeout=TIMEOUT_S)
    return actor


def expect_late(ref: Any) -> None:
    with pytest.raises(TaskDeadlineExceededError, match="deadline") as raised:
        rostral.get(ref, timeout=TIMEOUT_S)
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value, TaskCancelledError)
    assert raised.value.task_id == ref.task_id().binary()


@KINDS
def test_a_call_that_is_done_in_time_has_its_result(
    cls: Any, options: dict[str, Any], marks: Path
) -> None:
    actor = make(cls, options, marks)
    assert rostral.get(actor.hurry.remote("a", 0.0), timeout=TIMEOUT_S) == "a"
    longer = actor.hurry.options(deadline_s=30)
    assert rostral.get(longer.remote("b", DEADLINE_S * 1.5), timeout=TIMEOUT_S) == "b"


@KINDS
def test_a_call_that_runs_past_its_deadline_is_cancelled(
    cls: Any, options: dict[str, Any], marks: Path
) -> None:
    actor = make(cls, options, marks)
    began_s = time.monotonic()
    ref = actor.hurry.remote("late")
    other = actor.sleep.options(deadline_s=2 * DEADLINE_S).remote("later")
    expect_late(ref)
    assert time.monotonic() - began_s >= DEADLINE_S
    expect_late(other)
    assert rostral.get(actor.sleep.remote("next", 0.0), timeout=TIMEOUT_S) == "next"


@KINDS
def test_a_call_that_is_queued_past_its_deadline_never_runs(
    cls: Any, options: dict[str, Any], marks: Path
) -> None:
    actor = make(cls, options, marks)
    running = [actor.sleep.remote("running", 4 * DEADLINE_S) for _ in range(2)]
    until(lambda: "running" in lines(marks), "a call that runs")
    for _ in range(3):
        expect_late(actor.hurry.remote("late"))
    assert rostral.get(running, timeout=TIMEOUT_S) == ["running"] * 2
    assert rostral.get(actor.sleep.remote("next", 0.0), timeout=TIMEOUT_S) == "next"
    assert "late" not in lines(marks)


def test_a_call_whose_input_comes_too_late_never_runs(marks: Path) -> None:
    actor = make(Sleeper, {}, marks)
    slow = make(Sleeper, {}, marks).sleep.remote("slow", 2 * DEADLINE_S)
    expect_late(actor.hurry.remote(slow, 0.0))
    assert rostral.get(slow, timeout=TIMEOUT_S) == "slow"
    assert rostral.get(actor.sleep.remote("next", 0.0), timeout=TIMEOUT_S) == "next"
    assert lines(marks).count("slow") == 1


def test_a_stream_that_is_not_done_in_time_ends_with_that(marks: Path) -> None:
    actor = make(Sleeper, {"max_concurrency": 2}, marks)
    generator = actor.items.remote()
    assert rostral.get(next(generator), timeout=TIMEOUT_S) == 1
    with pytest.raises(TaskDeadlineExceededError):
        rostral.get(generator.completed(), timeout=TIMEOUT_S)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)]
)
def test_a_wrong_deadline_of_a_method_is_refused(
    value: Any, error: type[Exception], marks: Path
) -> None:
    with pytest.raises(error, match="deadline_s"):
        rostral.method(deadline_s=value)
    with pytest.raises(error, match="deadline_s"):
        make(Sleeper, {}, marks).sleep.options(deadline_s=value)
