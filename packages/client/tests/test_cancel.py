"""`cancel`: whatever a task is doing, it ends once, as cancelled, and never runs again."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.exceptions import (
    GetTimeoutError,
    RostralError,
    TaskCancelledError,
    TaskError,
)

from .cancelling import (
    append,
    begin,
    busy_workers,
    cancelled,
    is_last,
    lines,
    results,
    sleeper,
)
from .waiting import until

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(autouse=True)
def nothing_left(cluster: rostral.Context) -> Iterator[None]:
    """Whatever was cancelled, no object of it may stay."""
    before = results()
    yield
    until(lambda: not results() - before, "the end of the test's objects")


@rostral.remote(max_retries=5)
def spinner(marks: Path) -> None:
    append(marks, os.getpid())
    while True:
        pass


@rostral.remote
def deaf(marks: Path) -> None:
    """One that takes no notice of the exception."""
    append(marks, os.getpid())
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            append(marks, "interrupted")


# ---- what has not begun


def test_a_queued_task_never_runs(marks: Path) -> None:
    running = [sleeper.remote(marks, "running") for _ in range(2)]
    until(lambda: len(lines(marks)) == 2, "two tasks that run")
    queued = [sleeper.remote(marks, "queued", 0.0) for _ in range(10)]
    assert all(rostral.cancel(ref) for ref in queued)
    for ref in queued:
        with pytest.raises(TaskCancelledError) as raised:
            rostral.get(ref, timeout=5)
        assert raised.value.task_id == ref.task_id().binary()
    assert not rostral.cancel(queued[0]), "it is cancelled already"
    for ref in running:
        rostral.cancel(ref)
        with cancelled():
            rostral.get(ref, timeout=5)
    assert rostral.get(sleeper.remote(marks, "next", 0.0)) == "next"
    assert lines(marks) == ["running", "running", "next", "slept"]


def test_a_task_that_waits_for_its_inputs_never_runs(marks: Path) -> None:
    @rostral.remote
    def needs(value: Any, marks: Path) -> None:
        append(marks, "needs")

    slow = begin(marks, sleeper.remote(marks))
    waiting = needs.remote(slow, marks)
    assert rostral.cancel(waiting)
    with cancelled():
        rostral.get(waiting, timeout=5)
    with pytest.raises(GetTimeoutError):
        rostral.get(slow, timeout=0)
    assert rostral.cancel(slow)
    with cancelled():
        rostral.get(slow, timeout=5)
    assert lines(marks) == ["began"]


def test_a_task_that_needs_a_cancelled_ones_result_fails_with_its_error(marks: Path) -> None:
    @rostral.remote
    def needs(value: Any) -> None: ...

    slow = begin(marks, sleeper.remote(marks))
    after = needs.remote(needs.remote(slow))
    rostral.cancel(slow)
    with pytest.raises((TaskCancelledError, TaskError)):
        rostral.get(after, timeout=5)


def test_each_of_several_results_is_cancelled(marks: Path) -> None:
    @rostral.remote(num_returns=3)
    def three(marks: Path) -> Any:
        append(marks, "began")
        time.sleep(60)

    refs = begin(marks, three.remote(marks))
    assert rostral.cancel(refs[1])
    for ref in refs:
        with cancelled():
            rostral.get(ref, timeout=5)


# ---- what runs


def test_sleep_is_interrupted(marks: Path) -> None:
    ref = begin(marks, sleeper.remote(marks))
    assert rostral.cancel(ref)
    with cancelled():
        rostral.get(ref, timeout=5)
    assert lines(marks) == ["began"]


def test_a_loop_is_interrupted_and_its_worker_goes_on(marks: Path) -> None:
    @rostral.remote
    def pid() -> int:
        return os.getpid()

    ref = begin(marks, spinner.remote(marks))
    assert rostral.cancel(ref)
    with cancelled():
        rostral.get(ref, timeout=5)
    (spun,) = lines(marks)
    until(lambda: int(spun) in rostral.get([pid.remote() for _ in range(20)]), "the same worker")
    assert lines(marks) == [spun], "it was not run again"


def test_the_code_is_interrupted_by_keyboard_interrupt_and_can_clean_up(marks: Path) -> None:
    @rostral.remote
    def careful(marks: Path) -> str:
        append(marks, "began")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            append(marks, "interrupted")
        finally:
            append(marks, "cleaned")
        return "a result that nobody gets"

    ref = begin(marks, careful.remote(marks))
    rostral.cancel(ref)
    with cancelled():
        rostral.get(ref, timeout=5)
    assert lines(marks) == ["began", "interrupted", "cleaned"]


def test_an_error_while_it_is_interrupted_is_not_kept(marks: Path) -> None:
    @rostral.remote(retry_exceptions=True)
    def angry(marks: Path) -> None:
        append(marks, "began")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            raise ValueError("no") from None

    ref = begin(marks, angry.remote(marks))
    rostral.cancel(ref)
    with cancelled():
        rostral.get(ref, timeout=5)
    assert lines(marks) == ["began"]


def test_get_and_wait_inside_a_task_are_interrupted(marks: Path) -> None:
    @rostral.remote
    def blocked(refs: list[Any], marks: Path, how: str) -> None:
        append(marks, how)
        if how == "get":
            rostral.get(refs[0])
        else:
            rostral.wait(refs)

    slow = begin(marks, sleeper.remote(marks))
    for how in ("get", "wait"):
        ref = blocked.remote([slow], marks, how)
        until(functools.partial(is_last, marks, how), "the task's beginning")
        rostral.cancel(ref)
        with cancelled():
            rostral.get(ref, timeout=5)
    rostral.cancel(slow)


def test_a_task_that_takes_no_notice_is_killed_after_its_grace(marks: Path) -> None:
    ref = begin(marks, deaf.remote(marks))
    began = time.monotonic()
    assert rostral.cancel(ref, grace_s=0.3)
    with cancelled():
        rostral.get(ref, timeout=5)
    assert time.monotonic() - began > 0.3
    pid, interrupted = lines(marks)
    assert interrupted == "interrupted"
    until(lambda: not Path(f"/proc/{pid}").exists(), "the worker's death")


def test_an_infinite_grace_never_kills(marks: Path) -> None:
    ref = begin(marks, deaf.remote(marks))
    rostral.cancel(ref, grace_s=float("inf"))
    until(lambda: "interrupted" in lines(marks), "the interrupt")
    with pytest.raises(GetTimeoutError):
        rostral.get(ref, timeout=0.3)
    assert rostral.cancel(ref, force=True) is False, "it is cancelled already"
    os.kill(int(lines(marks)[0]), 9)
    with cancelled():
        rostral.get(ref, timeout=5)


def test_native_code_that_cannot_be_interrupted_is_killed(marks: Path) -> None:
    @rostral.remote
    def native(marks: Path) -> None:
        append(marks, os.getpid())
        pow(3, 10**9)  # Holds the interpreter for minutes.

    ref = begin(marks, native.remote(marks))
    assert rostral.cancel(ref, grace_s=0.2)
    with cancelled():
        rostral.get(ref, timeout=5)


def test_force_kills_at_once_and_the_task_is_not_retried(marks: Path) -> None:
    ref = begin(marks, spinner.remote(marks))
    assert rostral.cancel(ref, force=True)
    with cancelled():
        rostral.get(ref, timeout=5)
    (pid,) = lines(marks)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the worker's death")
    assert lines(marks) == [pid]


def test_a_stopped_worker_can_be_cancelled_by_force(marks: Path) -> None:
    ref = begin(marks, spinner.remote(marks))
    os.kill(int(lines(marks)[0]), 19)
    assert rostral.cancel(ref, force=True)
    with cancelled():
        rostral.get(ref, timeout=5)


def test_cancel_waits_until_the_arguments_are_loaded(marks: Path) -> None:
    class Slow:
        def __init__(self, marks: Path) -> None:
            self.marks = marks

        def __reduce__(self) -> Any:
            return load_slowly, (self.marks,)

    def load_slowly(marks: Path) -> str:
        append(marks, "loading")
        time.sleep(0.3)
        append(marks, "loaded")
        return "value"

    @rostral.remote
    def take(value: object, marks: Path) -> None:
        append(marks, "ran")

    ref = begin(marks, take.remote(Slow(marks), marks))
    rostral.cancel(ref)
    with cancelled():
        rostral.get(ref, timeout=5)
    assert lines(marks) == ["loading", "loaded"]


def test_a_task_can_ask_whether_it_was_cancelled(marks: Path) -> None:
    @rostral.remote
    def polite(marks: Path) -> None:
        assert not rostral.is_cancelled()
        try:
            append(marks, "began")
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            append(marks, rostral.is_cancelled())

    ref = begin(marks, polite.remote(marks))
    rostral.cancel(ref)
    with cancelled():
        rostral.get(ref, timeout=5)
    assert lines(marks) == ["began", "True"]
    with pytest.raises(RuntimeError, match="only a task"):
        rostral.is_cancelled()


# ---- what is done, and what is no task


def test_what_is_done_keeps_its_value() -> None:
    @rostral.remote
    def f() -> int:
        return 1

    ref = f.remote()
    assert rostral.get(ref) == 1
    assert rostral.cancel(ref) is False
    assert rostral.cancel(ref, force=True) is False
    assert rostral.get(ref) == 1
    assert rostral.cancel(rostral.put(1)) is False


@pytest.mark.parametrize("junk", [1, None, "ref", [1], object()])
def test_what_is_no_reference_is_a_type_error(junk: Any) -> None:
    with pytest.raises(TypeError, match="a reference or a generator"):
        rostral.cancel(junk)


def test_a_wrong_grace_is_refused() -> None:
    ref = rostral.put(1)
    with pytest.raises(ValueError, match="grace_s is -1"):
        rostral.cancel(ref, grace_s=-1)
    wrong: Any = "1"
    with pytest.raises(TypeError, match="grace_s must be a number"):
        rostral.cancel(ref, grace_s=wrong)


# ---- children


@rostral.remote
def family(marks: Path, depth: int) -> None:
    """A task whose child is one of its kind, and so on."""
    append(marks, depth)
    if depth:
        rostral.get(family.remote(marks, depth - 1))
    time.sleep(60)


@pytest.mark.parametrize("force", [False, True])
def test_cancel_reaches_children_and_theirs(marks: Path, *, force: bool) -> None:
    ref = family.remote(marks, 3)
    until(lambda: len(lines(marks)) == 4, "the youngest")
    rostral.cancel(ref, force=force)
    with cancelled():
        rostral.get(ref, timeout=5)
    until(lambda: not busy_workers(), "the end of all of them")


def test_a_cancel_that_is_not_recursive_leaves_children_alone(marks: Path) -> None:
    @rostral.remote
    def parent(marks: Path) -> None:
        child = sleeper.remote(marks, "child", 0.5)
        until_line(marks, "child")
        append(marks, "parent")
        rostral.get(child)

    ref = parent.remote(marks)
    until(lambda: "parent" in lines(marks), "the parent's wait")
    rostral.cancel(ref, recursive=False)
    with cancelled():
        rostral.get(ref, timeout=5)
    until(lambda: "slept" in lines(marks), "the child's end")


def until_line(marks: Path, line: str) -> None:
    while line not in lines(marks):
        time.sleep(0.005)


def test_queued_children_never_run(marks: Path) -> None:
    @rostral.remote
    def parent(marks: Path) -> None:
        refs = [sleeper.remote(marks, "child", 60) for _ in range(20)]
        append(marks, "parent")
        rostral.get(refs)

    ref = parent.remote(marks)
    until(lambda: lines(marks).count("child") >= 2, "children that run")
    rostral.cancel(ref)
    with cancelled():
        rostral.get(ref, timeout=5)
    until(lambda: not busy_workers(), "the end of all of them")
    assert "slept" not in lines(marks)


# ---- storms


def test_cancelling_in_every_state_ends_each_task_once() -> None:
    @rostral.remote
    def work(number: int, *inputs: Any) -> int:
        time.sleep(0.0005 * (number % 4))
        return number

    refs: list[Any] = []
    for number in range(600):
        refs.append(work.remote(number, *refs[-1:] if number % 3 == 0 else ()))
        if number % 2:
            rostral.cancel(refs[number // 2])
    for ref in refs[::7]:
        rostral.cancel(ref)
    for number, ref in enumerate(refs):
        try:
            assert rostral.get(ref, timeout=20) == number
        except TaskCancelledError:
            assert not isinstance(rostral.cancel(ref), RostralError)
    assert rostral.get([work.remote(n) for n in range(20)]) == list(range(20))


def test_killing_for_a_cancel_never_hits_the_next_task(marks: Path) -> None:
    @rostral.remote(max_retries=0)
    def short(number: int) -> int:
        time.sleep(0.002)
        return number

    refs = [short.remote(number) for number in range(300)]
    for ref in refs[::3]:
        rostral.cancel(ref, force=True)
    for number, ref in enumerate(refs):
        if number % 3:
            assert rostral.get(ref, timeout=20) == number
            continue
        try:
            assert rostral.get(ref, timeout=20) == number
        except TaskCancelledError:
            continue
