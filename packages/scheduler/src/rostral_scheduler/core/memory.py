"""Whom to end when the node's memory runs out: the choice, without processes and files.

This file owns the rules, in the order in which they apply:

1. One at a time: what a dying process gives back is seen before the next one is chosen.
2. A process that does nothing loses nothing: if it is large, it is the first to go.
3. What can run again before what cannot, and of these what began last: it loses the least work.
4. Whoever has next to nothing of its own is spared, since its end would help nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["MemoryPolicy", "MemorySeen", "WorkerMemory"]

WORTH_SHARE: Final = 0.01
"""Of the limit: below it a process's end helps nobody."""
IDLE_WORTH_SHARE: Final = 0.1
"""The same of one that does nothing: another takes its place, and takes as much to begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMemory:
    """One worker's process at the moment of a check.

    Attributes:
        worker: Its number.
        own_bytes: What its end would give back.
        running: Whether it has a task or is an actor.
        retriable: Whether what it runs can run again.
        began_s: When that began, monotonic seconds.
    """

    worker: int
    own_bytes: int
    running: bool
    retriable: bool
    began_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySeen:
    """The node's memory at the moment of a check; bytes."""

    used_bytes: int
    limit_bytes: int
    workers: Sequence[WorkerMemory]


class MemoryPolicy:
    """Observations in, victims out.

    Args:
        threshold: Share of the limit above which somebody must end.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._dying: int | None = None

    def is_short(self, used_bytes: int, limit_bytes: int) -> bool:
        """Whether that is too much."""
        return used_bytes > self._threshold * limit_bytes

    def choose(self, seen: MemorySeen) -> int | None:
        """The worker that must end now, or None."""
        if self._dying not in {worker.worker for worker in seen.workers}:
            self._dying = None
        if self._dying is not None or not self.is_short(seen.used_bytes, seen.limit_bytes):
            return None
        worth = [worker for worker in seen.workers if _is_worth(worker, seen.limit_bytes)]
        if not worth:
            return None
        self._dying = max(worth, key=_preference).worker
        return self._dying


def _is_worth(worker: WorkerMemory, limit_bytes: int) -> bool:
    share = WORTH_SHARE if worker.running else IDLE_WORTH_SHARE
    return worker.own_bytes >= share * limit_bytes


def _preference(worker: WorkerMemory) -> tuple[bool, bool, float, int]:
    idle = not worker.running
    return (
        idle,
        worker.retriable,
        0.0 if idle else worker.began_s,
        worker.own_bytes,
    )
