"""What a host remembers of origins, and of each of their tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rostral_scheduler.between.messages import Begun, Call, Cancel, Done, Push, Stub, Submit
from rostral_scheduler.between.stream import Outbox
from rostral_scheduler.between.transit_memory import Handle, HostedTask, Stage, TransitMemory
from rostral_scheduler.local.node_memory import Body

__all__ = ["Guest", "Origin", "OriginSession", "tell_begun"]

_TASK_BYTES = 16
"""Of an object's id."""

Kept = tuple[bytes, Handle]
"""An object that is kept for its origin, and whose job it is of."""


@dataclass(slots=True, eq=False)
class Origin:
    """A node that has tasks here, or had."""

    node_id: bytes
    outbox: Outbox
    is_connected: bool = True
    grace: asyncio.TimerHandle | None = None
    was_dropped: bool = False
    """It came back after what it had here was forgotten."""
    kept: dict[bytes, Kept] = field(default_factory=dict)
    """By id: results whose bytes are here for it."""

    def keep(self, guest: Guest, kept: set[bytes]) -> None:
        """Of a task that it has taken in, the bytes of these results stay here."""
        for handle in () if guest.task is None else guest.task.results:
            if handle.binary() in kept:
                self.kept[handle.binary()] = guest.message.job_id, handle

    def release(self, object_ids: Iterable[bytes]) -> None:
        """It does not need these any more."""
        for object_id in object_ids:
            self.kept.pop(object_id, None)

    def tasks_of(self, kept: set[bytes]) -> set[bytes]:
        """The tasks that have made what is to be kept for it, and is not yet."""
        return {object_id[:_TASK_BYTES] for object_id in kept - self.kept.keys()}

    def compare(self, kept: set[bytes]) -> list[bytes]:
        """What is not to be kept goes; returns what should be, and is not here."""
        self.release(list(self.kept.keys() - kept))
        return sorted(kept - self.kept.keys())

    def job_ended(self, job_id: bytes) -> None:
        """Nothing of the job is kept."""
        self.kept = {id: kept for id, kept in self.kept.items() if kept[0] != job_id}


class OriginSession:
    """What a hosted job has in place of its driver's connection.

    Args:
        push: Sends something to an origin.
        origin: The node that the job's tasks came from.
        job_id: Of the job.
    """

    def __init__(self, push: Callable[[bytes, Push], None], origin: bytes, job_id: bytes) -> None:
        self.state: dict[str, Any] = {}
        self._push, self._origin, self._job_id = push, origin, job_id

    def push(self, topic: str, body: Body) -> None:
        """Towards the driver, by way of the origin."""
        self._push(self._origin, Push(self._job_id, topic, dict(body)))


@dataclass(slots=True, eq=False)
class Guest:
    """One task of an origin's."""

    message: Submit
    origin: Origin
    task: HostedTask | None = None
    """None: not submitted yet."""
    inputs: list[Any] = field(default_factory=list)
    """Holds on what it needs, until its record has them."""
    done: Done | None = None
    has_begun: bool = False
    """Its origin, which watches it, was told so."""
    has_ended: bool = False
    unfetched: list[bytes] = field(default_factory=list)
    """Inputs that cannot be had: once it has ended here, it goes back to its origin."""
    cancelled: Cancel | None = None
    call: Call | None = None
    """Of an actor's call."""
    outcome: Done | None = None
    """Once it has ended; `done` when others may know."""
    is_replay: bool = False
    """Its actor ran it on a node that is dead."""
    stubs: list[Stub] = field(default_factory=list)
    """The actors of others that its inputs stand for, until it has ended."""


def tell_begun(guests: Iterable[Guest], transit: TransitMemory) -> None:
    """Tells origins which of the tasks that they watch run by now."""
    begun: dict[Origin, list[bytes]] = {}
    for guest in guests:
        if not guest.message.watched or guest.has_begun or guest.has_ended or guest.task is None:
            continue
        if transit.stage(guest.task.task, guest.message.task_id) is Stage.RUNS:
            guest.has_begun = True
            begun.setdefault(guest.origin, []).append(guest.message.task_id)
    for origin, task_ids in begun.items():
        if origin.is_connected:
            origin.outbox.send(Begun(task_ids))
