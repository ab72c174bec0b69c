"""A full store says so with numbers, and works again once something is dropped."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rostral_objectstore import ObjectHandle
from rostral_objectstore._native.heap import Heap
from rostral_objectstore.errors import ObjectStoreFullError, TooManyClientsError
from rostral_objectstore.layout import SLOTS_MAX

from .store import Store, until

CAPACITY = 16 << 20


def test_an_object_larger_than_the_store_is_refused(small_store: Store) -> None:
    client = small_store.connect()
    for make in (
        lambda: client.put(bytes(CAPACITY + 1)),
        lambda: client.put(np.zeros(CAPACITY, np.uint8)),
        lambda: client.create(CAPACITY + 1),
        lambda: client.create(1 << 48),
        lambda: client.create((1 << 64) - 1),
    ):
        with pytest.raises(ObjectStoreFullError, match=f"the whole store has {CAPACITY} bytes"):
            make()
    for size in (-1, 1 << 64):
        with pytest.raises((ValueError, OverflowError)):
            client.create(size)
    assert small_store.audit() == dict.fromkeys(small_store.audit(), 0)


@pytest.mark.parametrize("size", [1, 200, 3000, 30_000, 1_000_000])
def test_a_full_store_says_how_full_and_recovers_after_a_drop(
    small_store: Store, size: int
) -> None:
    client, kept = small_store.connect(), list[ObjectHandle]()
    with pytest.raises(ObjectStoreFullError) as caught:
        while True:
            kept.append(client.put(bytes(size)))
    numbers = [int(number) for number in re.findall(r"\d+", str(caught.value))]
    assert CAPACITY in numbers
    assert any(CAPACITY * 0.9 < number <= CAPACITY for number in numbers)
    assert "drop references" in str(caught.value)
    assert small_store.audit()["objects"] == len(kept)
    assert len(kept) * (256 + (size if size > 64 else 0)) > CAPACITY * 0.7
    assert client.get(kept[0]) == bytes(size)
    del kept[: len(kept) // 2]
    kept += [client.put(bytes(size)) for _ in range(len(kept) // 2)]
    kept.clear()
    Heap(client.segment).trim()
    if size >= 3000:
        # Records stay records; all else can be anything again.
        assert client.create(CAPACITY // 2).buffer.nbytes == CAPACITY // 2


def test_memory_that_a_sleeping_process_no_longer_uses_serves_others(small_store: Store) -> None:
    """A process filled the store with small objects and dropped them; then it sleeps."""
    peer, client = small_store.peer(), small_store.connect()
    slot = peer.ask("slot")
    peer.do("kept = [client.put(bytes(1000)) for _ in range(10_000)]")
    ids = peer.ask("[h.id for h in kept]")
    handles = [client.handle(id) for id in ids]
    peer.begin("del kept\nclient.get(id)", id=ids[0].for_task(ids[0].task_id(), 7))
    until(lambda: client.segment.slot_info(slot)["sleeping"], "sleep")
    handles.clear()
    with client.create(12_000_000) as writable:
        last = writable.seal()
    id = ids[0].for_task(ids[0].task_id(), 7)
    kept = client.put(None, id)
    peer.end()
    del last, kept


def test_a_thousand_clients_are_the_most(small_store: Store) -> None:
    """Slots are claimed without the processes: what is full is the table of slots."""
    segment = small_store.watcher.segment
    claimed = []
    while (slot := segment.claim_slot(1, 1, 6, bytes(16), bytes(16))) >= 0:
        claimed.append(slot)
    assert len(claimed) == SLOTS_MAX - 2
    with pytest.raises(TooManyClientsError, match=str(SLOTS_MAX)):
        small_store.connect()
    for slot in claimed:
        segment.set_slot_state(slot, 0)
    small_store.connect().put(1)


def test_slots_beyond_64_hold_objects_like_the_others(store: Store) -> None:
    clients = [store.connect() for _ in range(100)]
    assert sorted(client.slot for client in clients) == list(range(2, 102))
    low, high = clients[0], clients[-1]
    handle = high.put(np.arange(1000))
    id = handle.id
    held = [client.handle(id) for client in clients[1:-1]]
    assert high.table.holder_slots(handle) == [client.slot for client in clients[1:]]
    del handle
    arrays = [client.get(id) for client in clients[60:70]]
    held.clear()
    assert low.contains(id)
    arrays.pop(0)
    while arrays:
        assert int(arrays[-1].sum()) == 499_500
        assert low.contains(id)
        arrays.pop()
    assert not low.contains(id)
    assert store.audit()["holds"] == 0


def test_a_dead_process_with_a_wide_slot_is_cleaned_up_after(store: Store) -> None:
    clients = [store.connect() for _ in range(70)]
    peer = store.peer()
    slot = peer.ask("slot")
    assert slot >= 64
    handle = clients[0].put(np.arange(1000))
    peer.do("kept = [client.handle(id), client.put(1)]\nwritable = client.create(10)", id=handle.id)
    assert clients[0].table.holder_slots(handle) == [clients[0].slot, slot]
    peer.kill()
    store.until_gone(slot)
    assert clients[0].table.holder_slots(handle) == [clients[0].slot]
    assert store.audit()["objects"] == 1
    del handle
    assert store.audit()["holds"] == 0
