"""`max_calls`: a worker ends after so many runs of a function, without a sound."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.exceptions import UnsupportedOptionError
from rostral.options import TaskOptions

from .waiting import is_alive, until

pytestmark = pytest.mark.usefixtures("cluster")


def pid_function(**options: Any) -> Any:
    def pid(*_: Any) -> int:
        return os.getpid()

    return rostral.remote(**options)(pid)


def test_a_worker_ends_after_so_many_runs() -> None:
    pid = pid_function(max_calls=2)
    counts = Counter(rostral.get([pid.remote() for _ in range(20)]))
    assert max(counts.values()) == 2, counts
    spent = [process for process in counts if counts[process] == 2]
    until(lambda: not any(map(is_alive, spent)), "the end of the workers")


def test_calls_with_other_options_count_too() -> None:
    pid = pid_function(max_calls=2)
    pids = [rostral.get(pid.options(name=f"call-{i}").remote()) for i in range(6)]
    assert max(Counter(pids).values()) <= 2


def test_runs_that_raise_count_and_use_up_no_retry(marks: Path) -> None:
    @rostral.remote(max_calls=1, max_retries=0)
    def fails() -> None:
        with marks.open("a") as file:
            file.write(f"{os.getpid()}\n")
        raise KeyError("mine")

    for _ in range(3):
        with pytest.raises(KeyError):
            rostral.get(fails.remote())
    assert len(set(marks.read_text().split())) == 3


def test_what_the_worker_printed_and_registered_is_done_and_nothing_else_is_said(
    marks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    @rostral.remote(max_calls=1, num_returns=1)
    def speaks() -> None:
        import atexit
        import sys

        atexit.register(marks.write_text, "left")
        sys.stdout.write("last words")  # no line's end, which would flush it

    rostral.get(speaks.remote())
    until(lambda: marks.read_text() == "left", "what runs at the worker's exit")
    out = ""

    def printed() -> bool:
        nonlocal out
        out += capfd.readouterr().out
        return "last words" in out

    until(printed, "the worker's output")
    assert capfd.readouterr().err == ""


def test_children_of_a_worker_that_has_ended_run_all_the_same() -> None:
    child = pid_function(num_cpus=1)

    @rostral.remote(max_calls=1)
    def parent() -> list[Any]:
        return [child.remote() for _ in range(5)]

    refs = rostral.get([parent.remote() for _ in range(3)])
    assert all(rostral.get(ref) > 0 for children in refs for ref in children)


def test_0_is_no_limit_and_1_is_the_default_with_gpus_only() -> None:
    assert TaskOptions().run_limit == 0
    assert TaskOptions(num_gpus=0.5).run_limit == 1
    assert TaskOptions(num_gpus=1, max_calls=0).run_limit == 0
    assert TaskOptions(num_gpus=1, max_calls=7).run_limit == 7


def test_it_belongs_to_the_function_and_not_to_a_call() -> None:
    pid = pid_function(max_calls=2)
    with pytest.raises(ValueError, match="max_calls"):
        pid.options(max_calls=3)
    with pytest.raises(UnsupportedOptionError, match="max_calls"):
        pid._remote(max_calls=3)
    with pytest.raises(UnsupportedOptionError, match="max_calls"):
        rostral.remote(max_calls=1)(type("Counter", (), {}))


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), ("2", TypeError), (1.5, TypeError)])
def test_a_wrong_value_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_calls"):
        rostral.remote(max_calls=value)
