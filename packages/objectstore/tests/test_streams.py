"""Streams: items that one task yields to one reader; room, ends, and the death of either."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from rostral_objectstore import StoreClient
from rostral_objectstore._native import repair
from rostral_objectstore._native.queue import Queue
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.stream import StreamReader, StreamWriter
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore._native.task import ClaimedTask, TaskContext, Tasks
from rostral_objectstore.layout import QUEUE_READY, TaskState

from .store import Peer, Store, until

ROOM = 4
SLICE_NS = 20_000_000
PATIENCE_NS = 20_000_000_000

# Claims the stream and yields so many items, each of which says its number and who made it.
PRODUCE = """
task = tasks.next(queue, -1, [])
writer = StreamWriter(table, task.loc)
for number in range(count):
    while not writer.wait_room(20_000_000):
        pass
    if writer.is_closed:
        break
    writer.write(2, b"%d %d" % (number, slot), [], [])
table.fill_at(task.returns[0], 2, b"end", [], [])
tasks.finish(task)
"""
CONSUME = """
reader = tasks.submit(
    Handle, TaskContext(os.urandom(16)), queue, 0, payload, [], [], 1, 0, 0, False, None, None, 0,
    4)
taken = []
while not reader.is_over:
    reader.wait(-1)
    taken.append(reader.take())
