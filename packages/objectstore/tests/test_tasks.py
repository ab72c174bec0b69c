"""Tasks: started once, when their inputs are sealed; run again, taken over, ended."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest

from rostral_gcs.ids import ObjectID
from rostral_objectstore import ObjectHandle, StoreClient
from rostral_objectstore._native import repair
from rostral_objectstore._native.heap import Heap
from rostral_objectstore._native.queue import Queue
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore._native.task import TaskContext, Tasks
from rostral_objectstore.errors import (
    ObjectStoreFullError,
    QueueClosedError,
    QueueFullError,
)
from rostral_objectstore.layout import RETRY_FOREVER, ObjectFlag, SlotState, TaskState

from .store import Peer, Store, until

WORK = """
signal.signal(signal.SIGUSR1, lambda *_: globals().update(stopped=True))
stopped, ran = False, []
while not stopped:
    task = tasks.next(queue, 20_000_000, [])
    if task is not None:
        for dependency in task.dependencies:
            held = table.adopt_held(Handle, dependency)
            assert table.is_sealed(held)
            del held
        ran.append(task.payload)
        for result in task.returns:
            table.fill_at(result, 2, task.payload, [], [])
        tasks.finish(task)
"""


def context(seed: int = 1) -> TaskContext:
    return TaskContext(seed.to_bytes(16, "little"))


def new_queue(segment: Segment, capacity: int = 64) -> Queue:
    return Queue.create(segment, capacity, 1, b"j" * 16, b"k" * 16)


def submit(
    tasks: Tasks,
    queue: Queue,
    payload: bytes = b"",
    needs: list[Handle] | None = None,
    *,
    parent: TaskContext | None = None,
    returns: int = 1,
    retries: int = 0,
    nested: list[Handle] | None = None,
) -> list[Handle]:
    return tasks.submit(
        Handle,
        parent or TaskContext(os.urandom(16)),
        queue.loc,
        7,
        payload,
        needs or [],
        nested or [],
        returns,
        retries,
        0,
        False,
    )


def test_a_task_is_claimed_run_and_its_results_waited_for(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment)
    first, second = submit(tasks, queue, b"payload", returns=2)
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    assert (claimed.payload, claimed.function, claimed.attempt) == (b"payload", 7, 0)
    assert claimed.returns == (first.loc, second.loc)
    assert claimed.dependencies == ()
    assert first.binary() == claimed.id + b"\0\0\0\0"
    assert second.binary() == claimed.id + b"\1\0\0\0"
    for number, result in enumerate(claimed.returns):
        assert table.fill_at(result, 2, b"%d" % number, [], [])
        assert not table.fill_at(result, 2, b"again", [], [])
    tasks.finish(claimed)
    assert table.wait([first, second], 2, -1) == 2
    assert tasks.unfinished_count == 1
    assert tasks.sweep() == 0
    assert repair.list_tasks(table.segment, 10) == []


def test_ids_derive_the_same_again() -> None:
    first, again, other = context(1), context(1), context(2)
    ids = [first.next_child_id() for _ in range(100)]
    assert ids == [again.next_child_id() for _ in range(100)]
    assert len(set(ids) | {other.next_child_id() for _ in range(100)}) == 200
    puts = [first.next_put_id() for _ in range(3)]
    assert puts == [(1).to_bytes(16, "little") + bytes([i, 0, 0, 128]) for i in range(3)]


def test_a_parent_that_runs_again_finds_its_children(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment)
    first = submit(tasks, queue, parent=context(), returns=2)
    assert submit(tasks, queue, parent=context(), returns=2) == first
    assert len(queue) == 1
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    table.fill_at(claimed.returns[0], 2, b"", [], [])
    table.fill_at(claimed.returns[1], 2, b"", [], [])
    tasks.finish(claimed)
    assert submit(tasks, queue, parent=context(), returns=2) == first
    assert len(queue) == 0
    # One of two results is gone: what makes it must run again.
    del first[1]
    again = submit(tasks, queue, parent=context(), returns=2)
    assert len(queue) == 1
    assert [table.is_sealed(result) for result in again] == [True, False]


def test_a_result_that_somebody_expects_already_is_made(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment)
    id = context().next_child_id()
    expected = [table.expect(Handle, id + bytes([i, 0, 0, 0])) for i in range(2)]
    assert submit(tasks, queue, parent=context(), returns=2) == expected
    info = repair.list_tasks(table.segment, 10)[0]
    assert info["returns"] == [handle.loc for handle in expected]
    loc = expected[1].loc
    del expected
    assert table.adopt_held(Handle, loc).loc == loc  # the task keeps what it will make


def test_inputs_are_held_until_the_task_is_done(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment)
    needed = table.put(Handle, b"n" * 20, 2, b"", [], [])
    kept = table.put(Handle, b"k" * 20, 2, b"", [], [])
    result = submit(tasks, queue, needs=[needed], nested=[kept])
    del needed, kept
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    assert len(claimed.dependencies) == 2
    assert table.find(Handle, b"n" * 20) is not None
    assert table.find(Handle, b"k" * 20) is not None
    table.fill_at(claimed.returns[0], 2, b"", [], [])
    tasks.finish(claimed)
    tasks.sweep()
    assert table.find(Handle, b"n" * 20) is None
    assert table.find(Handle, b"k" * 20) is None
    assert table.is_sealed(result[0])


@pytest.mark.parametrize("size", [0, 1, 512, 513, 100_000])
def test_payloads_of_every_size_arrive(table: ObjectTable, tasks: Tasks, size: int) -> None:
    queue = new_queue(table.segment)
    payload = os.urandom(size)
    needed = [table.put(Handle, os.urandom(20), 2, b"", [], []) for _ in range(3)]
    kept = submit(tasks, queue, payload, needed, returns=5)
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    assert claimed.payload == payload
    assert claimed.dependencies == tuple(handle.loc for handle in needed)
    assert len(kept) == len(claimed.returns) == 5


def test_a_task_larger_than_a_slabs_block_is_seen_by_repair(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    before = Heap(table.segment).chunks_by_kind()[5]
    needed = [table.expect(Handle, os.urandom(20)) for _ in range(5000)]
    kept = submit(tasks, queue, b"large", needed, returns=3000)
    assert [info["state"] for info in repair.list_tasks(table.segment, 10)] == [TaskState.WAITING]
    for handle in needed:
        assert len(queue) == 0
        table.fill(handle, 2, b"", [], [])
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    assert repair.claimed_by(table.segment, table.segment.slot) == [claimed.loc]
    for result in claimed.returns:
        table.fill_at(result, 2, b"", [], [])
    tasks.finish(claimed)
    tasks.sweep()
    assert table.wait(kept, 3000, 0) == 3000
    assert Heap(table.segment).chunks_by_kind()[5] == before


def test_what_a_task_cannot_be_is_refused_and_nothing_is_left(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    with pytest.raises(ValueError, match="3000"):
        submit(tasks, queue, returns=3001)
    with pytest.raises(QueueClosedError):
        tasks.submit(Handle, context(), 12345, 0, b"", [], [], 1, 0, 0, False)
    with pytest.raises(TypeError):
        submit(tasks, queue, needs=[None])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        submit(tasks, queue, needs=["x"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="16 bytes"):
        tasks.submit(Handle, context(), queue.loc, 0, b"", [], [], 1, 0, 0, False, b"short")
    with pytest.raises(ObjectStoreFullError):
        submit(tasks, queue, bytes(65 << 20), returns=3)
    queue.close()
    with pytest.raises(QueueClosedError):
        submit(tasks, queue)
    audit = repair.audit(table)
    assert (audit["objects"], audit["tasks"]) == (0, 0)


def test_a_full_queue_leaves_nothing_behind_and_the_next_try_has_the_same_id(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment, 4)
    kept = [submit(tasks, queue) for _ in range(4)]
    needed = table.put(Handle, os.urandom(20), 2, b"", [], [])
    parent, same = context(), context()
    before = repair.audit(table)
    for _ in range(3):
        with pytest.raises(QueueFullError, match="4 tasks"):
            submit(tasks, queue, bytes(1000), [needed], parent=parent, returns=3)
    assert repair.audit(table) == before
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    (again,) = submit(tasks, queue, parent=parent)
    assert again.binary()[:16] == same.next_child_id()
    assert len(kept) == 4


def test_tasks_come_out_in_order_lap_after_lap(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment, 8)
    chooser = random.Random(4)
    put = taken = 0
    while taken < 20_000:
        for _ in range(chooser.randrange(9)):
            if put - taken < 8:
                submit(tasks, queue, b"%d" % put, returns=0)
                put += 1
        assert len(queue) == put - taken
        for _ in range(chooser.randrange(9)):
            claimed = tasks.next(queue.loc, 0, [])
            if claimed is None:
                assert put == taken
                break
            assert claimed.payload == b"%d" % taken
            tasks.finish(claimed)
            taken += 1
    assert tasks.sweep() <= 8


def test_an_ended_task_that_waited_leaves_no_link(table: ObjectTable, tasks: Tasks) -> None:
    """A failed task's record must not be written to when its input is sealed at last."""
    queue = new_queue(table.segment)
    needed = table.expect(Handle, os.urandom(20))
    doomed = submit(tasks, queue, b"doomed", [needed])
    waiting = submit(tasks, queue, b"waiting", [needed])
    (info,) = (i for i in repair.list_tasks(table.segment, 9) if doomed[0].loc in i["returns"])
    repair.fail(table, info["loc"], 2, b"cancelled", ObjectFlag.ERROR)
    assert table.is_sealed(doomed[0])
    assert tasks.sweep() == 1
    # The record is used for another task now; its dependencies must not be marked by the seal.
    other = table.expect(Handle, os.urandom(20))
    later = submit(tasks, queue, b"later", [other])
    table.fill(needed, 2, b"", [], [])
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    assert claimed.payload == b"waiting"
    assert tasks.next(queue.loc, 0, []) is None
    table.fill(other, 2, b"", [], [])
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    assert claimed.payload == b"later"
    del waiting, later


