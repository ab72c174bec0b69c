"""Lanes: workers take from the first that has a task, and no death leaves one unseen."""

from __future__ import annotations

import signal

import pytest

from rostral_objectstore._native import repair
from rostral_objectstore._native.lanes import lengths, link_lane, rank_of, taken
from rostral_objectstore._native.queue import Queue
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore._native.task import TaskContext, Tasks
from rostral_objectstore.layout import LANES_MAX, SlotState

from .store import Store, until
from .test_failpoints import armed_peer, is_stopped, until_dead

PARENT = TaskContext(bytes(16))
HIGH, LOW = (5, 0), (-1, 0)


def new_queue(segment: Segment) -> Queue:
    return Queue.create(segment, 64, 1, b"j" * 16, b"k" * 16)


def lanes_around(base: Queue) -> tuple[Queue, Queue]:
    """A lane that comes before the queue, and one that comes after it."""
    high, low = new_queue(base.segment), new_queue(base.segment)
    link_lane(base, low, 0, *LOW, base, None)
    link_lane(base, high, 1, *HIGH, None, base)
    return high, low


def submit(tasks: Tasks, queue: Queue, payload: bytes) -> None:
    tasks.submit(Handle, PARENT, queue.loc, 7, payload, [], [], 0, 0, 0, False)


def claim(tasks: Tasks, queue: Queue) -> bytes:
    claimed = tasks.next(queue.loc, 0, [])
    assert claimed is not None
    tasks.finish(claimed)
    return claimed.payload


