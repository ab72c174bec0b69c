"""Kill -9 at any point: the others run on, sealed objects stay, and nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
import pytest

from rostral_gcs.ids import ObjectID
from rostral_objectstore._native import repair
from rostral_objectstore._native.queue import Queue
from rostral_objectstore.layout import ObjectState, SlotState

from .store import Peer, Store, until

KILLS = 200

# One process that does everything there is to do, as fast as it can.
CHURN = """
context = TaskContext(os.urandom(16))
chooser = random.Random(seed)
kept, shared = [], [ObjectID(bytes([i]) * 20) for i in range(8)]
while True:
    kept.append(client.put(chooser.choice([b"x", b"y" * 300, b"z" * 5000, list(range(100))])))
    kept.append(client.put(np.zeros(chooser.choice([100, 20_000, 300_000]), np.uint8)))
    kept.append(table.put(ObjectHandle, os.urandom(20), 2, b"", [], kept[-8:]))
    client.get(watched[chooser.randrange(len(watched))])
    id = chooser.choice(shared)
    try:
        kept.append(client.put(id.binary(), id))
    except ObjectAlreadyExistsError:
        kept.append(client.handle(id))
    with client.create(chooser.choice([64, 70_000])) as writable:
        if chooser.random() < 0.5:
            kept.append(writable.seal())
    try:
        inputs = [client.handle(ObjectID(os.urandom(20))) for _ in range(2)]
        kept += tasks.submit(
            ObjectHandle, context, queue, 0, b"p" * chooser.choice([1, 600]), inputs,
            kept[-2:], 2, 0, 0, False)
        for handle in inputs:
            table.fill(handle, 2, b"", [], [])
        # The thief: the peer sometimes runs what it or another has submitted.
        if chooser.random() < 0.2 and (task := tasks.next(queue, 0, [])):
            for result in task.returns:
                table.fill_at(result, 2, b"made here", [], [])
            tasks.finish(task)
    except QueueFullError:
        tasks.sweep()
    while len(kept) > 40:
        kept.pop(chooser.randrange(len(kept)))
"""

WORK = """
done = 0
while not stopped:
    task = tasks.next(queue, 20_000_000, [])
    if task is not None:
        for result in task.returns:
            table.fill_at(result, 2, b"made", [], [])
        tasks.finish(task)
        done += 1
"""

WATCH = """
rounds = 0
while not stopped:
    for id, digest in digests.items():
        assert hashlib.blake2b(client.get(id)).digest() == digest, id
    rounds += 1
