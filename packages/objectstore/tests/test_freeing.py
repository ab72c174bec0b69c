"""Values given up by hand: the memory is free though handles live, and reading is a typed error."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from rostral_gcs.ids import ObjectID
from rostral_objectstore import ObjectHandle
from rostral_objectstore._native import freeing, repair
from rostral_objectstore._native.check import check
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore._native.task import Tasks
from rostral_objectstore.errors import ObjectFreedError, ObjectLostError
from rostral_objectstore.layout import ObjectState
from rostral_objectstore.serialization import KIND_BYTES

from .store import Nursery, PeerError, Store, running, until
from .test_failed_inputs import end_next, expected
from .test_failpoints import armed_peer, until_dead
from .test_tasks import new_queue, submit

MIB = 1 << 20
# One in the record, one in a slab, one in chunks of its own.
SIZES = [10, 1000, 1_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_the_memory_is_free_at_once_though_handles_live(store: Store, size: int) -> None:
    client, other = store.connect(), store.peer()
    handle = client.put(bytes(size))
    other.do("theirs = client.handle(id)", id=handle.id)
    client.free([handle])
    assert store.audit()["blocks"] == 0
    for _ in range(2):
        with pytest.raises(ObjectFreedError, match="was freed by hand") as caught:
            client.get(handle)
    assert isinstance(caught.value, ObjectLostError)
    assert caught.value.object_ref_hex == handle.hex()
    with pytest.raises(PeerError) as told:
        other.do("client.get(theirs)")
    assert told.value.name == "ObjectFreedError"
    # It is ready, and it is not there.
    assert client.wait([handle], timeout_s=0) == 1
    assert not client.contains(handle.id)
    assert [info.state for info in client.list_objects()] == ["freed"]


def test_freed_twice_is_freed_once(store: Store) -> None:
    client = store.connect()
    handle = client.put(bytes(1000))
    client.free([handle, handle])
    client.free([handle])
    assert client.table.state(handle) == ObjectState.FREED


def test_what_is_held_elsewhere_can_be_freed_by_anybody(store: Store) -> None:
    client, other = store.connect(), store.peer()
    handle = client.put(bytes(1000))
    other.do("theirs = client.handle(id); client.free([theirs])", id=handle.id)
    with pytest.raises(ObjectFreedError):
        client.get(handle)


def test_a_handle_of_another_store_is_refused(store: Store, table: ObjectTable) -> None:
    handle = store.connect().put(1)
    with pytest.raises(ValueError, match="belongs to another store"):
        freeing.free(table, handle)


def test_a_view_keeps_its_bytes_and_its_end_gives_them_back(store: Store) -> None:
    client, other = store.connect(), store.peer()
    array = np.arange(MIB)
    handle = client.put(array)
    mine = client.get(handle)
    other.do("theirs = client.get(id)", id=handle.id)
    client.free([handle])
    del handle
    kept = [client.put(np.zeros(MIB)) for _ in range(4)]
    assert (mine == array).all()
    assert other.ask("(theirs == np.arange(len(theirs))).all()")
    assert store.audit()["blocks"] == len(kept) + 1
    del mine
    assert store.audit()["blocks"] == len(kept) + 1
    other.do("del theirs")
    assert store.audit()["blocks"] == len(kept)


def test_the_memory_comes_back_from_a_reader_that_is_killed(store: Store) -> None:
    client, other = store.connect(), store.peer()
    handle = client.put(np.arange(MIB))
    slot = other.ask("slot")
    other.do("theirs = client.get(id)", id=handle.id)
    client.free([handle])
    assert store.audit()["blocks"] == 1
    other.kill()
    store.until_gone(slot)
    assert store.audit()["blocks"] == 0


def test_what_a_value_refers_to_is_released(store: Store) -> None:
    client = store.connect()
    inner = client.put(bytes(1000))
    outer = client.table.put(ObjectHandle, os.urandom(20), KIND_BYTES, inner.packed(), [], [inner])
    del inner
    assert store.audit()["objects"] == 2
    client.free([outer])
    assert (store.audit()["objects"], store.audit()["blocks"]) == (1, 0)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_sealed_yet_is_freed_on_arrival(store: Store, size: int) -> None:
    client, waiter = store.connect(), store.peer()
    id = ObjectID(os.urandom(20))
    handle = client.handle(id)
    waiter.begin("client.get(id)", id=id)
    until(lambda: len(client.table.holder_slots(handle)) == 2, "the waiter")
    client.free([handle])
    assert client.wait([handle], timeout_s=0) == 0
    writer = store.peer()
    writer.do("made = client.put(bytes(size), id)", id=id, size=size)
    with pytest.raises(PeerError) as told:
        waiter.end()
    assert told.value.name == "ObjectFreedError"
    with pytest.raises(ObjectFreedError):
        client.get(handle)
    assert store.audit()["blocks"] == 0


def test_what_is_being_written_is_freed_when_it_is_sealed(store: Store) -> None:
    client, writer = store.connect(), store.peer()
    id = ObjectID(os.urandom(20))
    writer.do("writable = client.create(1000, id)", id=id)
    handle = client.handle(id)
    client.free([handle])
    writer.do("writable.buffer[:] = bytes(1000); made = writable.seal(); del writable")
    with pytest.raises(ObjectFreedError):
        client.get(handle)
    assert store.audit()["blocks"] == 0


def test_what_a_dead_writer_had_begun_is_freed_by_the_next(store: Store) -> None:
    client, writer = store.connect(), store.peer()
    id = ObjectID(os.urandom(20))
    slot = writer.ask("slot")
    writer.do("writable = client.create(1000, id)", id=id)
    handle = client.handle(id)
    client.free([handle])
    writer.kill()
    store.until_gone(slot)
    assert client.table.state(handle) == ObjectState.PENDING
    client.put(bytes(1000), id)
    assert client.table.state(handle) == ObjectState.FREED


def test_a_task_whose_input_is_freed_starts_at_once(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment)
    needs = expected(table, 2)
    result = submit(tasks, queue, b"waits", needs)
    freeing.free(table, needs[0])
    assert end_next(tasks, table, queue.loc) is None
    table.fill(needs[0], 2, b"value", [], [])
    assert tasks.has_failed(needs[0])
    assert end_next(tasks, table, queue.loc) == b"waits"
    del result
    again = submit(tasks, queue, b"again", needs)
    assert end_next(tasks, table, queue.loc) == b"again"
    del again


def test_a_task_whose_result_was_freed_is_not_run_again(table: ObjectTable, tasks: Tasks) -> None:
    queue = new_queue(table.segment)
    (result,) = submit(tasks, queue, b"once", retries=3)
    task = tasks.next(queue.loc, 0, [])
    assert task is not None
    table.fill_at(task.returns[0], 2, bytes(100), [], [])
    freeing.free(table, result)
    assert repair.run_again(table.segment, task.loc)
    assert tasks.next(queue.loc, 0, []) is None
    # One who runs it all the same finds its result sealed.
    assert not table.fill_at(task.returns[0], 2, bytes(100), [], [])
    assert table.state(result) == ObjectState.FREED


def test_copies_on_disk_are_deleted(folder: Path, nursery: Nursery) -> None:
    spill = folder / "spill"
    spill.mkdir(mode=0o700)
    options = ("--spill-dir", str(spill), "--full-timeout", "5")
    with running(folder, nursery, 64 << 20, *options) as store:
        client = store.connect()
        handles = [client.put(np.full(MIB // 8, number)) for number in range(100)]
        spilled = [h for h in handles if client.table.state(h) == ObjectState.SPILLED]
        assert len(spilled) > 20
        client.free(handles)
        for handle in handles:
            with pytest.raises(ObjectFreedError):
                client.get(handle)
        until(lambda: client.stats().spilled_objects == 0, "the end of the copies")
        assert store.audit()["blocks"] == 0
        del handles, handle, spilled


READ = """
wrong = freed = 0
end = time.monotonic() + seconds
rng = random.Random(slot)
while time.monotonic() < end:
    try:
        view = client.get(rng.choice(handles))
    except ObjectFreedError:
        freed += 1
        continue
    number = int(view[0])
    wrong += not (view == number).all()
    time.sleep(0)
    wrong += not (view == number).all()
    del view
