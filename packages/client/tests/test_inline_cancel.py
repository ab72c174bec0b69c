"""Cancelling and deadlines inline: what has not begun never does, what runs is flagged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

import rostral
from rostral.exceptions import TaskCancelledError, TaskDeadlineExceededError

from .waiting import nothing_left, until

DEADLINE_S = 0.1
PATIENCE_S = 10.0


@pytest.fixture(autouse=True)
def inline(runtime_dir: str) -> Iterator[rostral.Context]:
    """A session that leaves nothing in its store."""
    del runtime_dir
    with rostral.init(mode="inline", num_cpus=2) as context:
        yield context
        nothing_left()


def wait_for_cancel(events: list[str]) -> str:
    events.append("began")
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        if rostral.is_cancelled():
            return "cancelled"
        time.sleep(0.001)
    return "left alone"


class Threaded:
    def __init__(self) -> None:
        self.events: list[str] = []

    def began(self) -> bool:
        return bool(self.events)

    def wait(self) -> str:
        return wait_for_cancel(self.events)


class Asynchronous(Threaded):
    async def wait(self) -> str:  # type: ignore[override]
        self.events.append("began")
        await asyncio.sleep(PATIENCE_S)
        return "left alone"


@rostral.remote
def needs(value: Any) -> Any:
    return value


def running_call(cls: Any) -> Any:
    """A call that runs, of an actor with threads or a loop of its own."""
    actor = rostral.remote(max_concurrency=2)(cls).remote()
    ref = actor.wait.remote()
    until(lambda: rostral.get(actor.began.remote()), "the call's beginning")
    return ref


@pytest.mark.parametrize("cls", [Threaded, Asynchronous])
def test_a_running_call_is_flagged_or_cancelled_in_its_loop(cls: Any) -> None:
    ref = running_call(cls)
    waiting = needs.remote(ref)
    assert rostral.cancel(ref)
    with pytest.raises(TaskCancelledError):
        rostral.get(ref, timeout=PATIENCE_S / 2)
    with pytest.raises(TaskCancelledError):
        rostral.get(waiting)
    assert not rostral.cancel(ref)


def test_what_waits_for_its_inputs_never_runs() -> None:
    ref = running_call(Threaded)
    waiting = needs.remote(ref)
    assert rostral.cancel(waiting)
    with pytest.raises(TaskCancelledError):
        rostral.get(waiting)
    rostral.cancel(ref, recursive=False)


def test_children_that_wait_are_cancelled_with_their_parent() -> None:
    class Parent(Threaded):
        def submit(self, refs: list[Any]) -> str:
            self.children = [needs.remote(refs[0])]
            return self.wait()

        def ask(self) -> str:
            try:
                return str(rostral.get(self.children.pop(), timeout=0))
            except TaskCancelledError:
                return "cancelled"

    never = running_call(Threaded)
    actor: Any = rostral.remote(max_concurrency=2)(Parent).remote()
    parent = actor.submit.remote([never])
    until(lambda: rostral.get(actor.began.remote()), "the parent's beginning")
    assert rostral.cancel(parent)
    with pytest.raises(TaskCancelledError):
        rostral.get(parent, timeout=PATIENCE_S / 2)
    assert rostral.get(actor.ask.remote()) == "cancelled"
    rostral.cancel(never)


@pytest.mark.parametrize("max_restarts", [0, 1])
def test_a_late_task_or_call_ends_with_that(max_restarts: int) -> None:
    @rostral.remote(deadline_s=DEADLINE_S)
    def late() -> str:
        return wait_for_cancel([])

    actor: Any = rostral.remote(max_restarts=max_restarts)(Threaded).remote()
    refs = [late.remote(), actor.wait.options(deadline_s=DEADLINE_S).remote()]
    for cls in (Threaded, Asynchronous):
        other: Any = rostral.remote(max_concurrency=2)(cls).remote()
        refs.append(other.wait.options(deadline_s=DEADLINE_S).remote())
    for ref in refs:
        with pytest.raises(TaskDeadlineExceededError):
            rostral.get(ref, timeout=PATIENCE_S / 2)
    assert rostral.get(needs.options(deadline_s=PATIENCE_S).remote(1)) == 1
