"""Waiting: until sealed, until the timeout, until a signal; one, many, by many threads."""

from __future__ import annotations

import math
import os
import signal
import threading
import time

import pytest

from rostral_gcs.ids import ObjectID
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore.errors import ObjectTimeoutError
from rostral_objectstore.layout import ObjectFlag

from .store import Store, until


def ids(count: int) -> list[ObjectID]:
    return [ObjectID(os.urandom(20)) for _ in range(count)]


def until_asleep(store: Store, slot: int) -> None:
    until(lambda: store.watcher.segment.slot_info(slot)["sleeping"], f"sleep of slot {slot}")


def test_get_blocks_until_sealed(store: Store) -> None:
    client, peer, id = store.connect(), store.peer(), ids(1)[0]
    slot = peer.ask("slot")
    peer.begin("value = client.get(id)", id=id)
    until_asleep(store, slot)
    handle = client.put("here", id)
    peer.end()
    assert peer.ask("value") == "here"
    del handle


def test_get_gives_up_after_the_timeout(store: Store) -> None:
    client, id = store.connect(), ids(1)[0]
    for timeout_s in (0, 0.05, -1):
        start = time.monotonic()
        with pytest.raises(ObjectTimeoutError, match=id.binary().hex()):
            client.get(id, timeout_s=timeout_s)
        assert timeout_s <= time.monotonic() - start < timeout_s + 2
    assert store.audit()["objects"] == 0


def test_timeouts_that_are_no_times(store: Store) -> None:
    client = store.connect()
    handle = client.put(1)
    with pytest.raises(ValueError, match="not a number"):
        client.get(handle, timeout_s=math.nan)
    assert client.get(handle, timeout_s=math.inf) == 1
    assert client.get(handle, timeout_s=1e300) == 1


def test_wait_returns_when_enough_are_sealed(store: Store) -> None:
    client, peer, many = store.connect(), store.peer(), ids(10)
    handles = [client.handle(id) for id in many]
    assert client.wait(handles, count=0) == 0
    assert client.wait(handles, count=3, timeout_s=0.01) == 0
    peer.begin(
        "kept = []\nfor id in ids:\n    time.sleep(0.002)\n    kept.append(client.put(1, id))",
        ids=many,
    )
    assert 3 <= client.wait(handles, count=3) <= 10
    assert client.wait(handles) == 10
    peer.end()


def test_an_object_twice_in_the_list_counts_twice(store: Store) -> None:
    client = store.connect()
    handle, missing = client.put(1), client.handle(ids(1)[0])
    assert client.wait([handle, handle]) == 2
    assert client.wait([handle, handle, missing], count=2) == 2
    assert client.wait([missing, missing], timeout_s=0.01) == 0
    assert client.wait([]) == 0
    with pytest.raises(ValueError, match="3 of 2"):
        client.wait([handle, handle], count=3)


def test_an_error_ends_a_wait_that_stops_at_errors(store: Store) -> None:
    client, peer, many = store.connect(), store.peer(), ids(5)
    handles = [client.handle(id) for id in many]
    slot = peer.ask("slot")
    for round in range(4):
        peer.begin(
            "handles = [client.handle(id) for id in ids]\n"
            "seen = table.wait(handles, len(handles), 10_000_000_000, True)",
            ids=many,
        )
        until_asleep(store, slot)
        error = round if round < 3 else 4
        client.table.fill(handles[error], 2, b"wrong", [], [], ObjectFlag.ERROR)
        peer.end()
        assert peer.ask("seen") == 1
        handles[error] = client.handle(ids(1)[0])
        peer.do("del handles")


def test_many_waiters_are_all_woken(store: Store) -> None:
    client, id = store.connect(), ids(1)[0]
    peers = [store.peer() for _ in range(12)]
    slots = [peer.ask("slot") for peer in peers]
    for peer in peers:
        peer.begin("value = client.get(id)", id=id)
    for slot in slots:
        until_asleep(store, slot)
    handle = client.put(42, id)
    for peer in peers:
        peer.end()
        assert peer.ask("value") == 42
    del handle


def test_threads_of_one_process_wait_for_different_objects(store: Store) -> None:
    client, other, many = store.connect(), store.connect(), ids(16)
    got: dict[ObjectID, object] = {}

    def wait(id: ObjectID) -> None:
        got[id] = client.get(id)

    threads = [threading.Thread(target=wait, args=(id,)) for id in many]
    for thread in threads:
        thread.start()
    until(
        lambda: store.watcher.segment.slot_info(client.slot)["sleeping"] == 16, "sleep of all", 5.0
    )
    kept = [other.put(i, id) for i, id in reversed(list(enumerate(many)))]
    for thread in threads:
        thread.join(10.0)
    assert got == {id: i for i, id in enumerate(many)}
    assert store.watcher.segment.slot_info(client.slot)["sleeping"] == 0
    del kept


def test_sigint_ends_a_wait(store: Store) -> None:
    peer = store.peer()
    slot = peer.ask("slot")
    peer.do("signal.signal(signal.SIGINT, signal.default_int_handler)")
    for code in ("client.get(id)", "client.wait([client.handle(id), client.handle(id)], count=1)"):
        peer.begin(
            f"try:\n    {code}\nexcept KeyboardInterrupt:\n    said = 'interrupted'",
            id=ids(1)[0],
        )
        until_asleep(store, slot)
        os.kill(peer.pid, signal.SIGINT)
        peer.end()
        assert peer.ask("said") == "interrupted"
    assert store.watcher.segment.slot_info(slot)["sleeping"] == 0


def test_a_handler_that_returns_does_not_end_a_wait(store: Store) -> None:
    client, peer, id = store.connect(), store.peer(), ids(1)[0]
    slot = peer.ask("slot")
    peer.do("count = []\nsignal.signal(signal.SIGUSR1, lambda *_: count.append(1))")
    peer.begin("value = client.get(id)", id=id)
    for _ in range(3):
        until_asleep(store, slot)
        os.kill(peer.pid, signal.SIGUSR1)
    handle = client.put("late", id)
    peer.end()
    assert peer.ask("value") == "late"
    assert peer.ask("len(count)") >= 1
    del handle


def test_a_ping_pong_loses_no_wake_up(store: Store) -> None:
    client, peer = store.connect(), store.peer()
    pings, pongs = ids(3000), ids(3000)
    peer.begin(
        "kept = [(client.get(ping), client.put(1, pong)) for ping, pong in zip(pings, pongs)]",
        pings=pings,
        pongs=pongs,
    )
    kept = []
    for ping, pong in zip(pings, pongs, strict=True):
        kept.append(client.put(1, ping))
        client.get(pong, timeout_s=10.0)
    peer.end()


def test_wait_looks_at_errors_that_came_while_it_was_not_looking(table: ObjectTable) -> None:
    handles = [table.expect(Handle, os.urandom(20)) for _ in range(3)]
    table.fill(handles[1], 2, b"", [], [], ObjectFlag.ERROR)
    assert table.wait(handles, 3, -1, True) == 1
