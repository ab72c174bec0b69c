"""Tasks that the scheduler takes out of a queue to have them run elsewhere."""

from __future__ import annotations

import os

import pytest

from rostral_objectstore._native import cancelling, forwarding
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore._native.task import TaskContext, Tasks
from rostral_objectstore.layout import TaskFlag

from .test_tasks import new_queue, submit


def ids_of(segment: Segment, locs: list[int]) -> list[bytes]:
    return [forwarding.specification(segment, loc)[3] for loc in locs]


def claimed_payloads(tasks: Tasks, queue: int) -> list[bytes]:
    found = []
    while (claimed := tasks.next(queue, 0, [])) is not None:
        found.append(bytes(claimed.payload))
        tasks.finish(claimed)
    return found


def test_the_oldest_are_taken_first(table: ObjectTable, tasks: Tasks) -> None:
    segment = table.segment
    queue = new_queue(segment)
    for i in range(5):
        submit(tasks, queue, b"%d" % i)
    first = forwarding.claim_first(segment, queue.loc, 2)
    assert ids_of(segment, first) == [b"0", b"1"]
    assert claimed_payloads(tasks, queue.loc) == [b"2", b"3", b"4"]
    for loc, task_id in [(loc, forwarding.specification(segment, loc)[0]) for loc in first]:
        forwarding.finish(segment, loc, task_id)
    assert tasks.sweep() == 0


def test_a_taken_task_goes_into_another_queue_with_its_retries(
    table: ObjectTable, tasks: Tasks
) -> None:
    segment = table.segment
    queue, second = new_queue(segment), new_queue(segment)
    (handle,) = submit(tasks, queue, b"moved")
    (loc,) = forwarding.claim_first(segment, queue.loc, 8)
    task_id = handle.binary()[:16]
    assert forwarding.flags_of(segment, loc, task_id) == 0
    assert forwarding.flags_of(segment, loc, bytes(16)) is None, "another task's id"
    assert forwarding.requeue(segment, loc, task_id, second.loc, 7)
    assert forwarding.flags_of(segment, loc, task_id) is None, "it is nobody's now"
    assert claimed_payloads(tasks, second.loc) == [b"moved"]


def test_a_cancelled_task_is_not_put_back(table: ObjectTable, tasks: Tasks) -> None:
    segment = table.segment
    queue = new_queue(segment)
    (handle,) = submit(tasks, queue, b"unwanted")
    (loc,) = forwarding.claim_first(segment, queue.loc, 1)
    task_id = handle.binary()[:16]
    assert cancelling.cancel_result(table, handle, 0, 2, b"error", 1) == loc
    assert not forwarding.requeue(segment, loc, task_id, queue.loc, 1)
    flags = forwarding.flags_of(segment, loc, task_id)
    assert flags is not None
    assert flags & TaskFlag.CANCELLED
    table.fill_at(forwarding.specification(segment, loc)[8][0], 2, b"error", [], [], 1)
    forwarding.finish(segment, loc, task_id)
    assert tasks.sweep() == 0


def test_the_end_of_each_task_is_told_once(table: ObjectTable) -> None:
    told = Tasks(table)
    told.tells_done = True
    queue = new_queue(table.segment)
    context = TaskContext(os.urandom(16))
    kept = []
    for i in range(8):
        task_id = os.urandom(16)
        kept += told.submit(
            Handle, context, queue.loc, 0, b"%d" % i, [], [], 1, 0, 0, False, task_id
        )
        assert forwarding.newest(told, task_id)
        assert not forwarding.newest(told, bytes(16))
    wanted = {handle.binary()[:16] for handle in kept}
    found = []
    for _ in range(2):
        for _ in range(4):
            claimed = told.next(queue.loc, 0, [])
            assert claimed is not None
            table.fill_at(claimed.returns[0], 2, b"made", [], [])
            told.finish(claimed)
        found += forwarding.take_done(told)
    assert len(found) == 8
    assert set(found) == wanted
    assert told.unfinished_count == 0


def test_who_watches_is_poked_by_every_seal(table: ObjectTable) -> None:
    segment = table.segment
    forwarding.watch_results(segment)
    handle = table.expect(Handle, os.urandom(20))
    seen = segment.futex_value()
    table.fill(handle, 2, b"made", [], [])
    assert segment.futex_value() != seen


def test_only_a_claimed_task_has_a_specification(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment)
    (handle,) = submit(tasks, queue, b"ready")
    loc = forwarding.newest(tasks, handle.binary()[:16])
    with pytest.raises(ValueError, match="claimed"):
        forwarding.specification(table.segment, loc)
    assert claimed_payloads(tasks, queue.loc) == [b"ready"]
