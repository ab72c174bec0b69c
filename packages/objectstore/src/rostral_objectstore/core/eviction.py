"""Whose bytes leave memory first.

Owns the order only: room.py finds the candidates, and carries out what is chosen here. Copies of
objects that are safe on other nodes go before anything that has to be written to a disk; then what
passes through: it was brought back from disk, read once and not since. A little of it stays, so
that what is read again soon is found. Of the rest the least recently used goes first, and of those
equally old first what costs no write, then what gives more room in one piece.

Without the second rule a program that reads a large working set once would have all else written to
disk to make room for bytes that it never looks at again: 2Q's answer to such a scan (Johnson and
Shasha, VLDB'94). Measured on a disk that writes at a third of the speed at which it reads, reading
a set three times as large as the store took twice as long.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

Key = tuple[int, int]
"""Locator and version: names one object for as long as the segment lives."""

NO_TICKS: Mapping[Key, int] = {}
PASSING_TICKS = 10
"""Reads so soon after the restore belong to it: the same reader goes over the value."""
PASSING_SHARE = 1 / 32
"""Of what is in memory, what passes through keeps so much."""


class Candidate(NamedTuple):
    """A sealed object whose value lies in a block; a moment's view."""

    loc: int
    version: int
    id: bytes
    size_bytes: int
    last_used: int
    held_by_others: bool
    pinned: bool

    @property
    def key(self) -> Key:
        """Its locator and version."""
        return self.loc, self.version


@dataclass(frozen=True, slots=True)
class Choice:
    """What to take out of memory, in this order: `drop`, then `evict`, then `spill`."""

    drop: tuple[Candidate, ...] = ()
    """Cached copies that nobody here holds: to be forgotten."""
    evict: tuple[Candidate, ...] = ()
    """Have a copy on disk: their blocks can go at once."""
    spill: tuple[Candidate, ...] = ()
    """To be written first."""

    @property
    def size_bytes(self) -> int:
        """What memory gets back if all goes well."""
        return _size_of((*self.drop, *self.evict, *self.spill))


def choose(
    candidates: Iterable[Candidate],
    *,
    need_bytes: int,
    cached: Collection[Key],
    on_disk: Collection[Key],
    can_write: bool,
    restored: Mapping[Key, int] = NO_TICKS,
) -> Choice:
    """The first in the order above whose sizes come to `need_bytes`, or all that there are.

    Args:
        candidates: in any order. Pinned ones are left where they are.
        need_bytes: how much is wanted.
        cached: objects that the daemon itself keeps, as copies of what is safe elsewhere.
        on_disk: objects that have a good copy on disk already.
        can_write: whether some disk takes anything at the moment.
        restored: when objects were brought back from disk, in ticks of `last_used`.
    """
    drop: list[Candidate] = []
    passing: list[Candidate] = []
    others: list[Candidate] = []
    size_bytes = 0
    for one in candidates:
        size_bytes += one.size_bytes
        if one.pinned:
            continue
        if one.key in cached and not one.held_by_others:
            drop.append(one)
        elif one.key in on_disk and _passes_through(one, restored):
            passing.append(one)
        elif can_write or one.key in on_disk:
            others.append(one)
    drop = _until(_oldest_first(drop, on_disk), need_bytes)
    need_bytes -= _size_of(drop)
    passing = _oldest_first(passing, on_disk)
    surplus_bytes = _size_of(passing) - int(size_bytes * PASSING_SHARE)
    first = _until(passing, min(need_bytes, surplus_bytes))
    need_bytes -= _size_of(first)
    others = _until(_oldest_first(others + passing[len(first) :], on_disk), need_bytes)
    return Choice(
        tuple(drop),
        tuple(first + [one for one in others if one.key in on_disk]),
        tuple(one for one in others if one.key not in on_disk),
    )


def choose_copies(
    candidates: Iterable[Candidate],
    *,
    need_bytes: int,
    cached: Collection[Key],
    on_disk: Collection[Key],
) -> tuple[Candidate, ...]:
    """What to write ahead of need, oldest first: its bytes stay in memory until room is wanted.

    Args:
        candidates: in any order. Pinned ones and cached copies are no use on disk.
        need_bytes: how much should be ready to leave memory at once.
        cached: as for `choose`; counted as ready.
        on_disk: counted as ready.
    """
    ready_bytes = 0
    rest = []
    for one in candidates:
        if one.pinned:
            continue
        if one.key in on_disk or (one.key in cached and not one.held_by_others):
            ready_bytes += one.size_bytes
        else:
            rest.append(one)
    return tuple(_until(_oldest_first(rest, on_disk), need_bytes - ready_bytes))


def _passes_through(one: Candidate, restored: Mapping[Key, int]) -> bool:
    since = restored.get(one.key)
    return since is not None and one.last_used - since <= PASSING_TICKS


def _oldest_first(candidates: list[Candidate], on_disk: Collection[Key]) -> list[Candidate]:
    return sorted(
        candidates, key=lambda one: (one.last_used, one.key not in on_disk, -one.size_bytes)
    )


def _size_of(candidates: Iterable[Candidate]) -> int:
    return sum(one.size_bytes for one in candidates)


def _until(candidates: list[Candidate], need_bytes: int) -> list[Candidate]:
    chosen = []
    for one in candidates:
        if need_bytes <= 0:
            break
        chosen.append(one)
        need_bytes -= one.size_bytes
    return chosen
