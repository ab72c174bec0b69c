"""What of an actor's calls is safe from the death of its node, and what is to be written next.

Pure: calls have places, in the order in which the actor ran them, from 1. Safe are those that the
last checkpoint in the GCS covers, and those in the log there without a gap after it. The result of
a call leaves its node once the call is safe (OSDI'18 §4.2.3).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

__all__ = ["Append", "CallLog", "LookFor", "Save", "Step"]

APPEND_MAX = 256

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Save:
    """Write the node's newest checkpoint, which covers so many calls."""

    covers: int


@dataclass(frozen=True, slots=True)
class Append(Generic[C]):
    """Write these calls, the first of which has this place."""

    first: int
    calls: list[C]


@dataclass(frozen=True, slots=True)
class LookFor:
    """Find the calls after this place: one of them is waited for, and nobody has told of them."""

    after: int


Step = Save | Append[C] | LookFor


class CallLog(Generic[C]):
    """One actor's.

    Invariant: `covered` <= `written`; all calls up to `written` are safe.

    Args:
        covered: Calls that the last checkpoint in the GCS covers.
        written: The last place of the log there.
    """

    def __init__(self, covered: int = 0, written: int = 0) -> None:
        self.covered, self.written = covered, max(covered, written)
        self._noted: dict[int, C] = {}
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._newest = covered

    def note(self, place: int, call: C) -> None:
        """A call has ended, in this place."""
        if place > self.written:
            self._noted.setdefault(place, call)

    def is_noted(self, place: int) -> bool:
        """Whether the call in this place need not be told of."""
        return place <= self.written or place in self._noted

    def made(self, covers: int) -> None:
        """The node has a checkpoint that covers so many calls."""
        self._newest = max(self._newest, covers)

    def wait(self, place: int, then: Callable[[], None]) -> None:
        """Calls back once all calls up to the place are safe, maybe at once."""
        if place <= self.written:
            then()
        else:
            heapq.heappush(self._waiting, (place, next(self._order), then))

    def next(self) -> Step[C] | None:
        """What is to be done now, until `saved` or `appended` says that it is."""
        if self._newest > self.covered:
            return Save(self._newest)
        first = self.written + 1
        calls: list[C] = []
        while len(calls) < APPEND_MAX and (call := self._noted.get(first + len(calls))) is not None:
            calls.append(call)
        if calls:
            return Append(first, calls)
        return LookFor(self.written) if self._waiting else None

    def saved(self, covers: int) -> None:
        """A checkpoint that covers so many calls is in the GCS."""
        self.covered = max(self.covered, covers)
        self._advance(max(self.written, covers))

    def appended(self, last: int) -> None:
        """The calls up to this place are in the log in the GCS."""
        self._advance(max(self.written, last))

    def give_up(self) -> None:
        """Nobody waits any more: it will never be written."""
        waiting, self._waiting = self._waiting, []
        self._noted.clear()
        for _, _, then in sorted(waiting, key=lambda entry: entry[:2]):
            then()

    def _advance(self, written: int) -> None:
        for place in range(self.written + 1, written + 1):
            self._noted.pop(place, None)
        self.written = written
        while self._waiting and self._waiting[0][0] <= written:
            heapq.heappop(self._waiting)[2]()
