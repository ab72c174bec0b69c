"""Objects by the names and ids that users choose: many at once, metadata, pin and delete."""

from __future__ import annotations

import os

import numpy as np
import pytest

from rostral_gcs.ids import ObjectID
from rostral_objectstore import StoreClient
from rostral_objectstore.errors import (
    ObjectAlreadyExistsError,
    ObjectNotFoundError,
    ObjectTimeoutError,
)

from .store import Store, until


def test_a_name_is_an_id_for_every_call(store: Store) -> None:
    writer, reader = store.connect(), store.peer()
    handle = writer.put(np.arange(1000), "weights", pin=True)
    assert handle.id == ObjectID.from_name("weights")
    assert reader.ask("int(client.get('weights').sum())") == 499_500
    assert writer.contains("weights")
    assert not writer.contains("Weights")
    with pytest.raises(ObjectAlreadyExistsError, match=handle.hex()):
        writer.put(1, "weights")
    writer.unpin("weights")
    with pytest.raises(ObjectNotFoundError, match="not pinned"):
        writer.unpin("weights")


def test_a_pinned_object_stays_when_its_writer_has_left(store: Store) -> None:
    writer = store.peer()
    writer.do("client.put(np.ones(10), 'kept', pin=True); client.put(1, 'dropped')")
    writer.kill()
    client = store.connect()
    assert client.get("kept").sum() == 10
    assert not client.contains("dropped")
    assert client.delete("kept") == "deleted"
    assert not client.contains("kept")


def test_many_objects_come_in_the_order_asked_for(store: Store) -> None:
    client, peer = store.connect(), store.peer()
    ids = [ObjectID.from_random() for _ in range(100)]
    peer.begin("many = client.get(ids + ids[:1])", ids=ids)
    kept = [client.put(i, ids[i]) for i in reversed(range(100))]
    peer.end()
    assert peer.ask("many") == [*range(100), 0]
    assert client.get([]) == []
    assert client.get([ids[3]]) == [3]
    assert client.get((ids[3], "not here")[:1]) == [3]
    assert client.wait([*ids, kept[0]], timeout_s=0) == 101
    with pytest.raises(ValueError, match="10000 are the most"):
        client.get(ids * 101)
    del kept


def test_a_timeout_says_which_objects_are_missing_and_why(store: Store) -> None:
    client, peer = store.connect(), store.peer()
    handle = client.put(1, "there")
    peer.do("writable = client.create(10, 'slow')")
    names = ["slow", "there", *(f"never {i}" for i in range(5))]
    with pytest.raises(ObjectTimeoutError, match="6 of 7 objects") as raised:
        client.get(names, timeout_s=0.01)
    text = str(raised.value)
    slow = ObjectID.from_name("slow").hex()
    assert f"{slow} (being written by process {peer.pid})" in text
    assert f"{ObjectID.from_name('never 0').hex()} (unknown here" in text
    assert "and 3 more" in text
    assert handle.hex() not in text
    assert raised.value.missing[0] == slow
    assert len(raised.value.missing) == 6
    peer.do("writable.abort()")
    del raised


def test_metadata_lies_beside_every_kind_of_object(store: Store) -> None:
    client, reader = store.connect(), store.peer()
    metadata = os.urandom(64 << 10)
    array = client.create_array((3, 5), "float32", "array", metadata=b"a")
    array.array[:] = 7
    raw = client.create(5, "raw", metadata=b"r")
    raw.buffer[:] = b"12345"
    kept = [
        client.put(np.arange(1000), "pickle", metadata=metadata),
        client.put(b"some bytes", "bytes", metadata=b"b"),
        client.put(None, "none", metadata=b"n"),
        client.put(None, "plain"),
        array.seal(),
        raw.seal(),
    ]
    assert reader.ask("client.get_metadata('pickle')") == metadata
    assert reader.ask("int(client.get('pickle').sum())") == 499_500
    for name, expected in {"bytes": b"b", "none": b"n", "plain": b"", "array": b"a"}.items():
        assert reader.ask("client.get_metadata(name)", name=name) == expected
    assert reader.ask("client.get('bytes')") == b"some bytes"
    assert reader.ask("client.get('none')") is None
    assert reader.ask("client.get('array').tolist()") == [[7.0] * 5] * 3
    assert reader.ask("bytes(client.get('raw'))") == b"12345"
    assert reader.ask("client.get_metadata('raw')") == b"r"
    del kept


