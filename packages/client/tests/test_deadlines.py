"""`deadline_s`: a task that is not done in time never runs, or is made to end, and says why."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.exceptions import TaskCancelledError, TaskDeadlineExceededError, TaskError

from .cancelling import append, lines, results, sleeper
from .waiting import until

# Short against what the tasks would take, and long against what the machine needs to begin one.
DEADLINE_S = 0.5

late = functools.partial(pytest.raises, TaskDeadlineExceededError)


@pytest.fixture(autouse=True)
def nothing_left(cluster: rostral.Context) -> Iterator[None]:
    """Whatever was late, no object of it may stay."""
    before = results()
    yield
    until(lambda: not results() - before, "the end of the test's objects")


@rostral.remote(max_retries=5)
def busy(marks: Path) -> None:
    append(marks, "began")
    while True:
        pass


def test_one_that_is_done_in_time_has_its_result(marks: Path) -> None:
    quick = sleeper.options(deadline_s=30)
    assert rostral.get([quick.remote(marks, i, 0.0) for i in "abc"]) == ["a", "b", "c"]


def test_one_that_is_queued_past_its_deadline_never_runs(marks: Path) -> None:
    running = [sleeper.remote(marks, "running") for _ in range(2)]
    until(lambda: len(lines(marks)) == 2, "two tasks that run")
    queued = [sleeper.options(deadline_s=DEADLINE_S).remote(marks, "late") for _ in range(5)]
    for ref in queued:
        with late(match="deadline") as raised:
            rostral.get(ref, timeout=10)
        assert isinstance(raised.value, TimeoutError)
        assert isinstance(raised.value, TaskCancelledError)
        assert raised.value.task_id == ref.task_id().binary()
    for ref in running:
        rostral.cancel(ref)
    rostral.wait(running, num_returns=2)
    assert rostral.get(sleeper.remote(marks, "next", 0.0)) == "next"
    assert "late" not in lines(marks)


def test_one_whose_inputs_come_too_late_never_runs(marks: Path) -> None:
    @rostral.remote(deadline_s=DEADLINE_S)
    def needs(value: Any) -> None:
        append(marks, "ran")

    slow = sleeper.remote(marks)
    waiting = needs.remote(slow)
    with late():
        rostral.get(waiting, timeout=10)
    rostral.cancel(slow)
    rostral.wait([slow])
    assert "ran" not in lines(marks)


@pytest.mark.parametrize("function", [sleeper, busy])
def test_one_that_runs_past_it_is_interrupted_and_not_tried_again(
    marks: Path, function: Any
) -> None:
    began_s = time.monotonic()
    ref = function.options(deadline_s=DEADLINE_S).remote(marks)
    with late():
        rostral.get(ref, timeout=10)
    assert time.monotonic() - began_s >= DEADLINE_S
    assert lines(marks) == ["began"]


def test_a_coroutine_that_runs_past_it_is_cancelled(marks: Path) -> None:
    import asyncio

    @rostral.remote(deadline_s=DEADLINE_S)
    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            append(marks, "cancelled")
            raise

    with late():
        rostral.get(slow.remote(), timeout=10)
    assert lines(marks) == ["cancelled"]


def test_its_children_are_cancelled_with_it(marks: Path) -> None:
    @rostral.remote(deadline_s=DEADLINE_S)
    def parent() -> None:
        rostral.get(sleeper.remote(marks, "child"))

    with late():
        rostral.get(parent.remote(), timeout=10)
    assert rostral.get(sleeper.remote(marks, "next", 0.0)) == "next"
    assert lines(marks) == ["child", "next", "slept"]


def test_what_needs_its_result_fails_with_the_same(marks: Path) -> None:
    @rostral.remote
    def needs(value: Any) -> None: ...

    after = needs.remote(sleeper.options(deadline_s=DEADLINE_S).remote(marks))
    with pytest.raises((TaskDeadlineExceededError, TaskError)):
        rostral.get(after, timeout=10)


def test_many_deadlines_each_at_its_time(marks: Path) -> None:
    began_s = time.monotonic()
    refs = [sleeper.options(deadline_s=0.1 * i).remote(marks) for i in range(10, 0, -1)]
    ends_s = []
    for ref in reversed(refs):
        with late():
            rostral.get(ref, timeout=10)
        ends_s.append(time.monotonic() - began_s)
    assert all(end_s >= 0.1 * i for i, end_s in enumerate(ends_s, 1)), ends_s


def test_the_deadline_of_a_task_whose_submitter_is_dead_is_kept(marks: Path) -> None:
    @rostral.remote(max_retries=0)
    def dies() -> None:
        sleeper.options(deadline_s=DEADLINE_S).remote(marks, "child")
        until_began = time.monotonic() + 10
        while "child" not in marks.read_text() and time.monotonic() < until_began:
            time.sleep(0.01)
        os._exit(1)

    @rostral.remote(num_cpus=2)
    def whole_node() -> str:
        return "free"

    with pytest.raises(rostral.exceptions.WorkerCrashedError):
        rostral.get(dies.remote())
    assert rostral.get(whole_node.remote(), timeout=20) == "free"
    assert lines(marks) == ["child"]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (1e12, ValueError),
        ("1", TypeError),
        (True, TypeError),
    ],
)
def test_a_wrong_deadline_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="deadline_s"):
        rostral.remote(deadline_s=value)
    with pytest.raises(error, match="deadline_s"):
        sleeper.options(deadline_s=value)