def test_the_tasks_of_a_job_are_ended_and_their_results_go(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    first = submit(tasks, queue, b"a")
    second = submit(tasks, queue, b"b", first)
    third = submit(tasks, queue, b"c", second, nested=first)
    del first, second, third
    assert repair.end_tasks(tasks, b"x" * 16) == 0
    assert repair.end_tasks(tasks, b"j" * 16) == 3
    while tasks.sweep():
        pass
    audit = repair.audit(table)
    assert (audit["objects"], audit["tasks"], audit["holds"]) == (0, 0, 0)


# ---- several processes ---------------------------------------------------------------------------


def stop_workers(workers: list[Peer]) -> list[bytes]:
    """What they have run."""
    ran: list[bytes] = []
    for worker in workers:
        os.kill(worker.pid, signal.SIGUSR1)
        worker.end()
        ran += worker.ask("ran")
    return ran


def test_several_producers_and_consumers_run_each_task_once(store: Store) -> None:
    """Three submit into a queue of 32 cells, three claim: 300 laps, each task exactly once."""
    owner = store.connect()
    queue = new_queue(owner.segment, 32)
    workers = [store.peer() for _ in range(3)]
    for worker in workers:
        worker.begin(WORK, queue=queue.loc)
    producers = [store.peer() for _ in range(3)]
    for number, producer in enumerate(producers):
        producer.begin(
            "context = TaskContext(os.urandom(16))\n"
            "for i in range(3000):\n"
            "    while True:\n"
            "        try:\n"
            "            tasks.submit(Handle, context, queue, 0, b'%d/%d' % (number, i), [], [],\n"
            "                         1, 0, 0, False)\n"
            "            break\n"
            "        except QueueFullError:\n"
            "            time.sleep(0.0001)\n"
            "while tasks.sweep():\n"
            "    time.sleep(0.001)",
            number=number,
            queue=queue.loc,
        )
    for producer in producers:
        producer.end()
    ran = stop_workers(workers)
    assert sorted(ran) == sorted(b"%d/%d" % (n, i) for n in range(3) for i in range(3000))
    assert len(queue) == 0
    queue.free()


def test_tasks_whose_inputs_are_sealed_by_racing_processes_start_once(store: Store) -> None:
    """Each of 600 tasks needs six objects that three processes seal as they are submitted."""
    owner = store.connect()
    queue = new_queue(owner.segment, 1024)
    workers = [store.peer() for _ in range(2)]
    for worker in workers:
        worker.begin(WORK, queue=queue.loc)
    ids = [ObjectID(os.urandom(20)) for _ in range(300)]
    sealers = [store.peer() for _ in range(3)]
    for number, sealer in enumerate(sealers):
        sealer.do("handles = [client.handle(id) for id in ids]", ids=ids[number::3])
    for sealer in sealers:
        sealer.begin(
            "for handle in handles:\n"
            "    assert table.fill(handle, 2, b'', [], [])\n"
            "    time.sleep(0.0001)\n"
        )
    handles = [owner.handle(id) for id in ids]
    chooser = random.Random(7)
    results = []
    for i in range(600):
        needs = [handles[(i // 2 + chooser.randrange(20)) % 300] for _ in range(6)]
        results += submit(owner.tasks, queue, b"%d" % i, list(needs))
    assert owner.table.wait(results, len(results), 20_000_000_000) == len(results)
    for sealer in sealers:
        sealer.end()
    ran = stop_workers(workers)
    assert sorted(ran) == sorted(b"%d" % i for i in range(600))
    assert owner.tasks.sweep() == 0
    queue.free()


def scheduler_of(store: Store) -> StoreClient:
    """The test acts as the node's scheduler."""
    client = store.connect("scheduler")
    client.segment.set_scheduler(client.slot)
    return client


def dead_slot(store: Store, slot: int) -> None:
    until(
        lambda: store.watcher.segment.slot_info(slot)["state"] == SlotState.DEAD,
        f"death of slot {slot}",
    )


def test_a_task_whose_worker_died_half_way_runs_again(store: Store) -> None:
    """The second worker starts before the store has cleaned up after the first."""
    scheduler, first, second = scheduler_of(store), store.peer(), store.peer()
    queue = new_queue(scheduler.segment)
    (result,) = submit(scheduler.tasks, queue, b"work", retries=1)
    slot = first.ask("slot")
    first.do(
        "task = tasks.next(queue, 0, [])\n"
        # Half of the result is written when it dies.
        "handle, buffer = table.create(Handle, task.id + bytes(4), 1 << 20, 3)",
        queue=queue.loc,
    )
    first.kill()
    dead_slot(store, slot)
    (loc,) = repair.claimed_by(scheduler.segment, slot)
    assert repair.run_again(scheduler.segment, loc)
    second.do(
        "task = tasks.next(queue, 0, [])\n"
        "assert table.fill_at(task.returns[0], 2, b'attempt %d' % task.attempt, [], [])\n"
        "tasks.finish(task)",
        queue=queue.loc,
    )
    scheduler.segment.set_slot_state(slot, SlotState.REPAIRED)
    store.until_gone(slot)
    read = scheduler.table.read(result)
    assert read is not None
    assert read[2] == b"attempt 1"
    assert scheduler.tasks.sweep() == 0
    queue.free()


def test_a_task_is_run_again_as_often_as_it_may(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment, 2)
    (result,) = submit(tasks, queue, retries=2)
    for attempt in range(3):
        claimed = tasks.next(queue.loc, 0, [])
        assert claimed is not None
        assert claimed.attempt == attempt
        assert repair.run_again(table.segment, claimed.loc) == (attempt < 2)
    assert claimed is not None
    repair.fail(table, claimed.loc, 2, b"died", ObjectFlag.ERROR)
    repair.fail(table, claimed.loc, 2, b"died twice", ObjectFlag.ERROR)
    assert table.read(result) == (2, True, b"died", ())
    assert tasks.sweep() == 0
    (forever,) = submit(tasks, queue, retries=RETRY_FOREVER)
    for _ in range(10):
        claimed = tasks.next(queue.loc, 0, [])
        assert claimed is not None
        assert repair.run_again(table.segment, claimed.loc)
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    kept = submit(tasks, queue) + submit(tasks, queue)
    assert not repair.run_again(table.segment, claimed.loc)  # no room in its queue: nothing changed
    claimed_too = tasks.next(queue.loc, 0, [])
    assert claimed_too is not None
    assert repair.run_again(table.segment, claimed.loc)
    assert repair.task_info(table.segment, claimed.loc)["attempt"] == 11
    del kept, forever


def test_a_dead_ones_task_can_wait_and_run_again_without_taking_a_retry(store: Store) -> None:
    scheduler, worker = scheduler_of(store), store.peer()
    queue = new_queue(scheduler.segment)
    (result,) = submit(scheduler.tasks, queue, b"work", retries=1)
    slot = worker.ask("slot")
    worker.do(
        "task = tasks.next(queue, 0, [])\n"
        "handle, buffer = table.create(Handle, task.id + bytes(4), 1 << 20, 3)",
        queue=queue.loc,
    )
    worker.kill()
    dead_slot(store, slot)
    (loc,) = repair.claimed_by(scheduler.segment, slot)
    assert repair.take_claim(scheduler.segment, loc)
    assert repair.claimed_by(scheduler.segment, slot) == []
    # The dead one's slot may be anybody's from here on.
    scheduler.segment.set_slot_state(slot, SlotState.REPAIRED)
    store.until_gone(slot)
    assert repair.run_again(scheduler.segment, loc, False)
    info = repair.task_info(scheduler.segment, loc)
    assert (info["retries_left"], info["attempt"]) == (1, 1)
    claimed = scheduler.tasks.next(queue.loc, 0, [])
    assert claimed is not None
    assert scheduler.table.fill_at(claimed.returns[0], 2, b"done", [], [])
    scheduler.tasks.finish(claimed)
    assert not repair.take_claim(scheduler.segment, loc)
    assert scheduler.table.read(result) == (2, False, b"done", ())
    assert scheduler.tasks.sweep() == 0
    queue.free()


def test_a_task_whose_results_are_all_sealed_is_not_run_again(
    table: ObjectTable, tasks: Tasks
) -> None:
    """Its process died between the last seal and `finish`: its effects have happened."""
    queue = new_queue(table.segment)
    (result,) = submit(tasks, queue, retries=5)
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    assert table.fill_at(claimed.returns[0], 2, b"done", [], [])
    assert repair.run_again(table.segment, claimed.loc)
    assert tasks.next(queue.loc, 0, []) is None
    assert table.read(result) == (2, False, b"done", ())
    assert tasks.sweep() == 0


def test_tasks_of_a_dead_submitter_are_run_and_their_inputs_kept(store: Store) -> None:
    """With a scheduler that takes them over, and without one: then the store does."""
    for with_scheduler in (True, False):
        owner = scheduler_of(store) if with_scheduler else store.connect()
        queue = new_queue(owner.segment)
        submitter, worker = store.peer(), store.peer()
        late = owner.handle(ObjectID(os.urandom(20)))
        submitter.do(
            "needed = client.put(np.arange(10_000))\n"
            "late = client.handle(id)\n"
            "context = TaskContext(os.urandom(16))\n"
            "def submit(payload, needs):\n"
            "    rest = [needs, [], 1, 0, 0, False]\n"
            "    return tasks.submit(ObjectHandle, context, queue, 0, payload, *rest)\n"
            "one, two = submit(b'one', [needed]), submit(b'two', [needed, late])",
            queue=queue.loc,
            id=late.id,
        )
        ids, slot = submitter.ask("[one[0].id, two[0].id]"), submitter.ask("slot")
        results = [owner.handle(id) for id in ids]
        submitter.kill()
        if with_scheduler:
            dead_slot(store, slot)
            assert repair.take_over(owner.tasks, slot) == 2
            owner.segment.set_slot_state(slot, SlotState.REPAIRED)
        store.until_gone(slot)
        worker.begin(WORK, queue=queue.loc)
        assert owner.wait([results[0]], timeout_s=10.0) == 1
        assert not owner.table.is_sealed(results[1])
        owner.table.fill(late, 2, b"", [], [])
        assert owner.wait(results, timeout_s=10.0) == 2
        assert stop_workers([worker]) == [b"one", b"two"]
        del results, late
        owner.tasks.sweep()
        until(lambda: store.audit()["tasks"] == 0, "end of the tasks", 5.0)
        until(lambda: store.audit()["objects"] == 0, "end of the inputs", 5.0)
        queue.free()
        owner.close()
        store.until_gone(owner.slot)


def test_a_worker_sleeps_until_a_task_comes_or_it_is_granted_a_queue(store: Store) -> None:
    owner, worker = store.connect(), store.peer()
    slot, queue = worker.ask("slot"), new_queue(owner.segment)
    worker.begin("task = tasks.next(queue, 10_000_000_000, [])", queue=queue.loc)
    until(lambda: owner.segment.slot_info(slot)["idle"], "idleness")
    kept = submit(owner.tasks, queue, b"mailbox")
    worker.end()
    assert worker.ask("task.payload") == b"mailbox"
    worker.do("table.fill_at(task.returns[0], 2, b'', [], []); tasks.finish(task)")
    worker.begin("none = tasks.next(0, 10_000_000_000, [])")
    until(lambda: owner.segment.slot_info(slot)["idle"], "idleness")
    owner.segment.assign_queue(slot, queue.loc)
    worker.end()
    assert worker.ask("none") is None
    worker.begin("task = tasks.next(0, 10_000_000_000, [])")
    until(lambda: owner.segment.work_state(slot)[1] == queue.loc, "sight of the grant")
    kept += submit(owner.tasks, queue, b"granted")
    worker.end()
    assert worker.ask("task.payload") == b"granted"
    assert owner.segment.work_state(slot)[2] == worker.ask("task.loc")
    worker.do("table.fill_at(task.returns[0], 2, b'', [], []); tasks.finish(task)")
    assert owner.segment.work_state(slot)[2] == 0
    owner.tasks.sweep()
    del kept
    queue.free()


def test_results_of_a_task_may_be_large_arrays(store: Store) -> None:
    owner, worker = store.connect(), store.peer()
    queue = new_queue(owner.segment)
    results = owner.tasks.submit(ObjectHandle, context(), queue.loc, 0, b"", [], [], 1, 0, 0, False)
    worker.do(
        "from rostral_objectstore.serialization import serialize\n"
        "task = tasks.next(queue, 0, [])\n"
        "kind, inband, buffers = serialize(np.full(10_000_000, 3, np.uint8))\n"
        "table.fill_at(task.returns[0], kind, inband, buffers, [])\n"
        "tasks.finish(task)",
        queue=queue.loc,
    )
    array = owner.get(results[0])
    assert isinstance(array, np.ndarray)
    assert int(array.sum()) == 30_000_000
    owner.tasks.sweep()
    del array, results
    queue.free()