def test_metadata_of_the_wrong_size_or_type_is_refused(store: Store) -> None:
    client = store.connect()
    with pytest.raises(ValueError, match="65537 bytes"):
        client.put(1, metadata=bytes((64 << 10) + 1))
    with pytest.raises(ValueError, match="65537 bytes"):
        client.create(1, metadata=bytes((64 << 10) + 1))
    with pytest.raises(TypeError, match="not str"):
        client.put(1, metadata="text")  # type: ignore[arg-type]


def test_deleting_waits_for_who_holds_the_object(store: Store) -> None:
    client, reader = store.connect(), store.peer()
    client.put(np.arange(100_000), "shared", pin=True)
    reader.do("array = client.get('shared')")
    assert client.delete("shared") == "deferred"
    (info,) = client.list_objects()
    assert (info.state, info.holders, info.pinned) == ("sealed", (reader.pid,), False)
    assert reader.ask("int(array.sum())") == 4_999_950_000
    reader.do("del array")
    assert not client.contains("shared")
    assert client.delete("shared") == "unknown"


def test_deleting_what_somebody_only_waits_for_does_nothing(store: Store) -> None:
    client = store.connect()
    waited_for = client.handle("awaited")
    assert client.delete("awaited") == "unknown"
    assert client.put(1, "awaited").id == waited_for.id


def test_the_list_says_who_holds_what(store: Store) -> None:
    client, peer = store.connect(), store.peer()
    handle = client.put(bytes(1000), "one", pin=True)
    peer.do("handle = client.handle('one'); writing = client.create(500, 'two')")
    by_id = {info.id: info for info in client.list_objects()}
    one, two = by_id[ObjectID.from_name("one")], by_id[ObjectID.from_name("two")]
    assert (one.state, one.size_bytes, one.pinned, one.is_error) == ("sealed", 1000, True, False)
    assert one.holders == tuple(sorted((os.getpid(), peer.pid)))
    assert (two.state, two.holders, two.pinned) == ("created", (peer.pid,), False)
    assert [info.id for info in client.list_objects(state="created")] == [two.id]
    assert len(client.list_objects(1)) == 1
    stats = client.stats()
    assert (stats.pinned, stats.pinned_bytes) == (1, 1000)
    assert stats.used_bytes + stats.free_bytes == stats.capacity_bytes
    client.delete("one")
    peer.do("writing.abort()")
    del handle


def test_who_connects_and_forgets_leaves_with_the_last_view(store: Store) -> None:
    client = store.connect()
    client.put(np.arange(1000), "there", pin=True)
    array = StoreClient.connect(store.socket).get("there")
    (slot,) = set(store.slots()) - {client.slot}
    assert array.sum() == 499_500
    del array
    store.until_gone(slot)
    assert client.delete("there") == "deleted"


def test_an_object_sealed_with_a_pin_stays(store: Store) -> None:
    client = store.connect()
    with client.create_array(3, int, "array") as writable:
        writable.array[:] = (1, 2, 3)
        writable.seal(pin=True)
    del writable
    until(lambda: not client.list_objects()[0].holders, "no holder but the store")
    assert client.get("array").tolist() == [1, 2, 3]
    assert client.delete("array") == "deleted"


def test_closing_closes_every_descriptor_and_keeps_views_readable(store: Store) -> None:
    peer = store.peer()
    fds = "len(os.listdir('/proc/self/fd'))"
    peer.do("kept = client.put(np.ones(100_000)); array = client.get(kept); client.close()")
    before = peer.ask(fds)
    peer.do(
        "with StoreClient.connect(socket) as other:\n"
        "    view = other.get(other.put(np.full(100_000, 2.0)))"
    )
    assert peer.ask(fds) == before
    assert peer.ask("view.shape") == (100_000,)
