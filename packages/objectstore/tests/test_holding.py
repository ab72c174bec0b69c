"""Who keeps an object: handles, views, references from other objects; and how it goes."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

from rostral_gcs.ids import ObjectID
from rostral_objectstore import ObjectHandle
from rostral_objectstore._native import repair
from rostral_objectstore._native.heap import Heap
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore.errors import (
    ObjectAlreadyExistsError,
    ObjectNotFoundError,
    ObjectStateError,
    StoreClosedError,
)

from .store import Store, until

CHAIN = 100_000


def used_chunks(segment: Segment) -> int:
    return sum(Heap(segment).chunks_by_kind()[1:])


def test_an_object_goes_with_its_last_handle_and_its_memory_comes_back(store: Store) -> None:
    client = store.connect()
    before = used_chunks(client.segment)
    handle = client.put(np.zeros(50_000_000, np.uint8))
    id = handle.id
    assert used_chunks(client.segment) - before >= 50_000_000 // 65536
    del handle
    assert not client.contains(id)
    assert used_chunks(client.segment) - before <= 2  # a chunk of records, and one current slab
    assert store.audit()["objects"] == 0


def test_a_view_keeps_the_object_after_the_handle(store: Store) -> None:
    client = store.connect()
    view = client.get(client.put(np.arange(100_000)))[50_000:50_010]
    gc.collect()
    assert client.table.buffer_count == 1
    assert store.audit()["objects"] == 1
    assert list(view) == list(range(50_000, 50_010))
    del view
    assert store.audit()["objects"] == 0
    assert client.table.buffer_count == 0


def test_another_process_keeps_the_object(store: Store) -> None:
    client, other = store.connect(), store.peer()
    handle = client.put(np.arange(1000))
    other.do("array = client.get(ObjectID(id))", id=handle.binary())
    assert sorted(client.table.holder_slots(handle)) == sorted([client.slot, other.ask("slot")])
    assert client.table.held_elsewhere(handle)
    del handle
    assert store.audit()["objects"] == 1
    assert other.ask("array.sum()") == 999 * 500
    other.do("del array")
    assert store.audit()["objects"] == 0


def test_a_handle_shared_is_a_second_hold(store: Store) -> None:
    client = store.connect()
    first = client.put(b"x" * 100)
    second = client.table.share(ObjectHandle, first)
    assert first == second
    assert hash(first) == hash(second)
    id = first.id
    del first
    assert client.contains(id)
    del second
    assert not client.contains(id)


def test_a_packed_reference_is_adopted_by_another_process(store: Store) -> None:
    client, other = store.connect(), store.peer()
    handle = client.put(b"value")
    other.do("handle = table.adopt_packed(ObjectHandle, packed)", packed=handle.packed())
    del handle
    assert other.ask("client.get(handle)") == b"value"


def test_a_stale_reference_is_refused(store: Store) -> None:
    client = store.connect()
    handle = client.put(b"one")
    loc, version, id = handle.loc, handle.version, handle.binary()
    del handle
    with pytest.raises(ObjectNotFoundError):
        client.table.adopt(ObjectHandle, loc, version, id)
    again = client.put(b"two")
    assert again.loc == loc
    with pytest.raises(ObjectNotFoundError):
        client.table.adopt(ObjectHandle, loc, version, id)
    with pytest.raises(ObjectNotFoundError):
        client.table.adopt(ObjectHandle, loc, again.version, id)
    assert store.audit()["holds"] == 1


@pytest.mark.parametrize("loc", [0, 1, 4, 64, 1 << 20, 0xFFFFFFFF])
def test_a_locator_that_is_no_object_is_refused_and_changes_nothing(store: Store, loc: int) -> None:
    client = store.connect()
    data = client.get(client.put(np.zeros(1 << 20, np.uint8)))
    with pytest.raises(ObjectNotFoundError):
        client.table.adopt(ObjectHandle, loc, 0, bytes(20))
    with pytest.raises(ObjectNotFoundError):
        client.table.adopt_held(ObjectHandle, loc)
    assert not data.any()


def contain(table: ObjectTable, inner: list[Handle]) -> Handle:
    return table.put(Handle, os.urandom(20), 1, b"", [], inner)


def test_a_value_keeps_the_objects_it_refers_to(table: ObjectTable) -> None:
    inner = table.put(Handle, b"i" * 20, 2, b"inner", [], [])
    outer = [contain(table, [inner, inner]) for _ in range(3)]
    del inner
    assert table.find(Handle, b"i" * 20) is not None
    del outer[1:]
    found = table.find(Handle, b"i" * 20)
    assert found is not None
    assert table.held_elsewhere(found)
    del found
    del outer
    assert table.find(Handle, b"i" * 20) is None


def test_a_chain_of_100k_objects_goes_with_its_end(segment: Segment, table: ObjectTable) -> None:
    end = contain(table, [])
    for _ in range(CHAIN):
        end = contain(table, [end])
    first = table.share(Handle, end)
    del end
    free = Heap(segment).chunks_by_kind()[0]
    del first
    assert table.find(Handle, bytes(20)) is None
    Heap(segment).trim()
    assert Heap(segment).chunks_by_kind()[0] > free
    assert repair.audit(table)["objects"] == 0


def test_a_wide_tree_of_objects_goes_with_its_root(table: ObjectTable) -> None:
    leaves = [contain(table, []) for _ in range(1000)]
    branches = [contain(table, leaves[i::10]) for i in range(10)]
    root = contain(table, branches + leaves)
    kept = leaves[7]
    leaves.clear()
    branches.clear()
    del root
    assert repair.audit(table)["objects"] == 1
    assert table.state(kept) == 3


def test_an_id_of_the_users_choice_is_found_by_others(store: Store) -> None:
    id = ObjectID(b"the weights of today")
    handle = store.connect().put([1, 2], id)
    assert handle.id == id
    assert store.connect().get(id, timeout_s=0) == [1, 2]


def test_an_id_is_used_once(store: Store) -> None:
    client, id = store.connect(), ObjectID(b"a" * 20)
    handle = client.put(1, id)
    for again in (lambda: client.put(2, id), lambda: client.create(10, id)):
        with pytest.raises(ObjectAlreadyExistsError, match="6161"):
            again()
    assert client.get(handle) == 1
    del handle
    assert client.get(client.put(3, id)) == 3


def test_an_object_in_writing_cannot_be_written_by_another(store: Store) -> None:
    client, other, id = store.connect(), store.peer(), ObjectID(b"a" * 20)
    with client.create(10, id) as writable:
        other.do("handle = client.handle(ObjectID(id))", id=id.binary())
        assert not other.ask("table.fill(handle, 2, b'theirs', [], [])")
        writable.buffer[:] = b"0123456789"
        writable.seal()
    assert other.ask("bytes(client.get(handle))") == b"0123456789"


def test_only_the_creator_seals_and_only_once(store: Store) -> None:
    client, other = store.connect(), store.peer()
    with client.create(10) as writable:
        other.do("handle = client.handle(ObjectID(id))", id=writable._handle.binary())
        assert other.ask("table.state(handle)") == 2
        for call in ("seal", "abort"):
            with pytest.raises(Exception, match="ObjectStateError"):
                other.do(f"table.{call}(handle)")
        handle = writable.seal()
    for change in (client.table.seal, client.table.abort):
        with pytest.raises(ObjectStateError, match="sealed"):
            change(handle)


def test_an_aborted_object_can_be_made_by_another(store: Store) -> None:
    client, other, id = store.connect(), store.peer(), ObjectID(b"a" * 20)
    other.do("handle = client.handle(ObjectID(id))", id=id.binary())
    other.begin("value = client.get(handle)")
    with pytest.raises(RuntimeError), client.create(1 << 20, id):
        raise RuntimeError
    assert not client.contains(id)
    handle = client.put("second try", id)
    other.end()
    assert other.ask("value") == "second try"
    del handle


def test_a_view_of_an_aborted_buffer_keeps_its_memory(store: Store) -> None:
    client = store.connect()
    writable = client.create(1 << 20)
    view = np.frombuffer(writable.buffer, np.uint8)
    writable.abort()
    view[:] = 1  # late, but nobody else's memory
    others = [client.put(np.zeros(1 << 20, np.uint8)) for _ in range(4)]
    assert not any(client.get(other).any() for other in others)
    assert view.all()
    blocks = store.audit()["blocks"]
    del view, writable
    assert store.audit()["blocks"] == blocks - 1


def test_an_object_dropped_unsealed_goes(store: Store) -> None:
    client = store.connect()
    writable = client.create(1 << 20)
    assert store.audit()["blocks"] == 1
    del writable
    assert store.audit() == dict.fromkeys(store.audit(), 0)


def test_an_empty_object_can_be_made(store: Store) -> None:
    client = store.connect()
    with client.create(0) as writable:
        assert bytes(client.get(writable.seal())) == b""


def test_handles_of_another_store_and_none_are_refused(store: Store, table: ObjectTable) -> None:
    client = store.connect()
    mine, foreign = client.put(1), table.put(ObjectHandle, b"f" * 20, 2, b"", [], [])
    with pytest.raises(ValueError, match="another store"):
        client.get(foreign)
    with pytest.raises(ValueError, match="another store"):
        client.wait([mine, foreign])
    with pytest.raises(TypeError):
        client.wait([mine, None])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        client.table.read(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="by hand"):
        ObjectHandle()
    for wrong in (b"a" * 20, 7, None):
        with pytest.raises(TypeError):
            client.get(wrong)  # type: ignore[arg-type]


def test_after_close_everything_says_so(store: Store) -> None:
    client = store.connect()
    handle = client.put(1)
    client.close()
    client.close()
    for call in (
        lambda: client.put(2),
        lambda: client.get(handle),
        lambda: client.create(5),
        lambda: client.contains(handle.id),
    ):
        with pytest.raises(StoreClosedError, match="attach again"):
            call()
    until(lambda: client.slot not in store.slots(), "slot free")


def test_a_forked_child_can_attach_anew_but_not_use_its_parents_attachment(store: Store) -> None:
    peer = store.peer()
    peer.do(FORK)
    assert peer.ask("said") == "StoreClosedError StoreUnavailableError 499500"
    assert peer.ask("client.get(handle).sum()") == 499500
    peer.do("client.stats(); del handle")


FORK = """
handle = client.put(np.arange(1000))
id = handle.id
read, write = os.pipe()
child = os.fork()
if child == 0:
    said = []
    try:
        client.get(handle)
    except StoreClosedError as error:
        said.append(type(error).__name__)
    try:
        client.stats()
    except ConnectionError as error:
        said.append(type(error).__name__)
    del handle
    with StoreClient.connect(socket) as own:
        said.append(str(own.get(id).sum()))
    client.close()
    os.write(write, " ".join(said).encode())
    os._exit(0)
os.waitpid(child, 0)
said = os.read(read, 1000).decode()
os.close(read)
os.close(write)
"""
