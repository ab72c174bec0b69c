"""Whose bytes leave memory first.

Owns the order only: room.py finds the candidates, and carries out what is chosen here. Copies of
objects that are safe on other nodes go before anything that has to be written to a disk; within
each kind the least recently used goes first, and of those equally old first what costs no write,
then what gives more room in one piece.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

Key = tuple[int, int]
"""Locator and version: names one object for as long as the segment lives."""


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
        return sum(one.size_bytes for one in (*self.drop, *self.evict, *self.spill))


def choose(
    candidates: Iterable[Candidate],
    *,
    need_bytes: int,
    cached: Collection[Key],
    on_disk: Collection[Key],
    can_write: bool,
) -> Choice:
    """The first in the order above whose sizes come to `need_bytes`, or all that there are.

    Args:
        candidates: in any order. Pinned ones are left where they are.
        need_bytes: how much is wanted.
        cached: objects that the daemon itself keeps, as copies of what is safe elsewhere.
        on_disk: objects that have a good copy on disk already.
        can_write: whether some disk takes anything at the moment.
    """
    drop: list[Candidate] = []
    others: list[Candidate] = []
    for one in candidates:
        if one.pinned:
            continue
        if one.key in cached and not one.held_by_others:
            drop.append(one)
        elif can_write or one.key in on_disk:
            others.append(one)
    drop = _until(_oldest_first(drop, on_disk), need_bytes)
    need_bytes -= sum(one.size_bytes for one in drop)
    others = _until(_oldest_first(others, on_disk), need_bytes)
    return Choice(
        tuple(drop),
        tuple(one for one in others if one.key in on_disk),
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


def _oldest_first(candidates: list[Candidate], on_disk: Collection[Key]) -> list[Candidate]:
    return sorted(
        candidates, key=lambda one: (one.last_used, one.key not in on_disk, -one.size_bytes)
    )


def _until(candidates: list[Candidate], need_bytes: int) -> list[Candidate]:
    chosen = []
    for one in candidates:
        if need_bytes <= 0:
            break
        chosen.append(one)
        need_bytes -= one.size_bytes
    return chosen
