"""The heap: blocks of every size, none overlapping, and all of it empty again in the end."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rostral_objectstore._native.heap import Heap
from rostral_objectstore._native.segment import Segment
from rostral_objectstore.layout import CHUNK_BYTES

MEMORY_BYTES = 16 << 20
CHUNKS = MEMORY_BYTES // CHUNK_BYTES


def new_heap() -> Heap:
    segment = Segment.create(MEMORY_BYTES, bytes(16), 1)
    segment.use_slot(new_slot(segment))
    return Heap(segment)


def new_slot(segment: Segment) -> int:
    return segment.claim_slot(os.getpid(), 0, 6, bytes(16), bytes(16))


def free_chunks(heap: Heap) -> int:
    heap.trim()
    return heap.chunks_by_kind()[0]


SIZES = st.one_of(st.integers(1, 600), st.integers(1, 40_000), st.integers(1, MEMORY_BYTES // 8))


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), SIZES), max_size=200), seed=st.randoms())
def test_live_blocks_never_overlap_and_freed_ones_come_back(
    steps: list[tuple[bool, int]], seed: random.Random
) -> None:
    heap = new_heap()
    live: dict[int, int] = {}
    for keep, size in steps:
        if live and not keep:
            loc = seed.choice(sorted(live))
            del live[loc]
            heap.release(loc)
            continue
        loc = heap.allocate(size)
        if loc == 0:
            continue
        start, end = loc * 64, loc * 64 + size
        for other, other_size in live.items():
            assert end <= other * 64 or other * 64 + other_size <= start
        live[loc] = size
    for loc in live:
        heap.release(loc)
    assert free_chunks(heap) == CHUNKS


BLOCKS = [(1, 64), (64, 64), (65, 128), (257, 320), (1000, 1024), (4097, 5120), (32_768, 32_768)]


@pytest.mark.parametrize(("size", "block"), BLOCKS)
def test_small_blocks_fill_the_store(size: int, block: int) -> None:
    heap = new_heap()
    locs = []
    while loc := heap.allocate(size):
        locs.append(loc)
    assert len(set(locs)) == len(locs) == CHUNKS * (CHUNK_BYTES // block)
    assert all(loc * 64 % CHUNK_BYTES % block == 0 for loc in locs)
    for loc in locs:
        heap.release(loc)
    assert free_chunks(heap) == CHUNKS


@pytest.mark.parametrize("chunks", [1, 2, 3, 100, CHUNKS])
def test_runs_fill_the_store(chunks: int) -> None:
    heap = new_heap()
    size = chunks * CHUNK_BYTES - 1 if chunks > 1 else 40_000
    locs = [heap.allocate(size) for _ in range(CHUNKS // chunks)]
    assert 0 not in locs
    assert heap.allocate(size) == 0
    heap.release(locs[0])
    assert heap.allocate(size) == locs[0]
    for loc in locs:
        heap.release(loc)
    assert heap.chunks_by_kind()[0] == CHUNKS


@pytest.mark.parametrize("size", [MEMORY_BYTES + 1, 1 << 40, (1 << 64) - 1, (1 << 64) - 65_535])
def test_more_than_the_store_is_refused(size: int) -> None:
    heap = new_heap()
    assert heap.allocate(size) == 0
    assert heap.chunks_by_kind()[0] == CHUNKS


def test_the_lowest_free_chunks_are_used_first() -> None:
    heap = new_heap()
    locs = [heap.allocate(CHUNK_BYTES) for _ in range(20)]
    assert locs == sorted(locs)
    heap.release(locs[6])
    heap.release(locs[2])
    assert heap.allocate(CHUNK_BYTES) == locs[2]
    assert heap.allocate(CHUNK_BYTES) == locs[6]
    assert heap.allocate(CHUNK_BYTES) > locs[19]


def test_of_two_processes_each_gets_the_chunks_again_that_it_had() -> None:
    size = 3 * CHUNK_BYTES
    first = new_heap()
    another = Segment.attach(os.dup(first.segment.fd), new_slot(first.segment))
    heaps = [first, Heap(another)]
    locs = [heap.allocate(size) for heap in heaps]
    for _ in range(3):
        for heap, loc in zip(heaps, locs, strict=True):
            heap.release(loc)
        assert [heap.allocate(size) for heap in reversed(heaps)] == locs[::-1]


def test_every_second_block_freed_is_used_again_before_new_chunks() -> None:
    heap = new_heap()
    locs = [heap.allocate(4096) for _ in range(1600)]
    chunks = heap.chunks_by_kind()[2]
    for loc in locs[::2]:
        heap.release(loc)
    again = [heap.allocate(4096) for _ in range(700)]
    assert 0 not in again
    # A process looks through a few of its slabs, not through all, before it takes one more.
    assert heap.chunks_by_kind()[2] <= chunks + 5


def test_slabs_that_their_owner_empties_go_back_by_themselves() -> None:
    heap = new_heap()
    locs = [heap.allocate(1024) for _ in range(64 * 200)]
    assert heap.chunks_by_kind()[2] == 200
    for loc in locs:
        heap.release(loc)
    assert heap.chunks_by_kind()[2] < 60


def test_a_freed_block_is_the_next_one_given_out() -> None:
    heap = new_heap()
    locs = [heap.allocate(100) for _ in range(10)]
    heap.release(locs[3])
    assert heap.allocate(100) == locs[3]


def test_memory_is_taken_from_the_machine_as_it_is_used() -> None:
    segment = Segment.create(1 << 30, bytes(16), 1)
    segment.use_slot(segment.claim_slot(os.getpid(), 0, 6, bytes(16), bytes(16)))
    before = os.fstat(segment.fd).st_blocks * 512
    assert before < 2 << 20  # the tables, and the first level of the index
    assert Heap(segment).allocate(10 << 20)
    assert 10 << 20 <= os.fstat(segment.fd).st_blocks * 512 - before < 12 << 20


def test_the_segment_can_neither_shrink_nor_grow_and_is_its_users_alone() -> None:
    segment = new_heap().segment
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fd, size)
    assert os.fstat(segment.fd).st_mode & 0o777 == 0o600