"""


@pytest.mark.slow
def test_nobody_ever_sees_wrong_bytes_while_another_frees(store: Store) -> None:
    """Readers take views, and look twice; objects are freed and others put in their place."""
    client, readers = store.connect(), [store.peer() for _ in range(3)]
    chooser = random.Random(1)
    for round_number in range(5):
        handles = [client.put(np.full(chooser.choice([100, 5000, 60_000]), n)) for n in range(40)]
        for reader in readers:
            reader.do(
                "import random\nfrom rostral_objectstore.errors import ObjectFreedError\n"
                "handles = [client.handle(id) for id in ids]",
                ids=[handle.id for handle in handles],
            )
            reader.begin(READ, seconds=0.5)
        until(lambda: not any(reader.has_answered() for reader in readers), "the readers")
        others = []
        for handle in chooser.sample(handles, len(handles)):
            client.free([handle])
            others.append(client.put(np.full(60_000, -1)))
            time.sleep(0.005)
        for reader in readers:
            reader.end()
            assert reader.ask("wrong") == 0
            reader.do("del handles")
        assert any(reader.ask("freed") for reader in readers), round_number
        assert store.audit()["blocks"] == len(others)
        del handles, handle, others


STEPS = ["free.marked", "free.said", "free.uncounted", "free.emptied", "free.done"]


@pytest.mark.parametrize("step", STEPS)
def test_a_freeing_that_death_cuts_short_is_finished(store: Store, step: str) -> None:
    """The daemon gives the memory back, and what the value referred to, though others hold it."""
    client, victim = store.connect(), armed_peer(store, f"{step}=kill")
    inner = client.put(bytes(1000))
    outer = client.table.put(ObjectHandle, os.urandom(20), KIND_BYTES, inner.packed(), [], [inner])
    del inner
    victim.do("theirs = client.handle(id)", id=outer.id)
    slot = victim.ask("slot")
    victim.begin("client.free([theirs])")
    until_dead(victim, step)
    store.until_gone(slot)
    with pytest.raises(ObjectFreedError):
        client.get(outer)
    assert (store.audit()["objects"], store.audit()["blocks"]) == (1, 0)
    assert check(client.table) == []


def test_a_mark_on_what_is_not_sealed_outlives_who_made_it(store: Store) -> None:
    client, victim = store.connect(), armed_peer(store, "free.promised=kill")
    id = ObjectID(os.urandom(20))
    handle = client.handle(id)
    slot = victim.ask("slot")
    victim.begin("client.free([client.handle(id)])", id=id)
    until_dead(victim, "free.promised")
    store.until_gone(slot)
    client.put(bytes(1000), id)
    with pytest.raises(ObjectFreedError):
        client.get(handle)
    assert [info["state"] for info in repair.list_objects(client.table, 9)] == [ObjectState.FREED]
