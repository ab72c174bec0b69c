"""`priority=`: which of the tasks that are ready begins next."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.exceptions import LimitReachedError, TaskCancelledError, UnsupportedOptionError
from rostral.options import PRIORITY_MAX

from .cancelling import append, lines
from .waiting import until

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def one_cpu(leaves_nothing: str) -> Iterator[rostral.Context]:
    """A node on which one task runs at a time, so that the order is seen."""
    with rostral.init("local", num_cpus=1, object_store_memory=128 << 20) as context:
        yield context


@rostral.remote
def note(marks: Path, line: object, *_: Any) -> None:
    append(marks, line)


@rostral.remote
def block(marks: Path, gate: Path) -> None:
    """Keeps the one CPU busy until the gate is open."""
    append(marks, "blocked")
    while not gate.exists():
        time.sleep(0.005)


class Gate:
    """Keeps all else queued; then lets it run, and tells in which order it did."""

    def __init__(self, marks: Path) -> None:
        self.marks, self._gate = marks, marks.with_name("gate")
        self._blocker = block.remote(marks, self._gate)
        until(lambda: lines(marks) == ["blocked"], "the blocker")

    def order(self, refs: list[rostral.ObjectRef[Any]]) -> list[str]:
        """Opens; returns what the tasks noted."""
        self._gate.touch()
        rostral.get([self._blocker, *refs], timeout=60)
        return lines(self.marks)[1:]


def test_higher_priorities_begin_first_and_equal_ones_in_order_of_submission(
    one_cpu: rostral.Context, marks: Path
) -> None:
    gate = Gate(marks)
    priorities = [random.Random(7).randint(-2, 2) for _ in range(60)]
    refs = [
        note.options(priority=priority).remote(marks, f"{priority}:{number}")
        for number, priority in enumerate(priorities)
    ]
    numbered = sorted(enumerate(priorities), key=lambda pair: -pair[1])
    assert gate.order(refs) == [f"{priority}:{number}" for number, priority in numbered]


def test_a_priority_is_said_where_the_function_is_made_remote(
    one_cpu: rostral.Context, marks: Path
) -> None:
    @rostral.remote(priority=3)
    def urgent() -> None:
        append(marks, "urgent")

    gate = Gate(marks)
    refs = [note.remote(marks, "usual"), urgent.remote(), urgent.options(priority=0).remote()]
    assert gate.order(refs) == ["urgent", "usual", "urgent"]


def test_a_task_whose_input_comes_late_is_queued_by_its_priority(
    one_cpu: rostral.Context, marks: Path
) -> None:
    gate = Gate(marks)
    first = note.options(priority=9).remote(marks, "input")
    refs = [note.remote(marks, "usual"), note.options(priority=5).remote(marks, "late", first)]
    assert gate.order([first, *refs]) == ["input", "late", "usual"]


def test_generators_and_coroutine_tasks_have_priorities(
    one_cpu: rostral.Context, marks: Path
) -> None:
    @rostral.remote(priority=1)
    def count() -> Iterator[int]:
        append(marks, "generator")
        yield from range(3)

    @rostral.remote(priority=2)
    async def coroutine() -> None:
        append(marks, "coroutine")

    gate = Gate(marks)
    usual, stream, awaited = note.remote(marks, "usual"), count.remote(), coroutine.remote()
    assert gate.order([usual, awaited]) == ["coroutine", "generator", "usual"]
    assert rostral.get(list(stream)) == [0, 1, 2]


def test_a_task_that_runs_again_after_a_death_keeps_its_priority(
    one_cpu: rostral.Context, marks: Path
) -> None:
    @rostral.remote(priority=1, max_retries=1)
    def dies_once() -> None:
        append(marks, "tried")
        if lines(marks).count("tried") == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    gate = Gate(marks)
    refs = [*(note.remote(marks, "usual") for _ in range(3)), dies_once.remote()]
    order = gate.order(refs)
    assert order[:1] == ["tried"]
    assert sorted(order[1:]) == ["tried", *["usual"] * 3]


def test_a_queued_task_of_any_priority_is_cancelled(one_cpu: rostral.Context, marks: Path) -> None:
    gate = Gate(marks)
    cancelled = [note.options(priority=p).remote(marks, "cancelled") for p in (-1, 1)]
    kept = note.options(priority=1).remote(marks, "kept")
    for ref in cancelled:
        rostral.cancel(ref)
    assert gate.order([kept]) == ["kept"]
    for ref in cancelled:
        with pytest.raises(TaskCancelledError):
            rostral.get(ref)


def test_what_an_urgent_task_waits_for_is_as_urgent(one_cpu: rostral.Context, marks: Path) -> None:
    """Its child, which says nothing, comes before tasks of a priority between the two."""

    @rostral.remote(priority=5)
    def parent() -> None:
        rostral.get([note.remote(marks, "child"), note.options(priority=-9).remote(marks, "child")])
        append(marks, "parent")

    gate = Gate(marks)
    refs = [note.remote(marks, "usual"), note.options(priority=4).remote(marks, "between")]
    assert gate.order([*refs, parent.remote()]) == ["child", "child", "parent", "between", "usual"]


def test_a_child_may_be_more_urgent_than_its_parent(one_cpu: rostral.Context, marks: Path) -> None:
    @rostral.remote
    def parent() -> None:
        refs = [note.remote(marks, "usual"), note.options(priority=1).remote(marks, "urgent")]
        append(marks, "parent")
        rostral.get(refs)

    assert rostral.get(parent.remote(), timeout=30) is None
    assert lines(marks) == ["parent", "urgent", "usual"]


def test_among_shapes_the_higher_priority_is_served_first(
    one_cpu: rostral.Context, marks: Path
) -> None:
    gate = Gate(marks)
    refs = [
        *(note.options(num_cpus=0.9).remote(marks, "usual") for _ in range(5)),
        *(note.options(num_cpus=0.8, priority=1).remote(marks, "urgent") for _ in range(5)),
    ]
    assert gate.order(refs) == [*["urgent"] * 5, *["usual"] * 5]


def test_too_many_priorities_are_refused_and_those_there_are_go_on(
    one_cpu: rostral.Context, marks: Path
) -> None:
    taken = []
    with pytest.raises(LimitReachedError, match="priorities"):
        for priority in range(100):
            taken.append(note.options(priority=priority).remote(marks, priority))
    assert len(taken) > 30
    assert rostral.get(note.options(priority=5).remote(marks, "more"), timeout=30) is None
    rostral.get(taken, timeout=30)


def test_a_worker_killed_at_random_loses_no_task_of_any_priority(
    one_cpu: rostral.Context, marks: Path
) -> None:
    @rostral.remote(max_retries=-1)
    def fragile(number: int) -> int:
        if random.random() < 0.2:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    refs = [fragile.options(priority=number % 5 - 2).remote(number) for number in range(100)]
    assert rostral.get(refs, timeout=60) == list(range(100))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("high", TypeError),
        (1.0, TypeError),
        (True, TypeError),
        (None, TypeError),
        (PRIORITY_MAX + 1, ValueError),
        (-PRIORITY_MAX - 1, ValueError),
    ],
)
def test_a_wrong_priority_is_refused_at_once(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="priority"):
        note.options(priority=value)


def test_actors_have_no_priority() -> None:
    class Actor:
        pass

    with pytest.raises(UnsupportedOptionError, match="priority"):
        rostral.remote(priority=1)(Actor)


def test_inline_tasks_run_in_order_of_execution_whatever_their_priority() -> None:
    with rostral.init(mode="inline"):
        ran: list[str] = []

        @rostral.remote
        def low() -> str:
            return "low"

        ran.append(rostral.get(low.options(priority=-1).remote()))
        ran.append(rostral.get(low.options(priority=1).remote()))
        assert ran == ["low", "low"]