def test_tasks_of_the_first_lane_are_claimed_first(table: ObjectTable, tasks: Tasks) -> None:
    base = new_queue(table.segment)
    high, low = lanes_around(base)
    for queue, payload in ((low, b"4"), (base, b"2"), (base, b"3"), (high, b"0"), (high, b"1")):
        submit(tasks, queue, payload)
    assert [claim(tasks, base) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert tasks.next(base.loc, 0, []) is None


def test_a_task_that_comes_into_an_earlier_lane_is_the_next(
    table: ObjectTable, tasks: Tasks
) -> None:
    base = new_queue(table.segment)
    high, low = lanes_around(base)
    for number in range(3):
        submit(tasks, base, b"base")
        submit(tasks, low, b"low")
        if number == 1:
            submit(tasks, high, b"high")
            assert claim(tasks, base) == b"high"
    assert [claim(tasks, base) for _ in range(6)] == [b"base"] * 3 + [b"low"] * 3


def test_a_claimed_task_names_its_lane(table: ObjectTable, tasks: Tasks) -> None:
    base = new_queue(table.segment)
    high, low = lanes_around(base)
    submit(tasks, high, b"")
    claimed = tasks.next(base.loc, 0, [])
    assert claimed is not None
    assert claimed.queue == high.loc
    assert rank_of(table.segment, claimed.queue) == HIGH
    assert rank_of(table.segment, low.loc) == LOW
    tasks.finish(claimed)


def test_a_task_whose_inputs_come_late_is_queued_in_its_lane(
    table: ObjectTable, tasks: Tasks
) -> None:
    base = new_queue(table.segment)
    high, _ = lanes_around(base)
    late = table.expect(Handle, bytes(20))
    tasks.submit(Handle, PARENT, high.loc, 7, b"late", [late], [], 0, 0, 0, False)
    submit(tasks, base, b"first")
    submit(tasks, base, b"last")
    assert claim(tasks, base) == b"first"
    table.fill(late, 2, b"", [], [])
    assert [claim(tasks, base) for _ in range(2)] == [b"late", b"last"]


def test_a_task_that_runs_again_is_queued_in_its_lane(table: ObjectTable, tasks: Tasks) -> None:
    base = new_queue(table.segment)
    high, _ = lanes_around(base)
    tasks.submit(Handle, PARENT, high.loc, 7, b"again", [], [], 0, 1, 0, False)
    submit(tasks, base, b"last")
    claimed = tasks.next(base.loc, 0, [])
    assert claimed is not None
    assert repair.run_again(table.segment, claimed.loc)
    tasks.forget(claimed)
    assert [claim(tasks, base) for _ in range(2)] == [b"again", b"last"]


def test_lengths_tell_of_lanes_with_tasks_in_their_order(table: ObjectTable, tasks: Tasks) -> None:
    base = new_queue(table.segment)
    assert lengths(base) == []
    high, low = lanes_around(base)
    for queue in (low, base, base, high):
        submit(tasks, queue, b"")
    assert lengths(base) == [(high.loc, 1), (base.loc, 2), (low.loc, 1)]
    claim(tasks, base)
    assert lengths(base) == [(base.loc, 2), (low.loc, 1)]


def test_what_is_taken_is_counted_over_all_lanes(table: ObjectTable, tasks: Tasks) -> None:
    base = new_queue(table.segment)
    assert taken(base) == 0
    high, low = lanes_around(base)
    for queue in (low, base, high):
        submit(tasks, queue, b"")
    for count in range(1, 4):
        claim(tasks, base)
        assert taken(base) == count


def test_every_lane_that_there_may_be_is_served(table: ObjectTable, tasks: Tasks) -> None:
    base = new_queue(table.segment)
    lanes: list[Queue] = []
    for number in range(LANES_MAX):
        lanes.append(new_queue(table.segment))
        before = lanes[-2] if number else None
        link_lane(base, lanes[-1], number, LANES_MAX - number, 0, before, base)
    for number, lane in reversed(list(enumerate(lanes))):
        submit(tasks, lane, bytes([number]))
    assert [claim(tasks, base)[0] for _ in lanes] == list(range(LANES_MAX))
    with pytest.raises(ValueError, match="64 lanes at most"):
        link_lane(base, new_queue(table.segment), LANES_MAX, 0, 0, base, None)


def test_a_worker_asleep_at_a_queue_is_woken_for_a_lane_made_since(store: Store) -> None:
    owner, worker = store.connect(), store.peer()
    base = new_queue(owner.segment)
    slot = worker.ask("slot")
    worker.begin("task = tasks.next(base, 10_000_000_000, [])", base=base.loc)
    until(lambda: owner.segment.slot_info(slot)["idle"], "idleness")
    high, low = lanes_around(base)
    submit(owner.tasks, low, b"in a lane")
    worker.end()
    assert worker.ask("task.payload") == b"in a lane"
    worker.do("tasks.finish(task)")
    owner.tasks.sweep()
    for queue in (high, low, base):
        queue.free()


@pytest.mark.parametrize("step", ["lane.queued", "queue.filled"])
def test_a_task_whose_submitter_died_before_it_said_so_is_found(store: Store, step: str) -> None:
    """Nobody looks at the lane until the scheduler does, who looks after each death."""
    owner = store.connect()
    owner.segment.set_scheduler(owner.slot)
    base = new_queue(owner.segment)
    high, low = lanes_around(base)
    victim = armed_peer(store, f"{step}=kill")
    slot = victim.ask("slot")
    victim.begin(
        "tasks.submit(ObjectHandle, TaskContext(bytes(16)), lane, 0, b'left', [], [], 0, 0, 0, "
        "False)",
        lane=high.loc,
    )
    until_dead(victim, step)
    until(lambda: slot in owner.segment.slots_in_state(SlotState.DEAD), "sight of the death")
    assert owner.tasks.next(base.loc, 0, []) is None
    assert lengths(base) == [(high.loc, 1)]
    repair.take_over(owner.tasks, slot)
    owner.segment.set_slot_state(slot, SlotState.REPAIRED)
    assert claim(owner.tasks, base) == b"left"
    store.until_gone(slot)
    owner.tasks.sweep()
    for queue in (high, low, base):
        queue.free()


def test_a_task_in_a_lane_that_its_last_claimer_called_empty_is_found(store: Store) -> None:
    """The worker would have looked once more.

    1. A worker finds a lane empty, and stops before it says so.
    2. A task comes, whose submitter sees that the lane is said to be busy.
    3. The worker says that it is not, and dies.
    """
    owner = store.connect()
    base = new_queue(owner.segment)
    high, low = lanes_around(base)
    worker = armed_peer(store, "lane.empty=stop,lane.cleared=kill")
    slot = worker.ask("slot")
    submit(owner.tasks, high, b"first")
    worker.do("task = tasks.next(base, 0, []); tasks.finish(task)", base=base.loc)
    worker.begin("tasks.next(base, 0, [])")
    until(lambda: is_stopped(worker), "stop after the lane was found empty")
    submit(owner.tasks, high, b"second")
    worker.signal(signal.SIGCONT)
    until_dead(worker, "lane.cleared")
    store.until_gone(slot)
    assert owner.tasks.next(base.loc, 0, []) is None
    assert lengths(base) == [(high.loc, 1)]
    assert claim(owner.tasks, base) == b"second"
    owner.tasks.sweep()
    for queue in (high, low, base):
        queue.free()
