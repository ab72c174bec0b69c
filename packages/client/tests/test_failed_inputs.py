"""What depends on an error fails at once: it does not wait for its other inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rostral

pytestmark = pytest.mark.usefixtures("cluster")

# The other input never comes by itself; whoever waited for it would come late.
PATIENCE_S = 20


@contextmanager
def late_input(marks: Path) -> Iterator[rostral.ObjectRef[None]]:
    """The result of a task that runs until it is told to end."""

    @rostral.remote(num_cpus=0)
    def wait_for_mark() -> None:
        deadline = time.monotonic() + 60
        while not marks.read_text() and time.monotonic() < deadline:
            time.sleep(0.005)

    ref = wait_for_mark.remote()
    try:
        yield ref
    finally:
        marks.write_text("end")
    rostral.get(ref)


def failing() -> Callable[[], rostral.ObjectRef[Any]]:
    @rostral.remote
    def fail() -> int:
        raise KeyError("zork")

    return fail.remote


@pytest.mark.parametrize("is_known", [True, False], ids=["failed before", "fails later"])
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "last"])
def test_a_task_fails_while_another_input_is_late(
    marks: Path, is_known: bool, is_first: bool
) -> None:
    @rostral.remote
    def work(*inputs: Any) -> None:
        raise AssertionError("it ran")

    failed = failing()()
    if is_known:
        rostral.wait([failed], timeout=PATIENCE_S)
    with late_input(marks) as late:
        inputs = [failed, late] if is_first else [late, failed]
        follower = work.remote(work.remote(*inputs), late)
        with pytest.raises(KeyError, match="zork") as caught:
            rostral.get(follower, timeout=PATIENCE_S)
        assert "fail() raised" in str(caught.value)
        assert rostral.wait([late], timeout=0) == ([], [late])


def test_a_call_fails_while_another_input_is_late(marks: Path) -> None:
    class Actor:
        def work(self, *inputs: Any) -> None:
            raise AssertionError("it ran")

        def answer(self) -> int:
            return 42

    actor: Any = rostral.remote(Actor).remote()
    rostral.get(actor.answer.remote())
    with late_input(marks) as late:
        call = actor.work.remote(late, failing()())
        with pytest.raises(KeyError, match="zork"):
            rostral.get(call, timeout=PATIENCE_S)
        assert rostral.get(actor.answer.remote(), timeout=PATIENCE_S) == 42
        assert rostral.wait([late], timeout=0) == ([], [late])
