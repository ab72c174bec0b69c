"""The planner of moves: what it plans can be carried out and makes the room, whatever the map."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rostral_objectstore.core import compaction
from rostral_objectstore.core.compaction import (
    Extent,
    ExtentKind,
    Move,
    largest_free,
    plan_moves,
)

FREE, MOVABLE, FIXED = ExtentKind

PIECES = st.lists(st.tuples(st.sampled_from(list(ExtentKind)), st.integers(1, 40)), max_size=60)


def map_of(pieces: list[tuple[ExtentKind, int]]) -> list[Extent]:
    """Extents one after another, free neighbours made one."""
    extents: list[Extent] = []
    first = 0
    for kind, length in pieces:
        if extents and kind == FREE == extents[-1].kind:
            extents[-1] = extents[-1]._replace(length=extents[-1].length + length)
        else:
            extents.append(Extent(first, length, kind))
        first += length
    return extents


class Store:
    """Chunks, each with the name of the run that it is part of, to try plans on."""

    def __init__(self, extents: list[Extent]) -> None:
        self.chunks: list[int | None] = []
        self.lengths = {e.first: e.length for e in extents if e.kind == MOVABLE}
        for e in extents:
            name = {FREE: None, MOVABLE: e.first, FIXED: -1}[e.kind]
            self.chunks += [name] * e.length

    def make(self, move: Move) -> None:
        assert self.lengths.pop(move.first) == move.length
        target = slice(move.target, move.target + move.length)
        assert self.chunks[target] == [None] * move.length
        self.chunks[move.first : move.first + move.length] = [None] * move.length
        self.chunks[target] = [move.target] * move.length
        self.lengths[move.target] = move.length

    def largest_free(self) -> int:
        best = now = 0
        for name in self.chunks:
            now = now + 1 if name is None else 0
            best = max(best, now)
        return best


@settings(max_examples=400, deadline=None)
@given(pieces=PIECES, wanted=st.integers(1, 200), moved_max=st.integers(0, 400))
def test_a_plan_can_be_carried_out_and_leaves_the_room(
    pieces: list[tuple[ExtentKind, int]], wanted: int, moved_max: int
) -> None:
    extents = map_of(pieces)
    moves = plan_moves(extents, wanted, moved_max=moved_max)
    if moves is None:
        assert largest_free(extents) < wanted
        return
    store = Store(extents)
    fixed = [name == -1 for name in store.chunks]
    for move in moves:
        store.make(move)
    assert store.largest_free() >= wanted
    assert fixed == [name == -1 for name in store.chunks]
    assert sum(move.length for move in moves) <= moved_max


def test_no_moves_when_there_is_room() -> None:
    extents = map_of([(MOVABLE, 3), (FREE, 5), (FIXED, 1)])
    assert plan_moves(extents, 5, moved_max=0) == []


def test_no_plan_when_too_few_chunks_are_free() -> None:
    assert plan_moves(map_of([(FREE, 2), (MOVABLE, 1), (FREE, 2)]), 5, moved_max=100) is None


def test_no_plan_across_what_must_stay() -> None:
    assert plan_moves(map_of([(FREE, 2), (FIXED, 1), (FREE, 2)]), 3, moved_max=100) is None


def test_the_cheapest_window_is_cleared_into_the_tightest_gap() -> None:
    extents = map_of(
        [
            (FREE, 4),
            (MOVABLE, 3),
            (FREE, 4),
            (MOVABLE, 2),
            (FREE, 3),
            (FIXED, 1),
            (FREE, 6),
            (FIXED, 1),
            (FREE, 2),
            (FIXED, 1),
        ]
    )
    assert plan_moves(extents, 9, moved_max=100) == [Move(11, 2, 24)]


def test_a_run_that_fits_no_gap_has_one_made_for_it() -> None:
    # The three in the window fit nowhere until the one between the two gaps has moved.
    extents = map_of(
        [
            (FREE, 4),
            (MOVABLE, 3),
            (FREE, 4),
            (FIXED, 1),
            (FREE, 1),
            (MOVABLE, 1),
            (FREE, 1),
            (FIXED, 1),
            (FREE, 1),
        ]
    )
    assert plan_moves(extents, 11, moved_max=4) == [Move(13, 1, 16), Move(4, 3, 12)]
    assert plan_moves(extents, 11, moved_max=3) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_store_kept_at_nine_tenths_has_room_for_what_fits_its_free_space(seed: int) -> None:
    """Sizes from 16 bytes to a twentieth of the store; what is less than 0.9 of the free fits."""
    chunks, chunk_bytes = 2048, 65_536
    seeded = random.Random(seed)
    runs: dict[int, int] = {}
    planned = 0
    for _ in range(1500):
        while sum(runs.values()) > 0.9 * chunks:
            del runs[seeded.choice(list(runs))]
        size = math.exp(seeded.uniform(math.log(16), math.log(chunks / 20 * chunk_bytes)))
        wanted = math.ceil(size / chunk_bytes)
        if size <= chunk_bytes / 2 or wanted > 0.9 * (chunks - sum(runs.values())):
            continue
        extents = extents_of(runs, chunks)
        moves = plan_moves(extents, wanted, moved_max=chunks)
        assert moves is not None
        planned += moves != []
        for move in moves:
            runs[move.target] = runs.pop(move.first)
        gaps = extents_of(runs, chunks)
        first = next(e.first for e in gaps if e.kind == FREE and e.length >= wanted)
        runs[first] = wanted
    assert planned > 10


def extents_of(runs: dict[int, int], chunks: int) -> list[Extent]:
    """The map of a store that holds nothing but these runs."""
    extents, at = [], 0
    for first in sorted(runs):
        if first > at:
            extents.append(Extent(at, first - at, FREE))
        extents.append(Extent(first, runs[first], MOVABLE))
        at = first + runs[first]
    if at < chunks:
        extents.append(Extent(at, chunks - at, FREE))
    return extents


def test_a_plan_that_does_not_exist_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many runs, and gaps too small for any: trials would multiply with every level of depth."""
    tried = 0
    clear = compaction._Chunks.clear

    def count(
        chunks: compaction._Chunks, bounds: tuple[int, int], kept: list[tuple[int, int]], depth: int
    ) -> bool:
        nonlocal tried
        tried += 1
        return clear(chunks, bounds, kept, depth)

    monkeypatch.setattr(compaction._Chunks, "clear", count)
    lengths = random.Random(0)
    pieces = [
        piece
        for _ in range(50)
        for piece in ((MOVABLE, lengths.randint(8, 60)), (FREE, lengths.randint(1, 6)))
    ]
    assert plan_moves(map_of(pieces), 40, moved_max=10**6) is None
    windows = compaction.WINDOWS_TRIED_IN_STEPS
    assert tried <= windows * compaction.TRIES_MAX * 8
