"""How a cancelled task that runs is made to end, with a node that only remembers what was done."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rostral_scheduler.local.cancellations import Cancellations, Ladder

PLAIN, SERIAL, MORTAL, ASYNC, NOBODY = range(1, 6)
"""Slots: a worker, and actors: that may be stopped, that may not restart, with a loop; a driver."""


def task_id(number: int) -> bytes:
    return number.to_bytes(16, "little")


@dataclass
class Node:
    """Memory, pool and actors in one; `done` is the story."""

    claimers: dict[int, int]
    """Slots of the tasks that run."""
    children: dict[int, list[int]] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)
    done: list[tuple[str, int]] = field(default_factory=list)
    cancelled: set[int] = field(default_factory=set)
    goes_on_when_paused: bool = False

    def __post_init__(self) -> None:
        actor_ids = {SERIAL: b"serial", MORTAL: b"mortal", ASYNC: b"async"}
        self.workers = {
            slot: SimpleNamespace(slot=slot, pid=slot, status=None, actor_id=actor_ids.get(slot))
            for slot in (PLAIN, SERIAL, MORTAL, ASYNC)
        }
        self.by_id = {
            b"serial": SimpleNamespace(is_serial=True, may_restart=True),
            b"mortal": SimpleNamespace(is_serial=True, may_restart=False),
            b"async": SimpleNamespace(is_serial=False, may_restart=True),
        }

    def made(self) -> Cancellations:
        return Cancellations(cast(Any, self), cast(Any, self), cast(Any, self))

    # ---- memory

    def claimer(self, task: int, of: bytes) -> int | None:
        return self.claimers.get(task) if of == task_id(task) else None

    def cancel(self, task: int, of: bytes, error: bytes, *, is_late: bool) -> bool:
        assert error
        if task in self.cancelled:
            return False
        self.cancelled.add(task)
        self.done.append(("late" if is_late else "cancel", task))
        return task in self.claimers

    def allow_interrupt(self, task: int, of: bytes) -> None:
        self.done.append(("allow", task))

    def children_of(self, parent: bytes) -> list[tuple[int, bytes]]:
        numbers = self.children.get(int.from_bytes(parent, "little"), [])
        return [(n, task_id(n)) for n in numbers if n not in self.cancelled]

    def late_tasks(self) -> list[tuple[int, bytes]]:
        return [(n, task_id(n)) for n in self.late if n not in self.cancelled]

    # ---- pool

    def by_slot(self, slot: int) -> Any:
        return self.workers.get(slot)

    def interrupt(self, worker: Any) -> None:
        self.done.append(("interrupt", worker.slot))

    def pause(self, worker: Any) -> None:
        self.done.append(("pause", worker.slot))
        if self.goes_on_when_paused:
            self.claimers = {}

    def is_paused(self, worker: Any) -> bool:
        return True

    def resume(self, worker: Any) -> None:
        self.done.append(("resume", worker.slot))

    def kill(self, worker: Any, reason: str) -> None:
        assert reason
        self.done.append(("kill", worker.slot))


def climb(node: Node, task: int, ladder: Ladder) -> list[tuple[str, int]]:
    """What is done within its grace period, and then."""

    async def run() -> None:
        cancellations = node.made()
        cancellations.climb(task, task_id(task), ladder)
        await asyncio.sleep(0.02)
        await cancellations.stop()

    asyncio.run(run())
    return node.done


def test_a_task_is_interrupted_and_then_its_worker_killed() -> None:
    done = climb(Node({7: PLAIN}), 7, Ladder(grace_s=0.001))
    assert done == [("allow", 7), ("interrupt", PLAIN), ("pause", PLAIN), ("kill", PLAIN)]


def test_a_worker_that_has_gone_on_is_not_killed() -> None:
    node = Node({7: PLAIN}, goes_on_when_paused=True)
    done = climb(node, 7, Ladder(force=True))
    assert done == [("pause", PLAIN), ("resume", PLAIN)]


def test_force_kills_at_once() -> None:
    assert climb(Node({7: PLAIN}), 7, Ladder(force=True)) == [("pause", PLAIN), ("kill", PLAIN)]


def test_an_infinite_grace_kills_never() -> None:
    done = climb(Node({7: PLAIN}), 7, Ladder(grace_s=float("inf")))
    assert done == [("allow", 7), ("interrupt", PLAIN)]


@pytest.mark.parametrize("force", [False, True])
def test_an_actor_is_stopped_only_if_it_may_restart_and_runs_one_call(*, force: bool) -> None:
    ladder = Ladder(force=force, grace_s=0.001)
    stopped = [("allow", 7), ("interrupt", SERIAL), ("pause", SERIAL), ("kill", SERIAL)]
    assert climb(Node({7: SERIAL}), 7, ladder) == stopped
    assert climb(Node({7: MORTAL}), 7, ladder) == [("interrupt", MORTAL)]
    assert climb(Node({7: ASYNC}), 7, ladder) == [("interrupt", ASYNC)]


def test_nothing_is_done_about_what_no_worker_runs() -> None:
    assert climb(Node({}), 7, Ladder(force=True)) == []
    assert climb(Node({7: NOBODY}), 7, Ladder(force=True)) == []


def test_children_that_run_lead_to_theirs() -> None:
    """1 submitted 2, which runs and submitted 4, and 3, which waits and so has no children."""
    node = Node({2: PLAIN, 4: SERIAL}, children={1: [2, 3], 2: [4], 3: [5]})

    async def run() -> None:
        node.made().cancel_children(task_id(1), Ladder())

    asyncio.run(run())
    assert [what for what in node.done if what[0] == "cancel"] == [
        *(("cancel", 2), ("cancel", 3), ("cancel", 4))
    ]
    assert ("interrupt", PLAIN) in node.done
    assert ("interrupt", SERIAL) in node.done


def test_late_tasks_of_dead_submitters_are_cancelled_with_their_children() -> None:
    node = Node({1: PLAIN}, children={1: [2]}, late=[1, 3])

    async def run() -> None:
        node.made().tick()

    asyncio.run(run())
    assert [what for what in node.done if what[0] in ("late", "cancel")] == [
        *(("late", 1), ("cancel", 2), ("late", 3))
    ]
