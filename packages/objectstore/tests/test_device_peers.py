"""Two devices in one machine: arrays go from one to the other with no host between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rostral_objectstore.errors import DeviceUnavailableError
from rostral_objectstore.gpu import fake_backend
from rostral_objectstore.gpu.backend import own_backend

from .device_arrays import on_device, on_host, ramp
from .device_store import DEVICE_BYTES, DeviceStore, device_environment, running_devices
from .store import Nursery

pytestmark = pytest.mark.slow  # each test starts a store, and that a process for its device


@pytest.fixture
def two_devices(
    folder: Path, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DeviceStore]:
    """A store for a process that sees two devices."""
    for name, value in device_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(fake_backend.DEVICES_VARIABLE, "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    try:
        count = own_backend().device_count()
    except DeviceUnavailableError as error:
        pytest.skip(f"no GPU: {error}")
    if count < 2:
        pytest.skip(f"this machine has {count} GPU, and the test needs two")
    with running_devices(folder, nursery, 64 << 20, device_bytes=DEVICE_BYTES) as store:
        yield store


def test_an_array_is_read_on_another_device_with_nothing_of_it_on_the_host(
    two_devices: DeviceStore,
) -> None:
    client = two_devices.connect()
    handle = client.put(on_device(ramp(100_000)))
    array = client.get(handle, device="cuda:1")
    assert int(getattr(array.device, "id", array.device)) == 1
    assert np.array_equal(on_host(array), ramp(100_000))
    assert sum(one.size_bytes for one in client.list_objects()) < 10_000
    # What was copied is the reader's own, and the array stays where it was.
    assert np.array_equal(on_host(client.get(handle)), ramp(100_000))
    assert two_devices.device_stats(client)["arrays"] == 1


def test_an_array_of_one_device_is_put_on_another(two_devices: DeviceStore) -> None:
    client = two_devices.connect()
    handle = client.put(on_device(ramp(5000)), device="cuda:1")
    backend = own_backend()
    stats = client.devices.of(backend.identity(1), backend.name).stats()
    assert (stats["identity"], stats["arrays"]) == (backend.identity(1), 1)
    assert np.array_equal(on_host(client.get(handle)), ramp(5000))
    assert np.array_equal(on_host(client.get(handle, device="cuda:0")), ramp(5000))
