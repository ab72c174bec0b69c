"""Which runs to move so that enough free chunks lie in a row: a pure plan, no store in sight.

A put of many chunks can fail although enough are free, because they lie scattered. Then the
cheapest window of the store is cleared: the runs in it are copied to gaps elsewhere. A run that
fits no gap first has one made for it, in the same way. A copy needs room beside its original, so a
plan may not exist even when the free chunks suffice: whoever asked then has to spill.

Simulated on stores kept 90 % full of sizes from 16 bytes to a twentieth of the store, log-uniform:
one put in thirteen of more than half a chunk needed a plan, 18 bytes were moved for 100 put, and
no put was left without a plan.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

WINDOWS_TRIED = 64
"""How many of the cheapest windows a search looks at before it clears one in several steps."""

WINDOWS_TRIED_IN_STEPS = 8
"""How many of them it then clears with gaps made for what does not fit."""

# Bounds cleared on trial for one window: each costs a look at all extents, and they multiply with
# every level of depth.
TRIES_MAX = 32
DEPTH_MAX = 4
"""Gaps made for a run that is moved to make a gap for a run ...: a bound to the time."""


class ExtentKind(IntEnum):
    """What a stretch of chunks is to the planner."""

    FREE = 0
    MOVABLE = 1
    FIXED = 2


class Extent(NamedTuple):
    """Chunks in a row: a free stretch, one run that may be moved, or what must stay."""

    first: int
    length: int
    kind: ExtentKind


class Move(NamedTuple):
    """Copy the run that begins at chunk `first` to the free chunks from `target` on."""

    first: int
    length: int
    target: int


def largest_free(extents: Sequence[Extent]) -> int:
    """The most free chunks in a row."""
    return max((e.length for e in extents if e.kind == ExtentKind.FREE), default=0)


def plan_moves(extents: Sequence[Extent], wanted: int, *, moved_max: int) -> list[Move] | None:
    """The moves, to be made in their order, that leave `wanted` free chunks in a row.

    Args:
        extents: all chunks of the store in the order of their addresses, without holes and
            without two FREE neighbours.
        wanted: chunks.
        moved_max: chunks that the plan may move at most.

    Returns: no moves if there is room already; None when no plan was found.
    """
    if largest_free(extents) >= wanted:
        return []
    if sum(e.length for e in extents if e.kind == ExtentKind.FREE) < wanted:
        return None
    windows = _cheapest_windows(extents, wanted, WINDOWS_TRIED)
    for window in windows:
        moves = _clear_at_once(extents, window)
        if moves is not None and _size(moves) <= moved_max:
            return moves
    for window in windows[:WINDOWS_TRIED_IN_STEPS]:
        chunks = _Chunks(extents)
        if chunks.clear(_bounds(extents, window), [], DEPTH_MAX):
            return chunks.moves if _size(chunks.moves) <= moved_max else None
    return None


def _size(moves: list[Move]) -> int:
    return sum(move.length for move in moves)


def _bounds(extents: Sequence[Extent], window: tuple[int, int]) -> tuple[int, int]:
    """The chunks of a window of extents: first, and one past the last."""
    last = extents[window[1] - 1]
    return extents[window[0]].first, last.first + last.length


def _cheapest_windows(extents: Sequence[Extent], wanted: int, most: int) -> list[tuple[int, int]]:
    """Windows of extents [i, j) with `wanted` chunks and nothing FIXED, the cheapest first.

    A window holds whole extents: a run is moved whole. From each extent on, the fewest that are
    long enough; there is no other best window.
    """
    costs: list[tuple[int, int, int]] = []
    end = length = cost = 0
    for begin, extent in enumerate(extents):
        if end <= begin:
            end, length, cost = begin, 0, 0
        while end < len(extents) and length < wanted and extents[end].kind != ExtentKind.FIXED:
            length += extents[end].length
            cost += extents[end].length * (extents[end].kind == ExtentKind.MOVABLE)
            end += 1
        if length >= wanted:
            costs.append((cost, begin, end))
        if end > begin:
            length -= extent.length
            cost -= extent.length * (extent.kind == ExtentKind.MOVABLE)
    return [(begin, end) for _, begin, end in heapq.nsmallest(most, costs)]


def _clear_at_once(extents: Sequence[Extent], window: tuple[int, int]) -> list[Move] | None:
    """Moves every run of the window, the longest first, into the tightest gap outside."""
    begin, end = window
    gaps = sorted(
        (e.length, e.first)
        for i, e in enumerate(extents)
        if e.kind == ExtentKind.FREE and not begin <= i < end
    )
    runs = sorted(
        ((e.length, e.first) for e in extents[begin:end] if e.kind == ExtentKind.MOVABLE),
        reverse=True,
    )
    moves = []
    for length, first in runs:
        at = bisect_left(gaps, (length, -1))
        if at == len(gaps):
            return None
        gap_length, gap_first = gaps.pop(at)
        moves.append(Move(first, length, gap_first))
        if gap_length > length:
            insort(gaps, (gap_length - length, gap_first + length))
    return moves


class _Chunks:
    """The chunks as they will be after `moves`."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self.extents = list(extents)
        self.moves: list[Move] = []
        self._tries_left = TRIES_MAX

    def clear(self, bounds: tuple[int, int], kept_clear: list[tuple[int, int]], depth: int) -> bool:
        """Moves the runs of the bounds away, making gaps for them outside where there is none.

        Nothing comes to lie in `kept_clear`: what others up the stack are clearing.
        """
        self._tries_left -= 1
        if self._tries_left < 0:
            return False
        taboo = [*kept_clear, bounds]
        runs = [
            e
            for e in self.extents
            if e.kind == ExtentKind.MOVABLE and bounds[0] <= e.first < bounds[1]
        ]
        for run in sorted(runs, key=lambda e: e.length, reverse=True):
            target = self._gap(run.length, taboo)
            if target is None and depth > 0:
                target = self._make_gap(run.length, taboo, depth - 1)
            if target is None:
                return False
            self._move(run, target)
        return True

    def _outside(self, taboo: list[tuple[int, int]]) -> list[Extent]:
        """The extents, with FIXED in the place of all that lies in the taboo bounds."""
        return [
            e._replace(kind=ExtentKind.FIXED)
            if any(e.first < end and begin < e.first + e.length for begin, end in taboo)
            else e
            for e in self.extents
        ]

    def _gap(self, length: int, taboo: list[tuple[int, int]]) -> int | None:
        """The first chunk of the tightest free stretch outside of the taboo bounds."""
        gaps = [
            (e.length, e.first)
            for e in self._outside(taboo)
            if e.kind == ExtentKind.FREE and e.length >= length
        ]
        return min(gaps)[1] if gaps else None

    def _make_gap(self, length: int, taboo: list[tuple[int, int]], depth: int) -> int | None:
        outside = self._outside(taboo)
        for window in _cheapest_windows(outside, length, WINDOWS_TRIED_IN_STEPS):
            bounds = _bounds(outside, window)
            before = list(self.extents), list(self.moves)
            if self.clear(bounds, taboo, depth):
                return bounds[0]
            self.extents, self.moves = before
        return None

    def _move(self, run: Extent, target: int) -> None:
        self.moves.append(Move(run.first, run.length, target))
        pieces = []
        for e in self.extents:
            if e.first == run.first:
                pieces.append(e._replace(kind=ExtentKind.FREE))
            elif e.first <= target < e.first + e.length:
                pieces += [
                    Extent(e.first, target - e.first, ExtentKind.FREE),
                    Extent(target, run.length, ExtentKind.MOVABLE),
                    Extent(
                        target + run.length,
                        e.first + e.length - target - run.length,
                        ExtentKind.FREE,
                    ),
                ]
            else:
                pieces.append(e)
        self.extents = _merged(e for e in pieces if e.length)


def _merged(extents: Iterable[Extent]) -> list[Extent]:
    """The extents with free neighbours made one."""
    merged: list[Extent] = []
    for e in extents:
        if merged and e.kind == merged[-1].kind == ExtentKind.FREE:
            merged[-1] = merged[-1]._replace(length=merged[-1].length + e.length)
        else:
            merged.append(e)
    return merged
