"""What the local scheduler's policy remembers of queues, workers and waiting actors.

This file owns the records and what can be read off one of them alone; ``local.py`` decides.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rostral_scheduler.core.resources import NOTHING, Allocation, ResourceSet

__all__ = ["PendingActor", "PendingGroup", "Queue", "Worker", "WorkerStage"]


# STARTING ──> FREE ──> GRANTED ──> WITHDRAWING ──> FREE       (workers)
# STARTING ──> ACTOR                                           (actors' processes)
# any ──> KILLED ──> forgotten
class WorkerStage(enum.Enum):
    """Where a worker's process is in its life; the drawing is above."""

    STARTING = enum.auto()
    FREE = enum.auto()
    GRANTED = enum.auto()
    WITHDRAWING = enum.auto()
    ACTOR = enum.auto()
    KILLED = enum.auto()


@dataclass(slots=True)
class Worker:
    """One process.

    Invariant: ``queue`` is set exactly in GRANTED and WITHDRAWING.
    Invariant: ``lent`` only with an allocation that is counted as taken.
    """

    number: int
    stage: WorkerStage = WorkerStage.STARTING
    job_id: bytes | None = None
    actor_id: bytes | None = None
    environment: bytes = b""
    """What it was started with and keeps for its life; empty: nothing but what all have."""
    allocation: Allocation = NOTHING
    queue: int = 0
    lent: bool = False
    """Its CPU is given back while it waits."""
    acknowledged: bool = False
    """It has looked at the queue granted to it."""
    running: bool = False
    idle: bool = False
    idle_since_s: float | None = None
    granted_at_s: float = 0.0

    @property
    def is_settled(self) -> bool:
        """It runs an actor that holds nothing: nothing about it will ever be decided here."""
        return self.stage is WorkerStage.ACTOR and not self.allocation.resources.items

    @property
    def available_soon(self) -> bool:
        """It will look at its queue without anybody finishing anything."""
        return self.stage is WorkerStage.GRANTED and not self.running


@dataclass(slots=True)
class Queue:
    """One ready queue with its lanes: the tasks of one job and shape."""

    loc: int
    job_id: bytes
    shape: ResourceSet
    environment: bytes = b""
    length: int = 0
    priority: int = 0
    """Of the tasks in it that come first, as is ``depth``; the last, where it is empty."""
    depth: int = 0
    alone_since: int | None = None
    """Since which observation it has tasks and nobody at all works on them."""
    wanted: bool = False
    suspicious: bool = False
    """At the last tick it had tasks and all its workers slept."""


@dataclass(slots=True)
class PendingActor:
    """An actor that waits for resources."""

    actor_id: bytes
    job_id: bytes
    placement: ResourceSet
    held: ResourceSet
    environment: bytes = b""
    since: int | None = None
    """The observation since which it waits."""


@dataclass(slots=True)
class PendingGroup:
    """A placement group that waits for resources."""

    group_id: bytes
    job_id: bytes
    bundles: tuple[ResourceSet, ...]
    indexes: tuple[int, ...] = ()
    since: int | None = None
    """The observation since which it waits."""

    def by_index(self) -> dict[int, ResourceSet]:
        """The bundles by their place in the whole group."""
        return dict(zip(self.indexes or range(len(self.bundles)), self.bundles, strict=True))