"""


def new_queue(segment: Segment) -> Queue:
    return Queue.create(segment, 64, QUEUE_READY, b"j" * 16, b"k" * 16)


def submit(
    tasks: Tasks,
    queue: Queue,
    *,
    room: int = ROOM,
    retries: int = 0,
    payload: bytes = b"",
    parent: TaskContext | None = None,
) -> StreamReader[Handle]:
    context = parent or TaskContext(os.urandom(16))
    reader = tasks.submit(
        Handle, context, queue.loc, 7, payload, [], [], 1, retries, 0, False, None, None, 0, room
    )
    assert isinstance(reader, StreamReader)
    return reader


def claim(tasks: Tasks, queue: Queue) -> ClaimedTask:
    task = tasks.next(queue.loc, 0, [])
    assert task is not None
    return task


def end(table: ObjectTable, tasks: Tasks, task: ClaimedTask) -> None:
    table.fill_at(task.returns[0], 2, b"end", [], [])
    tasks.finish(task)


def value(table: ObjectTable, handle: Handle | None) -> bytes:
    assert handle is not None
    read = table.read(handle)
    assert read is not None
    return bytes(read[2])


@pytest.mark.parametrize("size", [0, 5, 10_000])
def test_the_payload_arrives_beside_the_streams_words(
    table: ObjectTable, tasks: Tasks, size: int
) -> None:
    queue = new_queue(table.segment)
    reader = submit(tasks, queue, payload=b"p" * size)
    task = claim(tasks, queue)
    assert task.payload == b"p" * size
    assert StreamWriter(table, task.loc).write(2, b"item", [], [])
    assert value(table, reader.take()) == b"item"
    end(table, tasks, task)


def test_items_are_taken_in_order_and_their_ids_are_the_tasks(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    reader = submit(tasks, queue)
    assert reader.take() is None
    task = claim(tasks, queue)
    writer = StreamWriter(table, task.loc)
    for number in range(3):
        assert writer.write(2, b"%d" % number, [], [])
    for number in range(3):
        item = reader.take()
        assert value(table, item) == b"%d" % number
        assert item is not None
        assert item.binary() == task.id + (number + 1).to_bytes(4, "little")
    assert (reader.take(), reader.is_over) == (None, False)
    end(table, tasks, task)
    assert (reader.take(), reader.is_over, reader.wait(-1)) == (None, True, True)


def test_there_is_room_for_so_many_items_that_were_not_taken(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    reader = submit(tasks, queue, room=2)
    task = claim(tasks, queue)
    writer = StreamWriter(table, task.loc)
    for _ in range(2):
        assert writer.wait_room(0)
        writer.write(2, b"", [], [])
    assert not writer.wait_room(SLICE_NS)
    assert reader.take() is not None
    assert writer.wait_room(0)
    assert (reader.taken_count, reader.yielded_count) == (1, 2)
    end(table, tasks, task)


def test_what_was_not_taken_goes_with_the_reader_and_the_task_with_both(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    reader = submit(tasks, queue)
    task = claim(tasks, queue)
    writer = StreamWriter(table, task.loc)
    for _ in range(3):
        writer.write(2, b"item", [], [])
    kept = reader.take()
    reader.expect()
    del reader
    assert writer.is_closed
    assert writer.wait_room(0)
    writer.write(2, b"too late", [], [])
    end(table, tasks, task)
    assert tasks.sweep() == 0
    assert value(table, kept) == b"item"
    del kept
    queue.free()
    assert repair.audit(table) == dict.fromkeys(repair.audit(table), 0)


def test_a_finished_task_stays_until_its_reader_is_dropped(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    reader = submit(tasks, queue)
    task = claim(tasks, queue)
    StreamWriter(table, task.loc).write(2, b"item", [], [])
    end(table, tasks, task)
    assert tasks.sweep() == 1
    assert value(table, reader.take()) == b"item"
    reader.close()
    assert tasks.sweep() == 0
    with pytest.raises(ValueError, match="closed"):
        reader.take()


def test_a_parent_that_runs_again_gets_a_stream_of_its_own(
    table: ObjectTable, tasks: Tasks
) -> None:
    queue = new_queue(table.segment)
    first, second = TaskContext(bytes(16)), TaskContext(bytes(16))
    readers = [submit(tasks, queue, parent=context) for context in (first, second)]
    assert readers[0].completion != readers[1].completion
    # What follows has the same id in both runs all the same.
    assert first.next_child_id() == second.next_child_id()


def test_a_stream_that_a_full_queue_refuses_is_the_same_when_it_is_tried_again(
    table: ObjectTable, tasks: Tasks
) -> None:
    context, again = TaskContext(bytes(16)), TaskContext(bytes(16))
    full = Queue.create(table.segment, 1, QUEUE_READY, b"j" * 16, b"k" * 16)
    kept = submit(tasks, full)
    with pytest.raises(Exception, match="queued already"):
        submit(tasks, full, parent=context)
    refused = submit(tasks, new_queue(table.segment), parent=context)
    assert refused.completion.binary()[:16] == again.next_child_id()
    del kept


def test_a_run_after_another_goes_on_where_that_was(table: ObjectTable, tasks: Tasks) -> None:
    """One was counted and taken, one counted, and one sealed and not counted.

    1. The first run yields two items; the reader takes one, and drops it.
    2. A third is there, as if its maker had died before it counted it.
    3. The second run passes over what is there, and makes the rest.
    """
    queue = new_queue(table.segment)
    reader = submit(tasks, queue, retries=1)
    task = claim(tasks, queue)
    first = StreamWriter(table, task.loc)
    for number in range(2):
        assert first.write(2, b"first %d" % number, [], [])
    assert value(table, reader.take()) == b"first 0"
    uncounted = table.put(Handle, task.id + b"\3\0\0\0", 2, b"first 2", [], [])
    assert repair.run_again(table.segment, task.loc)
    tasks.forget(task)
    task = claim(tasks, queue)
    second = StreamWriter(table, task.loc)
    assert second.yielded_count == 2
    assert second.skip()
    made = [second.write(2, b"second %d" % number, [], []) for number in range(1, 5)]
    assert made == [False, False, True, True]
    del uncounted
    found = [value(table, reader.take()) for _ in range(4)]
    assert found == [b"first 1", b"first 2", b"second 3", b"second 4"]
    end(table, tasks, task)
    assert reader.is_over


def test_an_item_taken_before_it_was_counted_is_not_kept_twice(
    table: ObjectTable, tasks: Tasks
) -> None:
    """The maker died between sealing and counting; the reader had waited for that very object."""
    queue = new_queue(table.segment)
    reader = submit(tasks, queue, retries=1)
    task = claim(tasks, queue)
    expected = reader.expect()
    assert table.fill(expected, 2, b"first", [], [])
    assert value(table, reader.take()) == b"first"
    del expected
    assert table.find(Handle, task.id + b"\1\0\0\0") is None
    second = StreamWriter(table, task.loc)
    assert not second.write(2, b"second", [], [])
    assert table.find(Handle, task.id + b"\1\0\0\0") is None
    assert reader.take() is None
    end(table, tasks, task)
    assert reader.is_over


@pytest.fixture
def scheduler(store: Store) -> Iterator[StoreClient]:
    """Who sees to the tasks of the dead; without it the daemon only buries them."""
    client = store.connect("scheduler")
    client.segment.set_scheduler(client.slot)
    yield client
    client.tasks.sweep()


def producer(store: Store, queue: Queue, count: int, armed: str = "") -> Peer:
    peer = store.peer(attached=False)
    peer.do("os.environ['ROSTRAL_FAILPOINTS'] = armed", armed=armed)
    peer.do(
        "client = StoreClient.connect(socket); slot = client.slot; table = client.table; "
        "tasks = client.tasks",
        socket=store.socket,
    )
    peer.begin(PRODUCE, queue=queue.loc, count=count)
    return peer


STEPS_OF_PRODUCERS = (
    *("new.held", "index.inserted", "put.copied", "seal.before_publish", "seal.published"),
    *("seal.woken", "stream.sealed", "stream.yielded", "stream.waiting", "finish.done"),
)


def test_a_reader_in_a_garbage_cycle_closes_its_stream(table: ObjectTable, tasks: Tasks) -> None:
    """The collector clears what is older first: the reader's table before the reader's end."""
    queue = new_queue(table.segment)
    older = ObjectTable(table.segment)
    cycle: list[object] = []
    older.set_daemon(restore=cycle.append, make_room=cycle.append)
    cycle.append(submit(Tasks(older), queue))
    task = claim(tasks, queue)
    del cycle, older
    gc.collect()
    assert StreamWriter(table, task.loc).is_closed
    end(table, tasks, task)


@pytest.mark.slow
@pytest.mark.parametrize("visit", [1, 3])
@pytest.mark.parametrize("step", STEPS_OF_PRODUCERS)
def test_a_producer_killed_at_any_step_is_followed_by_one_that_goes_on(
    store: Store, step: str, visit: int
) -> None:
    """The reader gets every item once, in order, whoever made it.

    1. A producer dies at the step; the reader has taken what it found.
    2. The task runs again in another process, if it was not at its end.
    3. All items come, and nothing is left.
    """
    if step == "finish.done" and visit > 1:
        step = "stream.yielded"
    client = store.connect()
    queue = new_queue(client.segment)
    reader = submit(client.tasks, queue, room=2, retries=9)
    victim = producer(store, queue, 6, f"{step}=kill@{visit}")
    found = []

    def take_all() -> None:
        while (item := reader.take()) is not None:
            found.append(value(client.table, item))

    def is_dead() -> bool:
        take_all()
        return victim.has_answered()

    until(is_dead, f"death at {step}")
    take_all()
    for task in repair.list_tasks(client.segment, 10):
        if task["state"] == TaskState.CLAIMED:
            assert repair.run_again(client.segment, task["loc"])
    successor = producer(store, queue, 6) if not reader.is_over else None
    while not reader.is_over:
        assert reader.wait(PATIENCE_NS)
        take_all()
    assert [item.split()[0] for item in found] == [b"%d" % n for n in range(6)]
    if successor is not None:
        successor.end()
    reader.close()
    until(lambda: client.tasks.sweep() == 0, "the end of the task")
    queue.free()


STEPS_OF_CONSUMERS = ("stream.held", "stream.accepted", "stream.taken")


@pytest.mark.parametrize("step", STEPS_OF_CONSUMERS)
def test_a_consumer_killed_at_any_step_stops_its_producer(
    store: Store, scheduler: StoreClient, step: str
) -> None:
    """The producer sleeps without room; who takes the dead one's tasks over wakes it for good."""
    queue = new_queue(scheduler.segment)
    consumer = store.peer(attached=False)
    consumer.do("os.environ['ROSTRAL_FAILPOINTS'] = armed", armed=f"{step}=kill@3")
    consumer.do(
        "client = StoreClient.connect(socket); slot = client.slot; tasks = client.tasks",
        socket=store.socket,
    )
    slot = consumer.ask("slot")
    consumer.begin(CONSUME, queue=queue.loc, payload=b"")
    endless = producer(store, queue, 1 << 40)
    until(consumer.has_answered, "the consumer's death")
    until(lambda: slot in scheduler.segment.slots_in_state(2), "the death to be seen")
    repair.take_over(scheduler.tasks, slot)
    scheduler.segment.set_slot_state(slot, 3)
    endless.end()
    store.until_gone(slot)
    until(lambda: scheduler.tasks.sweep() == 0, "the end of the task")
    queue.free()
