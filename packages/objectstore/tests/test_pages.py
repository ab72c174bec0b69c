"""Pages: they exist before their use, ahead of it if so told, and bytes get in by every way."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rostral_objectstore._native.heap import Heap
from rostral_objectstore._native.pages import reserve_ahead, reserved_bytes
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore.layout import CHUNK_BYTES
from rostral_objectstore.machine_memory import available_bytes
from rostral_objectstore.pages_ahead import PagesAhead

from .store import until

MEMORY_BYTES = 64 << 20


def new_segment(size: int = MEMORY_BYTES, *, huge_pages: bool = False) -> Segment:
    segment = Segment.create(size, bytes(16), 1, huge_pages=huge_pages)
    segment.use_slot(segment.claim_slot(os.getpid(), 0, 6, bytes(16), bytes(16)))
    return segment


def taken_bytes(segment: Segment) -> int:
    return os.fstat(segment.fd).st_blocks * 512


def test_pages_are_made_a_step_at_a_time_up_to_what_shall_be_ahead() -> None:
    segment = new_segment()
    before = taken_bytes(segment)
    steps = []
    while made := reserve_ahead(segment, 5 << 20, 1 << 20, 2 << 20):
        steps.append(made)
    assert steps == [2 << 20, 2 << 20, 1 << 20, 1 << 20, 1 << 20]
    assert reserved_bytes(segment) == 7 << 20
    assert 7 << 20 <= taken_bytes(segment) - before < 8 << 20


def test_many_steps_in_one_call_make_the_same_pages() -> None:
    segment = new_segment()
    assert reserve_ahead(segment, 5 << 20, 1 << 20, 2 << 20, 3) == 5 << 20
    assert reserve_ahead(segment, 5 << 20, 1 << 20, 2 << 20, 100) == 2 << 20
    assert reserve_ahead(segment, 5 << 20, 1 << 20, 2 << 20, 100) == 0


def test_pages_ahead_are_those_that_large_blocks_take_next() -> None:
    segment = new_segment()
    heap = Heap(segment)
    while reserve_ahead(segment, 4 << 20, 0, 1 << 20):
        pass
    before = taken_bytes(segment)
    assert heap.allocate(4 << 20)
    assert taken_bytes(segment) == before
    assert reserve_ahead(segment, 4 << 20, 0, 1 << 20) == 1 << 20


def test_a_store_that_is_full_has_no_pages_to_make() -> None:
    segment = new_segment()
    assert Heap(segment).allocate(MEMORY_BYTES)
    assert reserve_ahead(segment, MEMORY_BYTES, MEMORY_BYTES, 1 << 20) == 0


@pytest.fixture(params=[False, True], ids=["small-pages", "huge-pages-if-any"])
def segment(request: pytest.FixtureRequest) -> Iterator[Segment]:
    segment = new_segment(huge_pages=request.param)
    yield segment
    segment.close()


@pytest.mark.parametrize("ahead", [0, MEMORY_BYTES])
@pytest.mark.parametrize("size", [40_000, 65_536, 1_000_001, (9 << 20) + 7, (20 << 20) + 7])
def test_bytes_are_the_same_by_every_way_in(segment: Segment, size: int, ahead: int) -> None:
    """The first put writes, the second maps, the third copies; mixed where runs overlap."""
    table = ObjectTable(segment)
    while reserve_ahead(segment, ahead, ahead, 1 << 20):
        pass
    with mmap.mmap(segment.fd, os.fstat(segment.fd).st_size, prot=mmap.PROT_READ) as other:
        for i in range(6):
            kept = table.put(Handle, os.urandom(20), 2, os.urandom(50_000 * i + 1), [], [])
            value = os.urandom(size)
            handle = table.put(Handle, os.urandom(20), 2, value, [], [])
            _, _, inband, _ = table.read(handle) or (0, False, b"", [])
            assert bytes(inband) == value
            assert other.find(value) >= 0
            del inband, handle, kept


def test_a_copy_that_idle_cores_share_leaves_no_thread(segment: Segment) -> None:
    table, value = ObjectTable(segment), os.urandom(20 << 20)
    threads = os.listdir("/proc/self/task")
    for _ in range(3):
        handle = table.put(Handle, os.urandom(20), 2, value, [], [])
        _, _, inband, _ = table.read(handle) or (0, False, b"", [])
        assert bytes(inband) == value
        del inband, handle
    # Who waits for a thread goes on a little before the kernel forgets it.
    until(lambda: os.listdir("/proc/self/task") == threads, "the end of the threads")


def test_the_store_begins_where_a_huge_page_could() -> None:
    segment = new_segment()
    loc = Heap(segment).allocate(CHUNK_BYTES)
    assert loc * 64 % (2 << 20) == 0


def test_pages_are_taken_in_the_background_while_the_machine_has_memory_to_spare() -> None:
    segment = new_segment()
    left = [0]
    ahead = PagesAhead(segment, ahead_bytes=8 << 20, spare_bytes=1 << 30, available=lambda: left[0])
    ahead.start()
    try:
        assert reserved_bytes(segment) == 0
        left[0] = 2 << 30
        until(lambda: reserved_bytes(segment) == 12 << 20, "pages ahead")
        assert Heap(segment).allocate(3 << 20)
        until(lambda: reserved_bytes(segment) == 15 << 20, "pages ahead of what is used")
    finally:
        ahead.stop()


def test_pages_ahead_stop_within_a_step() -> None:
    ahead = PagesAhead(new_segment(), ahead_bytes=MEMORY_BYTES, spare_bytes=0)
    ahead.start()
    ahead.stop()


def test_available_memory_is_no_more_than_each_group_of_ours_may_take(tmp_path: Path) -> None:
    meminfo, own = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    own.write_text("2:cpu:/elsewhere\n1:memory:/old\n0::/outer/inner\n")
    root = tmp_path / "groups"
    inner = root / "outer" / "inner"
    inner.mkdir(parents=True)

    def available() -> int:
        return available_bytes(meminfo=meminfo, cgroups=root, own_cgroup=own)

    assert available() == 4000 << 10
    (inner / "memory.max").write_text("max\n")
    (root / "outer" / "memory.max").write_text(f"{3000 << 10}\n")
    (root / "outer" / "memory.current").write_text(f"{1000 << 10}\n")
    assert available() == 2000 << 10
    (root / "outer" / "memory.current").write_text(f"{5000 << 10}\n")
    assert available() == 0
    (root / "outer" / "memory.max").unlink()
    (root / "memory" / "old").mkdir(parents=True)
    (root / "memory" / "old" / "memory.limit_in_bytes").write_text(f"{2500 << 10}\n")
    (root / "memory" / "old" / "memory.usage_in_bytes").write_text(f"{1000 << 10}\n")
    assert available() == 1500 << 10


def test_available_memory_of_this_machine_is_known() -> None:
    assert available_bytes() > 0
