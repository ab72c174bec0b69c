"""How often tasks are tried again: what says so, and what counts."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.exceptions import WorkerCrashedError
from rostral.options import MAX_RETRIES, TaskOptions

GET_TIMEOUT_S = 30.0

pytestmark = pytest.mark.usefixtures("cluster")


def dying(marks: Path, lives: int) -> Any:
    """A function whose process is killed in its first `lives` runs."""

    def run() -> int:
        with marks.open("a") as file:
            file.write("x")
        if len(marks.read_text()) <= lives:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(marks.read_text())

    return run


def raising(marks: Path, times: int) -> Any:
    """A function that raises in its first `times` runs."""

    def run() -> int:
        with marks.open("a") as file:
            file.write("x")
        if len(marks.read_text()) <= times:
            raise KeyError("not yet")
        return len(marks.read_text())

    return run


def test_a_task_is_tried_again_three_times_where_nobody_says_otherwise(marks: Path) -> None:
    with pytest.raises(WorkerCrashedError):
        rostral.get(rostral.remote(dying(marks, 99)).remote(), timeout=GET_TIMEOUT_S)
    assert len(marks.read_text()) == 1 + MAX_RETRIES == 4


@pytest.mark.parametrize("name", ["ROSTRAL_TASK_MAX_RETRIES", "RAY_TASK_MAX_RETRIES"])
def test_the_environment_says_how_often(
    name: str, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    function = rostral.remote(dying(marks, 99))
    with pytest.raises(WorkerCrashedError):
        rostral.get(function.remote(), timeout=GET_TIMEOUT_S)
    assert len(marks.read_text()) == 2
    marks.write_text("")
    with pytest.raises(WorkerCrashedError):
        rostral.get(function.options(max_retries=0).remote(), timeout=GET_TIMEOUT_S)
    assert len(marks.read_text()) == 1


@pytest.mark.parametrize("text", ["-2", "three", "1.5", "9" * 10])
def test_a_wrong_number_in_the_environment_is_named(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSTRAL_TASK_MAX_RETRIES", text)
    with pytest.raises(ValueError, match=f"ROSTRAL_TASK_MAX_RETRIES is '{text}'"):
        rostral.remote(len)
    assert TaskOptions(max_retries=2).max_retries == 2
    monkeypatch.setenv("ROSTRAL_TASK_MAX_RETRIES", "-1")
    assert TaskOptions().max_retries == -1


def test_minus_one_tries_again_for_as_long_as_it_takes(marks: Path) -> None:
    function = rostral.remote(max_retries=-1)(dying(marks, 2 * MAX_RETRIES))
    assert rostral.get(function.remote(), timeout=GET_TIMEOUT_S) == 2 * MAX_RETRIES + 1
    marks.write_text("")
    function = rostral.remote(max_retries=-1, retry_exceptions=True)(raising(marks, 20))
    assert rostral.get(function.remote(), timeout=GET_TIMEOUT_S) == 21


def test_a_call_may_take_back_that_exceptions_are_retried(marks: Path) -> None:
    function = rostral.remote(retry_exceptions=True)(raising(marks, 1))
    with pytest.raises(KeyError):
        rostral.get(function.options(retry_exceptions=False).remote(), timeout=GET_TIMEOUT_S)
    assert marks.read_text() == "x"
    assert rostral.get(function.remote(), timeout=GET_TIMEOUT_S) == 2


def test_deaths_and_exceptions_are_counted_together(marks: Path) -> None:
    def run() -> None:
        with marks.open("a") as file:
            file.write("x")
        if len(marks.read_text()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyError("always")

    with pytest.raises(KeyError):
        rostral.get(
            rostral.remote(max_retries=2, retry_exceptions=[KeyError])(run).remote(),
            timeout=GET_TIMEOUT_S,
        )
    assert marks.read_text() == "xxx"