"""


def loop(peer: Peer, code: str, **values: object) -> None:
    """Lets the peer run code until SIGUSR1."""
    peer.do(
        "stopped = False\n"
        "def stop(number, frame):\n"
        "    global stopped\n"
        "    stopped = True\n"
        "signal.signal(signal.SIGUSR1, stop)"
    )
    peer.begin(code, **values)


def stop(peer: Peer) -> None:
    os.kill(peer.pid, signal.SIGUSR1)
    peer.end()


@pytest.mark.slow
def test_200_kills_under_load_leave_nothing_behind_and_disturb_nobody(store: Store) -> None:
    """Two processes do everything at once and are killed at random moments.

    1. A watcher seals objects and checks their sums all the time, and so do its victims' reads.
    2. A worker runs the tasks that the victims submit; victims run some, too.
    3. Kill -9, fork another, 200 times.
    4. The worker and the watcher end well; the segment is as empty as before.
    """
    owner, worker, watcher = store.connect(), store.peer(), store.peer()
    queue = Queue.create(owner.segment, 256, 1, bytes(16), bytes(16))
    watcher.do(
        "watched = [client.put(os.urandom(size)) for size in (10, 500, 40_000, 500_000)]\n"
        "digests = {h.id: hashlib.blake2b(client.get(h)).digest() for h in watched}"
    )
    watched = watcher.ask("list(digests)")
    loop(watcher, WATCH)
    loop(worker, WORK, queue=queue.loc)
    chooser = random.Random(20180)
    victims: list[Peer] = []
    for seed in range(KILLS):
        victims.append(store.peer())
        victims[-1].begin(
            CHURN,
            seed=seed + 1000 * int(os.environ.get("SEED", "0")),
            queue=queue.loc,
            watched=watched,
        )
        if len(victims) == 2:
            time.sleep(chooser.random() * 0.02)
            victims.pop(0).kill()
    victims.pop().kill()
    stop(worker)
    stop(watcher)
    assert worker.ask("done") > KILLS
    assert watcher.ask("rounds") > 0
    left = {owner.slot, worker.ask("slot"), watcher.ask("slot")}
    until(lambda: set(store.slots()) == left, "clean-up of all victims")
    # Tasks of the dead that nobody ran are the store's by now. What they wait for will not come.
    for task in repair.list_tasks(owner.segment, 10_000):
        repair.fail(owner.table, task["loc"], 2, b"", 0)
    repair.claim_all(owner.segment, queue.loc)
    until(lambda: store.audit()["tasks"] == 0, "end of the tasks")
    assert store.audit()["objects"] == 4
    assert len(queue) == 0
    queue.free()


def test_the_daemon_cleans_up_within_a_second(store: Store) -> None:
    peer = store.peer()
    peer.do(
        "kept = [client.put(np.zeros(100_000, np.uint8)) for _ in range(100)]\n"
        "writable = client.create(1 << 20)\n"
        "big = client.put(np.zeros(50_000_000, np.uint8))"
    )
    slot = peer.ask("slot")
    start = time.monotonic()
    peer.kill()
    store.until_gone(slot)
    assert time.monotonic() - start < 1.0
    assert store.audit() == dict.fromkeys(store.audit(), 0)


def test_a_dead_process_is_found_though_a_child_holds_its_connection(store: Store) -> None:
    peer = store.peer()
    # A child that was forked past Python's own hooks has the connection, too.
    peer.do(
        "import ctypes\n"
        "child = ctypes.CDLL(None).fork()\n"
        "if child == 0:\n"
        "    ctypes.CDLL(None).sleep(30)\n"
        "    ctypes.CDLL(None)._exit(0)"
    )
    slot, child = peer.ask("slot"), peer.ask("child")
    peer.kill()
    store.until_gone(slot, 2.0)
    os.kill(child, signal.SIGKILL)


def test_objects_of_a_dead_process_stay_while_others_hold_them(store: Store) -> None:
    client, peer = store.connect(), store.peer()
    peer.do("kept = [client.put(np.full(size, 7, np.uint8)) for size in (600, 30_000, 900_000)]")
    ids = peer.ask("[handle.id for handle in kept]")
    arrays = [client.get(id) for id in ids]
    slot = peer.ask("slot")
    peer.kill()
    store.until_gone(slot)
    # Memory pressure after the death must not touch them.
    others = [client.put(np.zeros(size, np.uint8)) for size in (600, 30_000, 900_000) * 20]
    assert all((array == 7).all() for array in arrays)
    assert client.contains(ids[2])
    del arrays, others
    assert not client.contains(ids[2])


def test_an_object_whose_creator_dies_can_be_made_by_another_and_waiters_go_on(
    store: Store,
) -> None:
    id = ObjectID(b"half written object.")
    creator, waiter, other = store.peer(), store.peer(), store.connect()
    creator.do("writable = client.create(1 << 20, id)", id=id)
    waiter.do("handle = client.handle(id)", id=id)
    waiter.begin("value = client.get(handle)")
    slot = creator.ask("slot")
    handle = other.handle(id)
    assert other.table.state(handle) == ObjectState.CREATED
    creator.kill()
    store.until_gone(slot)
    assert other.table.state(handle) == ObjectState.PENDING
    assert store.audit()["blocks"] == 0
    made = other.put("whole", id)
    waiter.end()
    assert waiter.ask("value") == "whole"
    del made


def test_an_unsealed_object_that_nobody_waits_for_vanishes_with_its_creator(store: Store) -> None:
    creator = store.peer()
    creator.do("writable = client.create(1 << 20)")
    assert store.audit()["objects"] == 1
    slot = creator.ask("slot")
    creator.kill()
    store.until_gone(slot)
    assert store.audit() == dict.fromkeys(store.audit(), 0)


def test_references_inside_values_are_given_back_after_a_death(store: Store) -> None:
    creator, client = store.peer(), store.connect()
    handle = client.put("inner")
    creator.do("inner = client.handle(id)", id=handle.id)
    creator.do(
        "outer = [table.put(ObjectHandle, os.urandom(20), 2, b'', [], [inner]) for _ in range(50)]"
    )
    slot = creator.ask("slot")
    creator.kill()
    store.until_gone(slot)
    assert repair.list_objects(client.table, 10)[0]["containers"] == 0
    assert store.audit()["objects"] == 1
    del handle
    assert store.audit()["objects"] == 0


def test_what_a_dead_process_released_is_not_released_twice(store: Store) -> None:
    """A reader drops a dead writer's large objects while the daemon sweeps."""
    client = store.connect()
    for round in range(20):
        writer = store.peer()
        writer.do("kept = [client.put(np.full(5_000_000, 3, np.uint8)) for _ in range(8)]")
        arrays = [client.get(id) for id in writer.ask("[h.id for h in kept]")]
        slot = writer.ask("slot")
        os.kill(writer.pid, signal.SIGKILL)
        mine = []
        while arrays:
            assert (arrays.pop()[::4096] == 3).all()
            mine.append(
                (client.put(np.full(5_000_000, len(arrays) + round, np.uint8)), len(arrays))
            )
        store.until_gone(slot)
        for handle, number in mine:
            assert (client.get(handle)[::4096] == number + round).all()


def test_a_slot_is_given_out_again_without_traces(store: Store) -> None:
    first = store.peer()
    first.do("kept = client.put(1)")
    slot = first.ask("slot")
    generation = store.watcher.segment.slot_info(slot)["generation"]
    first.kill()
    store.until_gone(slot)
    second = store.peer()
    assert second.ask("slot") == slot
    info = store.watcher.segment.slot_info(slot)
    assert (info["generation"], info["pid"]) == (generation + 1, second.pid)
    assert info["state"] == SlotState.LIVE
    assert store.audit()["holds"] == 0


def test_sealed_objects_stay_readable_when_the_daemon_dies(store: Store) -> None:
    reader, client = store.peer(), store.connect()
    handle = client.put(np.arange(100_000))
    reader.do("array = client.get(id)", id=handle.id)
    store.process.kill()
    store.process.wait()
    assert reader.ask("int(array.sum())") == 99_999 * 50_000
    other = client.put("exchanged without a daemon")
    assert reader.ask("client.get(id)", id=other.id) == "exchanged without a daemon"
    with pytest.raises(ConnectionError):
        client.stats()


def test_a_dead_holders_bit_is_cleared_and_the_object_goes_with_the_living(store: Store) -> None:
    client, holder = store.connect(), store.peer()
    handle = client.put(b"x" * 1000)
    holder.do("handle = client.handle(id)", id=handle.id)
    slot = holder.ask("slot")
    holder.kill()
    store.until_gone(slot)
    assert client.table.holder_slots(handle) == [client.slot]
    id = handle.id
    del handle
    assert not client.contains(id)
