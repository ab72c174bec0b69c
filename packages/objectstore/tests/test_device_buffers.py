"""A device's share of the store, seen from its daemon: who may take what from where, and when."""

from __future__ import annotations

import os

import pytest

from rostral_objectstore import ObjectHandle, StoreClient
from rostral_objectstore.errors import DeviceFullError, DeviceLostError
from rostral_objectstore.gpu.backend import load_backend
from rostral_objectstore.gpu.buffers import DeviceBuffers
from rostral_objectstore.gpu.residence import ON_DEVICE, ON_HOST, new_table, word_of
from rostral_objectstore.layout import ObjectState
from rostral_objectstore.serialization import KIND_BYTES

from .store import Store

MIB = 1 << 20


@pytest.fixture
def buffers(store: Store, monkeypatch: pytest.MonkeyPatch) -> DeviceBuffers:
    """One MiB of a fake device, in this process."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    fd, table = new_table()
    os.close(fd)
    return DeviceBuffers(store.connect(), load_backend("fake"), 0, table, MIB)


def value_with_array(client: StoreClient) -> tuple[ObjectHandle, bytes]:
    """A value that refers to a host object, and what names that."""
    host = client.table.expect(ObjectHandle, os.urandom(20))
    value = client.table.put(ObjectHandle, os.urandom(20), KIND_BYTES, b"", [], [host])
    return value, host.packed()


def test_an_array_lives_as_long_as_the_value_that_refers_to_it(
    buffers: DeviceBuffers, store: Store
) -> None:
    value, packed = value_with_array(store.connect())
    buffer = buffers.allocate(packed, MIB, can_wait=False)
    assert buffer is not None
    assert buffers.reclaim() == 0
    del value
    assert buffers.reclaim() == 1
    assert buffers.extents.free_bytes == MIB
    assert buffers._table.word(buffer.entry) == 0


def test_a_reader_that_comes_while_its_array_leaves_finds_it_where_it_looked(
    buffers: DeviceBuffers, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. The array is copied to the host. 2. A reader takes hold. 3. The daemon steps back."""
    reader = store.connect()
    value, packed = value_with_array(reader)
    buffer = buffers.allocate(packed, MIB, can_wait=False)
    assert buffer is not None
    held: list[ObjectHandle] = []
    download = buffers._staging.download

    def download_and_hold(target: memoryview, source: int) -> None:
        download(target, source)
        held.append(reader.table.adopt_packed(ObjectHandle, packed))

    monkeypatch.setattr(buffers._staging, "download", download_and_hold)
    assert not buffers._demote(buffer)
    assert buffers._table.word(buffer.entry) == word_of(buffer.generation, ON_DEVICE)
    assert buffers.extents.free_bytes == 0
    held.clear()
    assert buffers._demote(buffer)
    assert buffers._table.word(buffer.entry) == word_of(buffer.generation, ON_HOST)
    assert buffers.extents.free_bytes == MIB
    del value


def test_what_has_left_once_leaves_again_with_no_copy(
    buffers: DeviceBuffers, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = store.connect()
    value, packed = value_with_array(client)
    buffer = buffers.allocate(packed, MIB, can_wait=False)
    assert buffer is not None
    assert buffers._demote(buffer)
    assert buffers.promote(packed, can_wait=False) is buffer
    monkeypatch.setattr(buffers._staging, "download", None)
    assert buffers._demote(buffer)
    handle = client.table.adopt_packed(ObjectHandle, packed)
    assert client.table.state(handle) == ObjectState.SEALED
    del value


def test_what_was_never_written_is_lost(buffers: DeviceBuffers, store: Store) -> None:
    value, packed = value_with_array(store.connect())
    for ask in (buffers.write_host_object, lambda one: buffers.promote(one, can_wait=False)):
        with pytest.raises(DeviceLostError, match=packed[:20].hex()):
            ask(packed)
    del value


def test_who_can_wait_is_told_to_and_leaves_nothing(buffers: DeviceBuffers, store: Store) -> None:
    client = store.connect()
    value, packed = value_with_array(client)
    reader = client.table.adopt_packed(ObjectHandle, packed)
    buffers.allocate(packed, MIB, can_wait=False)
    other, late = value_with_array(client)
    assert buffers.allocate(late, 1, can_wait=True) is None
    assert len(buffers) == 1
    with pytest.raises(DeviceFullError, match=f"process {os.getpid()}"):
        buffers.allocate(late, 1, can_wait=False)
    del reader
    assert buffers.allocate(late, 1, can_wait=True) is not None
    del value, other


def test_more_arrays_than_lines_are_an_error(buffers: DeviceBuffers, store: Store) -> None:
    client = store.connect()
    buffers._free_entries = [1]
    kept = [value_with_array(client) for _ in range(2)]
    buffers.allocate(kept[0][1], 1, can_wait=False)
    with pytest.raises(DeviceFullError, match="cannot have more"):
        buffers.allocate(kept[1][1], 1, can_wait=False)
    kept.pop(0)
    assert buffers.allocate(kept[0][1], 1, can_wait=False) is not None
