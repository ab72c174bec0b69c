"""Cancelling: one compare-and-swap says who ends a task, and it never runs again."""

from __future__ import annotations

import os
import time

import pytest

from rostral_objectstore._native import cancelling, repair
from rostral_objectstore._native.cancelling import children_of, late
from rostral_objectstore._native.queue import Queue
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore._native.task import TaskContext, Tasks
from rostral_objectstore.errors import QueueFullError
from rostral_objectstore.layout import ObjectFlag, SlotState, TaskFlag, TaskState

from .store import Store, until
from .test_tasks import new_queue, submit

ERROR = 2, b"cancelled", int(ObjectFlag.ERROR)


def cancel_result(table: ObjectTable, handle: Handle, flags: int) -> int | None:
    return cancelling.cancel_result(table, handle, flags, *ERROR)


def cancel_at(table: ObjectTable, loc: int, task_id: bytes, flags: int) -> int | None:
    return cancelling.cancel_at(table, loc, task_id, flags, *ERROR)


def value(table: ObjectTable, handle: Handle) -> tuple[bool, bytes]:
    read = table.read(handle)
    assert read is not None
    return read[1], bytes(read[2])


def test_a_queued_task_is_the_cancellers_to_end_and_is_never_claimed(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    (first,), (second,) = submit(tasks, queue, b"first"), submit(tasks, queue, b"second")
    assert cancel_result(table, first, 0) == 0
    assert cancel_result(table, first, 0) is None, "once is enough"
    assert value(table, first) == (True, b"cancelled")
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    assert claimed.payload == b"second"
    table.fill_at(claimed.returns[0], 2, b"made", [], [])
    tasks.finish(claimed)
    assert tasks.next(queue.loc, 0, []) is None
    assert cancel_result(table, second, 0) is None, "it is done"
    assert tasks.sweep() == 0


def test_a_task_that_waits_for_inputs_is_ended_before_them(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    late_inputs = [table.expect(Handle, os.urandom(20)) for _ in range(2)]
    (result,) = submit(tasks, queue, needs=late_inputs)
    assert cancel_result(table, result, 0) == 0
    assert value(table, result) == (True, b"cancelled")
    assert tasks.sweep() == 0
    for handle in late_inputs:
        table.fill(handle, 2, b"", [], [])
    assert tasks.next(queue.loc, 0, []) is None
    assert repair.list_tasks(table.segment, 10) == []


def test_a_running_task_is_flagged_and_not_run_again(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment)
    (result,) = submit(tasks, queue, retries=5)
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    assert not tasks.is_cancelled(claimed)
    assert cancel_result(table, result, int(TaskFlag.CANCEL_CHILDREN)) == claimed.loc
    assert tasks.is_cancelled(claimed)
    assert tasks.flags(claimed) == TaskFlag.CANCELLED | TaskFlag.CANCEL_CHILDREN
    assert not repair.run_again(table.segment, claimed.loc)
    repair.fail(table, claimed.loc, *ERROR)
    assert value(table, result) == (True, b"cancelled")


def test_a_locator_without_its_task_cancels_nothing(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment)
    (result,) = submit(tasks, queue)
    (task,) = repair.list_tasks(table.segment, 10)
    assert cancel_at(table, task["loc"], bytes(16), 0) is None
    assert cancel_at(table, 1, task["id"], 0) is None
    assert cancel_at(table, queue.loc, task["id"], 0) is None
    assert cancel_at(table, result.loc, task["id"], 0) is None
    put = table.put(Handle, os.urandom(20), 2, b"value", [], [])
    assert cancel_result(table, put, 0) is None
    assert cancel_at(table, task["loc"], task["id"], 0) == 0


def test_a_parents_children_are_found(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment)
    parent, other = TaskContext(os.urandom(16)), TaskContext(os.urandom(16))
    submit(tasks, queue, parent=parent, returns=0)
    submit(tasks, queue, parent=other)
    submit(tasks, queue, parent=parent)
    children = children_of(table.segment, parent.task_id())
    assert len(children) == 2
    for loc, task_id in children:
        assert cancel_at(table, loc, task_id, 0) == 0
    assert children_of(table.segment, parent.task_id()) == []
    assert len(children_of(table.segment, other.task_id())) == 1


def test_only_tasks_over_their_deadline_are_late(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment)
    now = time.monotonic_ns()
    results = [
        tasks.submit(
            *(Handle, TaskContext(os.urandom(16)), queue.loc, 0, b"", [], [], 1, 0, 0, False),
            deadline_ns=deadline,
        )[0]
        for deadline in (0, now - 1, now + 10**12)
    ]
    ((loc, task_id),) = late(tasks, now)
    assert results[1].binary().startswith(task_id)
    assert repair.task_info(table.segment, loc)["deadline_ns"] == now - 1
    assert cancel_at(table, loc, task_id, int(TaskFlag.LATE)) == 0
    assert late(tasks, now) == []


def test_a_full_queue_leaves_nothing_of_the_task(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment, capacity=1)
    submit(tasks, queue)
    with pytest.raises(QueueFullError):
        submit(tasks, queue)
    assert len(repair.list_tasks(table.segment, 10)) == 1


def test_a_canceller_that_dies_has_its_task_ended_by_the_scheduler(store: Store) -> None:
    client = store.connect()
    queue = Queue.create(client.segment, 64, 1, bytes(16), bytes(16))
    context = TaskContext(os.urandom(16))
    (result,) = client.tasks.submit(Handle, context, queue.loc, 0, b"", [], [], 1, 3, 0, False)
    peer = store.peer(attached=False)
    peer.do("os.environ['ROSTRAL_FAILPOINTS'] = 'cancel.marked=kill'")
    peer.do("client = StoreClient.connect(socket)", socket=store.socket)
    slot = peer.ask("client.slot")
    peer.begin(
        "from rostral_objectstore._native.cancelling import cancel_result\n"
        "handle = client.table.adopt_packed(Handle, packed)\n"
        "cancel_result(client.table, handle, 0, 2, b'', 0)",
        packed=result.packed(),
    )
    segment = client.segment
    until(lambda: segment.slot_info(slot)["state"] != SlotState.LIVE, "the canceller's death")
    (task,) = repair.list_tasks(segment, 10)
    assert (task["state"], task["slot"]) == (TaskState.CLAIMED, slot)
    assert task["flags"] & TaskFlag.CANCELLED
    assert not repair.run_again(segment, task["loc"])
    repair.fail(client.table, task["loc"], *ERROR)
    assert value(client.table, result) == (True, b"cancelled")
    assert client.tasks.next(queue.loc, 0, []) is None


def test_a_task_that_is_claimed_after_its_deadline_is_cancelled_as_late(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    now = time.monotonic_ns()
    for deadline in (0, now - 1, now + 10**12):
        tasks.submit(
            *(Handle, TaskContext(os.urandom(16)), queue.loc, 0, b"", [], [], 1, 0, 0, False),
            deadline_ns=deadline,
        )
    wanted = TaskFlag.CANCELLED | TaskFlag.LATE | TaskFlag.CANCEL_CHILDREN
    for flags in (0, wanted, 0):
        claimed = tasks.next(queue.loc, 0, [])
        assert claimed is not None
        assert tasks.flags(claimed) == flags
        assert tasks.is_cancelled(claimed) == bool(flags)
        table.fill_at(claimed.returns[0], 2, b"made", [], [])
        tasks.finish(claimed)
    assert late(tasks, now) == []
