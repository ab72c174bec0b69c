"""The daemon takes bytes out of memory, brings them back and moves them, beside readers."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from rostral_objectstore import ObjectHandle, StoreClient
from rostral_objectstore._native import residence
from rostral_objectstore._native.table import Handle
from rostral_objectstore.errors import ObjectLostError
from rostral_objectstore.layout import ObjectState

from .store import Store


class Disk:
    """Stands in for the daemon and its disk: evicts and restores in this very process."""

    def __init__(self, client: StoreClient) -> None:
        self.table = client.table
        self.copies: dict[bytes, bytes] = {}
        self.restored = 0
        self.table.set_daemon(restore=self.restore, make_room=lambda size: None)

    def spill(self, handle: Handle) -> bool:
        raw = self.table.read_raw(handle)
        assert raw is not None
        self.copies[handle.binary()] = bytes(raw[2])
        del raw
        return residence.evict(self.table, handle)

    def restore(self, handle: Handle) -> None:
        buffer = residence.begin_restore(self.table, handle)
        assert buffer is not None
        memoryview(buffer)[:] = self.copies[handle.binary()]
        assert residence.finish_restore(self.table, handle, buffer)
        self.restored += 1


@pytest.fixture
def client(store: Store) -> StoreClient:
    return store.connect()


def used_chunks(client: StoreClient) -> int:
    return client.stats().used_bytes


@pytest.mark.parametrize(
    "value", [b"x" * 100, b"x" * 70_000, {"a": np.arange(1000), "b": [1, 2]}, np.ones((64, 1024))]
)
def test_a_spilled_object_comes_back_as_it_was(client: StoreClient, value: object) -> None:
    disk = Disk(client)
    handle = client.put(value)
    assert disk.spill(handle)
    assert client.table.state(handle) == ObjectState.SPILLED
    assert client.contains(handle.id)
    assert client.wait([handle], timeout_s=0) == 1
    np.testing.assert_equal(client.get(handle), value)
    assert client.table.state(handle) == ObjectState.SEALED
    assert disk.restored == 1


def test_spilling_gives_the_memory_back(client: StoreClient) -> None:
    disk = Disk(client)
    before = used_chunks(client)
    handle = client.put(np.ones(1 << 20))
    assert disk.spill(handle)
    assert used_chunks(client) - before < 3 * 65536


def test_what_somebody_looks_at_is_not_spilled(store: Store, client: StoreClient) -> None:
    disk = Disk(client)
    handle = client.put(np.arange(10_000))
    reader = store.connect()
    array = reader.get(handle.id)
    part = array[5000:]
    del array
    assert not disk.spill(handle)
    assert not residence.move(client.table, handle, 0)
    assert part[0] == 5000
    del part
    assert disk.spill(handle)


def test_a_value_with_references_is_deleted_while_it_is_spilled(client: StoreClient) -> None:
    disk = Disk(client)
    inner = client.put(np.ones(1000))
    id = inner.id
    outer = client.table.put(ObjectHandle, b"o" * 20, 1, b"i" * 5000, [], [inner])
    del inner
    assert client.table.references(outer) == [id.binary()]
    assert disk.spill(outer)
    assert client.contains(id)
    disk.restore(outer)
    assert client.table.references(outer) == [id.binary()]
    assert disk.spill(outer)
    deleted = client.segment.spilled_deleted
    del outer
    assert not client.contains(id)
    assert client.segment.spilled_deleted == deleted + 1


def test_a_lost_object_is_an_error_to_read_and_nothing_to_wait_for(client: StoreClient) -> None:
    disk = Disk(client)
    handle = client.put(np.ones(1000))
    assert disk.spill(handle)
    assert residence.lose(client.table, handle)
    assert client.wait([handle], timeout_s=0) == 1
    with pytest.raises(ObjectLostError, match=handle.hex()):
        client.get(handle)


def test_moving_closes_gaps(client: StoreClient) -> None:
    table = client.table
    low, high = client.put(np.zeros(1 << 17)), client.put(np.arange(1 << 17))
    assert not residence.move(table, high, 0)
    del low
    assert residence.move(table, high, 0)
    assert not residence.move(table, high, 0)
    np.testing.assert_array_equal(client.get(high), np.arange(1 << 17))


def test_a_daemon_that_takes_over_learns_what_is_on_disk(client: StoreClient) -> None:
    disk = Disk(client)
    here, spilled = client.put(np.ones(1000)), client.put(np.ones(1000))
    assert disk.spill(spilled)
    assert residence.undo_leaving(client.table) == {(spilled.loc, spilled.version)}
    disk.restore(spilled)
    assert residence.undo_leaving(client.table) == {(spilled.loc, spilled.version)}
    assert client.table.state(here) == ObjectState.SEALED


def test_kept_is_a_mark_on_the_object(client: StoreClient) -> None:
    handle, _other = client.put(1), client.put(2)
    residence.keep(client.table, handle, True)
    assert residence.kept(client.table) == [(handle.loc, handle.version, handle.binary())]
    residence.keep(client.table, handle, False)
    assert residence.kept(client.table) == []


def test_candidates_are_sealed_objects_with_blocks(store: Store, client: StoreClient) -> None:
    daemon_like = store.connect()
    small, large = client.put(1), client.put(np.ones(1000))
    client.handle(type(small.id)(b"p" * 20))
    _, found = residence.candidates(daemon_like.table, 0, 1000)
    assert [(c[2], c[5], c[6]) for c in found] == [(large.binary(), True, False)]
    view = client.get(large)
    _, found = residence.candidates(daemon_like.table, 0, 1000)
    assert [(c[2], c[5], c[6]) for c in found] == [(large.binary(), True, True)]
    assert residence.candidates(daemon_like.table, 0, 1000, 1 << 20) == (0, [])
    assert residence.holdings(daemon_like.table)[client.slot][0] == 2
    del view


def test_raw_bytes_make_the_same_object_elsewhere(client: StoreClient) -> None:
    value = {"a": np.arange(5000), "b": "text"}
    raw = client.table.read_raw(client.put(value))
    assert raw is not None
    kind, flags, content = raw
    handle, buffer = client.table.create(ObjectHandle, b"c" * 20, len(content), kind)
    memoryview(buffer)[:] = memoryview(content)
    client.table.seal_raw(handle, flags)
    np.testing.assert_equal(client.get(handle), value)


def test_raw_bytes_that_lie_about_themselves_are_refused(client: StoreClient) -> None:
    handle, buffer = client.table.create(ObjectHandle, b"c" * 20, 1000, 1)
    memoryview(buffer)[:] = b"\xff" * 1000
    with pytest.raises(ValueError, match="not what they should be"):
        client.table.seal_raw(handle, 4)
    with pytest.raises(ValueError, match="flags"):
        client.table.seal_raw(handle, 64)
    client.table.abort(handle)


@pytest.mark.slow
def test_readers_see_right_bytes_while_the_object_comes_and_goes(store: Store) -> None:
    """1. One process spills, restores and moves objects. 2. Threads of it and others read them."""
    client = store.connect()
    disk = Disk(client)
    lock = threading.RLock()

    def restore(handle: Handle) -> None:
        with lock:
            if client.table.state(handle) == ObjectState.SPILLED:
                disk.restore(handle)

    readers = [store.connect() for _ in range(3)]
    for reader in [client, *readers]:
        reader.table.set_daemon(
            restore=lambda handle: restore(by_id[handle.binary()]), make_room=lambda size: None
        )
    # Two chunks each; moved to and fro among the lowest.
    handles = [client.put(np.full(10_000 + i, i)) for i in range(20)]
    by_id: dict[bytes, Handle] = {handle.binary(): handle for handle in handles}
    stop = threading.Event()
    wrong: list[object] = []

    def read(reader: StoreClient) -> None:
        mine = [reader.handle(handle.id) for handle in handles]
        while not stop.is_set():
            for i, handle in enumerate(mine):
                array = reader.get(handle)
                if len(array) != 10_000 + i or not (array == i).all():
                    wrong.append(array)

    threads = [threading.Thread(target=read, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        for turn in range(300):
            handle = handles[turn % 20]
            with lock:
                if turn % 3:
                    disk.spill(handle)
                else:
                    residence.move(client.table, handle, 2 * (turn % 50))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert disk.restored > 0
    del threads


def test_slots_above_63_hold_and_pin(store: Store) -> None:
    clients = [store.connect() for _ in range(70)]
    first, last = clients[0], clients[-1]
    assert last.slot > 63
    disk = Disk(first)
    handle = first.put(np.arange(5000))
    view = last.get(handle.id)
    assert last.slot in first.table.holder_slots(handle)
    assert not disk.spill(handle)
    del view
    assert disk.spill(handle)
