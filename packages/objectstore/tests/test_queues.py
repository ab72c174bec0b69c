"""The ring of a queue: long ones are made of whatever memory there is, as they fill."""

from __future__ import annotations

import pytest

from rostral_objectstore._native.pages import reserve_ahead, reserved_bytes
from rostral_objectstore._native.queue import Queue
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore._native.task import TaskContext, Tasks
from rostral_objectstore.errors import ObjectStoreFullError
from rostral_objectstore.layout import CHUNK_BYTES
from rostral_objectstore.serialization import KIND_BYTES

# 512 KiB: eight chunks, of which the tasks below fill three.
CAPACITY = 1 << 16
TASK_COUNT = 20_000
PARENT = TaskContext(bytes(16))


def long_queue(segment: Segment) -> Queue:
    return Queue.create(segment, CAPACITY, 1, bytes(16), bytes(16))


def submit(tasks: Tasks, queue: Queue, number: int) -> None:
    payload = number.to_bytes(4, "little")
    tasks.submit(Handle, PARENT, queue.loc, 7, payload, [], [], 0, 0, 0, False)


def claim(tasks: Tasks, queue: Queue) -> int:
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    tasks.finish(claimed)
    return int.from_bytes(claimed.payload, "little")


def fill_and_empty(tasks: Tasks, queue: Queue) -> None:
    for number in range(TASK_COUNT):
        submit(tasks, queue, number)
    assert [claim(tasks, queue) for _ in range(TASK_COUNT)] == list(range(TASK_COUNT))
    assert tasks.next(queue.loc, 0, []) is None
    tasks.sweep()


def test_a_ring_takes_pages_as_it_fills(table: ObjectTable, tasks: Tasks) -> None:
    fill_and_empty(tasks, long_queue(table.segment))  # the records of the tasks have theirs now
    before = reserved_bytes(table.segment)
    queue = long_queue(table.segment)
    made = reserved_bytes(table.segment) - before
    fill_and_empty(tasks, queue)
    filled = reserved_bytes(table.segment) - before
    assert (made, filled) == (64 << 10, 3 * 64 << 10)


def test_a_ring_takes_no_pages_back_where_some_chunks_have_none(table: ObjectTable) -> None:
    while reserve_ahead(table.segment, 4 << 20, 2 << 20, 1 << 20):
        pass
    before = reserved_bytes(table.segment)
    long_queue(table.segment)
    assert reserved_bytes(table.segment) - before == CHUNK_BYTES


def use_all_memory(table: ObjectTable) -> None:
    used = []
    full = b"\xff" * CHUNK_BYTES
    with pytest.raises(ObjectStoreFullError):
        for number in range(table.segment.capacity // CHUNK_BYTES + 1):
            used.append(table.put(Handle, number.to_bytes(20), KIND_BYTES, full, [], []))
    assert reserved_bytes(table.segment) == table.segment.capacity


def test_a_ring_of_memory_that_was_used_is_empty(table: ObjectTable, tasks: Tasks) -> None:
    use_all_memory(table)
    queue = long_queue(table.segment)
    assert reserved_bytes(table.segment) == table.segment.capacity - 8 * CHUNK_BYTES
    fill_and_empty(tasks, queue)


def test_a_ring_that_was_freed_leaves_nothing_to_the_next(table: ObjectTable, tasks: Tasks) -> None:
    for _ in range(3):
        queue = long_queue(table.segment)
        fill_and_empty(tasks, queue)
        submit(tasks, queue, 0)
        loc = queue.loc
        assert claim(tasks, queue) == 0
        queue.free()
        assert long_queue(table.segment).loc == loc
        Queue(table.segment, loc).free()


def test_a_ring_goes_round(table: ObjectTable, tasks: Tasks) -> None:
    queue = long_queue(table.segment)
    for _ in range(2 * CAPACITY // TASK_COUNT + 1):
        fill_and_empty(tasks, queue)
    for number in range(CAPACITY):
        submit(tasks, queue, number)
    assert [claim(tasks, queue) for _ in range(CAPACITY)] == list(range(CAPACITY))
