"""Three levels: arrays leave a full device for shared memory, that for the disk, and come back."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rostral_objectstore import ObjectHandle, StoreClient
from rostral_objectstore.errors import DeviceFullError, ObjectStoreFullError

from .device_arrays import on_device, on_host, ramp
from .device_store import DEVICE_BYTES, DeviceStore, running_devices, used_bytes
from .store import Nursery, until

pytestmark = pytest.mark.slow  # each test starts a store, and that a process for its device

# A quarter of the device's share of the store each.
COUNT = DEVICE_BYTES // 16


def put_ramps(client: StoreClient, count: int) -> list[ObjectHandle]:
    return [client.put(on_device(ramp(COUNT, number))) for number in range(count)]


def test_arrays_leave_a_full_device_and_come_back(device_store: DeviceStore) -> None:
    client = device_store.connect()
    handles = put_ramps(client, 9)
    stats = device_store.device_stats(client)
    assert stats["demoted"] == 5
    assert used_bytes(stats) <= DEVICE_BYTES
    for number, handle in enumerate(handles):
        assert np.array_equal(on_host(client.get(handle)), ramp(COUNT, number))
    assert device_store.device_stats(client)["promoted"] >= 5


def test_the_least_recently_used_array_leaves_first(device_store: DeviceStore) -> None:
    client = device_store.connect()
    handles = put_ramps(client, 4)
    on_host(client.get(handles[0]))  # and the others not
    clock = device_store.clock(client)
    until(lambda: device_store.clock(client) > clock, "the clock of LRU to turn")
    on_host(client.get(handles[0]))
    handles += put_ramps(client, 2)
    promoted = device_store.device_stats(client)["promoted"]
    on_host(client.get(handles[0]))
    assert device_store.device_stats(client)["promoted"] == promoted
    on_host(client.get(handles[1]))
    assert device_store.device_stats(client)["promoted"] == promoted + 1


def test_an_array_that_is_read_does_not_leave(device_store: DeviceStore) -> None:
    client = device_store.connect()
    handles = put_ramps(client, 4)
    array = client.get(handles[0])
    before = on_host(array)
    more = put_ramps(client, 6)
    assert np.array_equal(on_host(array), before)
    assert device_store.device_stats(client)["promoted"] == 0
    del more


def test_a_device_full_of_what_is_read_is_an_error_that_says_by_whom(
    device_store: DeviceStore,
) -> None:
    client, peer = device_store.connect(), device_store.peer()
    handles = put_ramps(client, 4)
    for number, handle in enumerate(handles):
        client.pin(handle)
        peer.do("from rostral_objectstore.gpu import tier")
        peer.do(f"array{number} = client.get(ObjectID(name))", name=handle.binary())
    with pytest.raises(ObjectStoreFullError) as caught:
        client.put(on_device(ramp(COUNT)))
    error = caught.value
    assert isinstance(error, DeviceFullError)
    assert f"process {peer.pid} ({4 * COUNT * 4} bytes in 4 arrays)" in str(error)
    assert error.device in str(error)
    assert (error.need_bytes, error.capacity_bytes) == (4 * COUNT, DEVICE_BYTES)
    again = pickle.loads(pickle.dumps(error))
    assert (again.device, str(again)) == (error.device, str(error))
    for handle in handles:
        client.unpin(handle.id)


def test_an_array_larger_than_the_share_is_an_error_at_once(device_store: DeviceStore) -> None:
    client = device_store.connect()
    with pytest.raises(DeviceFullError, match="cannot fit: the store has"):
        client.put(on_device(np.zeros(DEVICE_BYTES + 1, np.uint8)))
    assert used_bytes(device_store.device_stats(client)) == 0


def test_a_host_copy_is_made_once_for_all_readers(device_store: DeviceStore) -> None:
    client, peer = device_store.connect(), device_store.peer()
    handle = client.put(on_device(ramp(100_000)), "shared")
    first = client.get(handle, device="cpu")
    size_bytes = sum(one.size_bytes for one in client.list_objects())
    peer.do("array = client.get('shared', device='cpu')")
    assert sum(one.size_bytes for one in client.list_objects()) == size_bytes
    assert peer.ask("int(array.sum())") == int(first.sum())


@pytest.fixture
def narrow_store(
    device_environment: None, folder: Path, device_nursery: Nursery
) -> Iterator[DeviceStore]:
    """A store of 16 MiB, with 8 MiB of a device and a disk: three levels that are soon full."""
    disk = folder / "disk"
    disk.mkdir(mode=0o700)
    options = ("--spill-dir", str(disk), "--full-timeout", "10")
    with running_devices(folder, device_nursery, 16 << 20, *options, device_bytes=8 << 20) as store:
        yield store


def test_what_left_the_device_goes_on_to_the_disk_and_comes_back(
    narrow_store: DeviceStore,
) -> None:
    client = narrow_store.connect()
    handles = [client.put(on_device(ramp(1 << 20, number))) for number in range(12)]
    stats = client.stats()
    assert stats.evicted > 0
    assert stats.spilled_bytes > 0
    for number, handle in enumerate(handles):
        assert np.array_equal(on_host(client.get(handle)), ramp(1 << 20, number))
    for number, handle in enumerate(handles):
        assert np.array_equal(client.get(handle, device="cpu"), ramp(1 << 20, number))
