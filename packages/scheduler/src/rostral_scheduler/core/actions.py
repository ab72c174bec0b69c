"""What a local scheduler's policy can order.

This file owns the actions of ``core/local.py``; ``local/daemon.py`` carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Action",
    "Grant",
    "GroupPlaced",
    "KillWorker",
    "SetStarved",
    "SetWanted",
    "StartWorker",
    "WakeQueue",
    "Withdraw",
]


@dataclass(frozen=True, slots=True)
class Grant:
    """The worker may take tasks from the queue."""

    worker: int
    queue: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The worker may take nothing more; it holds its resources until it has seen that."""

    worker: int


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Fork a worker; with an actor's id, the process of that actor."""

    worker: int
    actor_id: bytes | None = None
    environment: bytes = b""


@dataclass(frozen=True, slots=True)
class KillWorker:
    """End the process: it has no task, or its job is over."""

    worker: int


@dataclass(frozen=True, slots=True)
class GroupPlaced:
    """The placement group has all its bundles."""

    group_id: bytes


@dataclass(frozen=True, slots=True)
class SetWanted:
    """Whether a push that finds nobody asleep at the queue shall wake the scheduler."""

    queue: int
    wanted: bool


@dataclass(frozen=True, slots=True)
class SetStarved:
    """Whether a worker that runs out of tasks shall wake the scheduler."""

    starved: bool


@dataclass(frozen=True, slots=True)
class WakeQueue:
    """Wake whoever sleeps at the queue: a wake-up may have been lost with its receiver."""

    queue: int


Action = (
    Grant | Withdraw | StartWorker | KillWorker | GroupPlaced | SetWanted | SetStarved | WakeQueue
)
