"""Deaths around the device tier: nobody's leaves memory behind, and readers get typed errors."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from rostral_objectstore.errors import (
    DeviceLostError,
    DeviceUnavailableError,
    ObjectLostError,
    ObjectNotFoundError,
    ProtocolError,
)
from rostral_objectstore.gpu.backend import own_backend

from .device_arrays import on_device, on_host, ramp
from .device_store import DEVICE_BYTES, DeviceStore, used_bytes
from .store import until

pytestmark = pytest.mark.slow  # each test starts a store, and that a process for its device


def test_memory_of_a_process_that_dies_while_it_puts_is_given_back(
    device_store: DeviceStore,
) -> None:
    client, peer = device_store.connect(), device_store.peer()
    peer.do(
        "from rostral_objectstore.device_target import putting_into\n"
        "from rostral_objectstore.gpu.pickling import reduce_array\n"
        "putting = putting_into(client)\n"
        "holds = putting.__enter__()\n"
        "reduce_array(on_device(ramp(1 << 20)))"
    )
    assert used_bytes(device_store.device_stats(client)) == 4 << 20
    peer.kill()
    until(lambda: used_bytes(device_store.device_stats(client)) == 0, "memory given back")


def test_memory_that_a_dead_reader_had_is_given_back(device_store: DeviceStore) -> None:
    client, reader = device_store.connect(), device_store.peer()
    handle = client.put(on_device(ramp(1 << 20)), "read")
    reader.do("array = client.get('read')")
    del handle
    assert used_bytes(device_store.device_stats(client)) == 4 << 20
    reader.kill()
    until(lambda: used_bytes(device_store.device_stats(client)) == 0, "memory given back")


def test_arrays_of_a_dead_owner_are_lost_and_say_so(device_store: DeviceStore) -> None:
    client = device_store.connect()
    handle = client.put(on_device(ramp(1000)))
    kill_owner(device_store)
    with pytest.raises(DeviceLostError, match="is lost") as caught:
        client.get(handle)
    assert isinstance(caught.value, ObjectLostError)
    with pytest.raises(DeviceLostError):
        client.get(handle, device="cpu")
    # Where the device is, the next array finds a new owner.
    again = client.put(on_device(ramp(1000, 5)))
    assert np.array_equal(on_host(client.get(again)), ramp(1000, 5))


def test_what_had_left_the_device_outlives_its_owner(device_store: DeviceStore) -> None:
    client = device_store.connect()
    count = DEVICE_BYTES // 16
    handles = [client.put(on_device(ramp(count, number))) for number in range(5)]
    assert device_store.device_stats(client)["demoted"] == 1
    kill_owner(device_store)
    assert np.array_equal(client.get(handles[0], device="cpu"), ramp(count))
    # And back on the device, which a new process owns.
    assert np.array_equal(on_host(client.get(handles[0])), ramp(count))
    with pytest.raises(DeviceLostError):
        client.get(handles[1])


def test_an_owner_that_stops_gives_its_slot_and_memory_back(device_store: DeviceStore) -> None:
    client = device_store.connect()
    handle = client.put(on_device(ramp(1000)))
    pid = int(device_store.device_stats(client)["pid"])
    os.kill(pid, signal.SIGTERM)
    tier = next(iter(client.devices._tiers.values()))
    until(lambda: tier.closed, "the owner's end")
    with pytest.raises(DeviceLostError):
        client.get(handle)


def kill_owner(device_store: DeviceStore) -> None:
    """Kill -9 of the process that owns the device's memory; every client has noticed."""
    watcher = device_store.connect()
    device_store.kill_device_process(watcher)
    tiers = [
        tier for client in device_store.store._clients for tier in client.devices._tiers.values()
    ]
    until(lambda: all(tier.closed for tier in tiers), "the news of the owner's death")


def test_a_device_that_the_store_does_not_have_is_an_error(device_store: DeviceStore) -> None:
    client = device_store.connect()
    backend = own_backend().name
    with pytest.raises(DeviceUnavailableError, match="sees no device NONE-7"):
        client.devices.of("NONE-7", backend)
    with pytest.raises(ProtocolError, match="is no device"):
        client.devices.of("x" * 200, backend)
    with pytest.raises(ProtocolError, match="is no device"):
        client.devices.of("NONE-7", "../../evil")


def test_a_message_that_names_no_array_is_refused(device_store: DeviceStore) -> None:
    device_store.store.quiet = False  # a request without its fields is logged
    client = device_store.connect()
    handle = client.put(on_device(ramp(10)))
    tier = next(iter(client.devices._tiers.values()))
    for body in ({"packed": b"short"}, {"packed": 7}, {}):
        with pytest.raises(ProtocolError):
            tier._ask("allocate", {"size_bytes": 1, **body})
    with pytest.raises(ProtocolError, match="has no method"):
        tier._ask("format", {})
    for packed in (7, b"short"):
        with pytest.raises(ProtocolError, match="28 bytes"):
            client.ask_daemon("device_to_host", {"packed": packed})
    with pytest.raises(ObjectNotFoundError):
        client.ask_daemon("device_to_host", {"packed": bytes(28)})
    with pytest.raises(ObjectNotFoundError):
        tier._ask("write_host_object", {"packed": bytes(28)})
    assert np.array_equal(on_host(client.get(handle)), ramp(10))
