"""What a host remembers of origins, and of each of their tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rostral_scheduler.between.messages import Call, Cancel, Done, Stub, Submit
from rostral_scheduler.between.stream import Outbox
from rostral_scheduler.between.transit_memory import Handle, HostedTask

__all__ = ["Guest", "Origin"]

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
    has_ended: bool = False
    unfetched: list[bytes] = field(default_factory=list)
    """Inputs that cannot be had: once it has ended here, it goes back to its origin."""
    cancelled: Cancel | None = None
    call: Call | None = None
    """Of an actor's call."""
    stubs: list[Stub] = field(default_factory=list)
    """The actors of others that its inputs stand for, until it has ended."""
