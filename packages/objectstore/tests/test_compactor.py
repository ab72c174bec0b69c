"""Closing gaps: what can be moved is, unharmed; what is pinned or small stays where it is."""

from __future__ import annotations

import math
import os
import random

import pytest

from rostral_objectstore._native import residence
from rostral_objectstore._native.chunk_map import chunk_map
from rostral_objectstore._native.heap import Heap
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore.compactor import Compactor
from rostral_objectstore.core.compaction import Extent, ExtentKind, largest_free
from rostral_objectstore.errors import ObjectStoreFullError
from rostral_objectstore.layout import CHUNK_BYTES

FREE, MOVABLE, FIXED = ExtentKind


def put(table: ObjectTable, value: bytes) -> Handle:
    return table.put(Handle, os.urandom(20), 2, value, [], [])


def value_of(table: ObjectTable, handle: Handle) -> bytes:
    read = table.read(handle)
    assert read is not None
    return bytes(read[2])


def extents_of(table: ObjectTable) -> list[Extent]:
    return [Extent._make(extent) for extent in chunk_map(table)[0]]


def scattered(table: ObjectTable, chunks: int) -> dict[Handle, bytes]:
    """Fills the store with objects of so many chunks and lets every second one go."""
    kept: dict[Handle, bytes] = {}
    while True:
        value = os.urandom(16) * (chunks * CHUNK_BYTES // 16)
        try:
            kept[put(table, value)] = value
        except ObjectStoreFullError:
            break
    for handle in list(kept)[::2]:
        del kept[handle]
    return kept


def test_the_map_tells_free_from_movable_from_fixed(table: ObjectTable) -> None:
    first, second = put(table, bytes(100_000)), put(table, bytes(CHUNK_BYTES))
    pinned = table.read(first)
    extents, runs = chunk_map(table)
    assert extents[:2] == [(0, 2, FIXED), (2, 1, MOVABLE)]
    assert runs == {2: (second.loc, second.version, second.binary())}
    assert extents[2][2] == FREE
    assert sum(length for _, length, _ in extents) == table.segment.capacity // CHUNK_BYTES
    del pinned
    assert chunk_map(table)[0][0] == (0, 2, MOVABLE)


def test_free_chunks_that_lie_scattered_are_brought_together(table: ObjectTable) -> None:
    kept = scattered(table, 3)
    assert largest_free(extents_of(table)) < 20
    compactor = Compactor(table)
    assert compactor.make_run(300)
    assert largest_free(extents_of(table)) >= 300
    assert compactor.moved_bytes == compactor.moves * 3 * CHUNK_BYTES > 0
    assert all(value_of(table, handle) == value for handle, value in kept.items())
    assert value_of(table, put(table, bytes(300 * CHUNK_BYTES)))[-1] == 0


def test_what_is_pinned_is_not_moved(table: ObjectTable) -> None:
    kept = scattered(table, 3)
    buffers = [table.read(handle) for handle in kept]
    compactor = Compactor(table)
    assert not compactor.make_run(300)
    assert compactor.moves == 0
    del buffers
    assert compactor.make_run(300)


def test_more_than_is_free_is_not_to_be_had(table: ObjectTable) -> None:
    kept = scattered(table, 3)
    free = sum(extent.length for extent in extents_of(table) if extent.kind == FREE)
    compactor = Compactor(table)
    assert not compactor.make_run(free + 1)
    assert compactor.moves == 0
    assert kept


def test_a_block_moves_only_to_chunks_that_are_free(table: ObjectTable) -> None:
    first, second = put(table, bytes(range(256)) * 600), put(table, bytes(200_000))
    assert not residence.move(table, first, 4)
    assert not residence.move(table, first, table.segment.capacity // CHUNK_BYTES - 1)
    assert residence.move(table, first, 20)
    assert chunk_map(table)[1][20] == (first.loc, first.version, first.binary())
    assert value_of(table, first) == bytes(range(256)) * 600
    assert value_of(table, second) == bytes(200_000)
    del first, second
    Heap(table.segment).trim()
    assert sum(length for _, length, kind in chunk_map(table)[0] if kind == MOVABLE) == 0


@pytest.mark.parametrize("seed", range(2))
def test_a_put_that_fits_nine_tenths_of_the_free_space_finds_room(seed: int) -> None:
    segment = Segment.create(64 << 20, bytes(16), 1)
    segment.use_slot(segment.claim_slot(os.getpid(), 0, 6, bytes(16), bytes(16)))
    table, heap, seeded = ObjectTable(segment), Heap(segment), random.Random(seed)
    chunks = segment.capacity // CHUNK_BYTES
    compactor = Compactor(table)
    kept: list[tuple[Handle, int, int]] = []
    for number in range(800):
        while kept and heap.chunks_by_kind()[0] < chunks // 10:
            kept.pop(seeded.randrange(len(kept)))
            heap.trim()
        size = int(math.exp(seeded.uniform(math.log(16), math.log(segment.capacity / 20))))
        wanted = math.ceil(size / CHUNK_BYTES)
        if wanted > 0.9 * heap.chunks_by_kind()[0]:
            continue
        value = number.to_bytes(8, "little") * (size // 8)
        try:
            handle = put(table, value)
        except ObjectStoreFullError:
            assert compactor.make_run(wanted)
            handle = put(table, value)
        kept.append((handle, number, size))
    assert compactor.moves > 0
    for handle, number, size in kept:
        assert value_of(table, handle) == number.to_bytes(8, "little") * (size // 8)
