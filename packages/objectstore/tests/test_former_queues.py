"""Queues of a scheduler that is dead: found, closed, and freed with the tasks in them."""

from __future__ import annotations

import os

import pytest

from rostral_objectstore import layout
from rostral_objectstore._native import repair
from rostral_objectstore._native.queue import Queue
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore._native.task import TaskContext, Tasks
from rostral_objectstore.errors import QueueClosedError


def new_queue(table: ObjectTable) -> Queue:
    return Queue.create(table.segment, 64, layout.QUEUE_READY, b"j" * 16, os.urandom(16))


def submit(tasks: Tasks, queue: Queue) -> list[Handle]:
    context = TaskContext(os.urandom(16))
    return tasks.submit(Handle, context, queue.loc, 0, b"payload", [], [], 1, 0, 0, False)


def test_tasks_of_one_queue_are_ended_and_those_of_the_same_job_elsewhere_are_not(
    table: ObjectTable,
) -> None:
    tasks = Tasks(table)
    former, present = new_queue(table), new_queue(table)
    assert set(repair.queues(table.segment)) == {former.loc, present.loc}
    lost, kept = submit(tasks, former), submit(tasks, present)
    repair.close_queue(table.segment, former.loc)
    with pytest.raises(QueueClosedError):
        submit(tasks, former)
    assert repair.end_tasks_of(tasks, [former.loc]) == 1
    repair.free_queue(table.segment, former.loc)
    assert repair.queues(table.segment) == [present.loc]
    claimed = tasks.next(present.loc, 0, [])
    assert claimed is not None
    del lost, kept, claimed
    assert repair.end_tasks_of(tasks, [present.loc]) == 1
    while tasks.sweep():
        pass
    audit = repair.audit(table)
    assert (audit["objects"], audit["tasks"], audit["holds"]) == (0, 0, 0)
