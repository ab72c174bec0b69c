"""Stores with devices, for the tests of the device tier: fake ones, unless the run has a GPU.

`ROSTRAL_TEST_DEVICES=cupy` (`tox -e gpu`) runs the very same tests on the first real GPU.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from rostral_objectstore import StoreClient
from rostral_objectstore.control import Body
from rostral_objectstore.gpu.backend import BACKEND_VARIABLE, own_backend

from .store import Nursery, Peer, Store, running

TEST_DEVICES = os.environ.get("ROSTRAL_TEST_DEVICES", "fake")
DEVICE_BYTES = 32 << 20
# A device's process that nobody needs ends soon, so that a store's end finds nothing left.
OPTIONS = ("--device-idle", "0.2")
IMPORTS = "from device_arrays import copied_later, on_device, on_host, ramp"


def device_environment() -> dict[str, str]:
    """What every process of such a test has in its environment."""
    return {BACKEND_VARIABLE: TEST_DEVICES, "CUDA_VISIBLE_DEVICES": "0"}


class DeviceStore:
    """A store that has memory of a device."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def connect(self) -> StoreClient:
        """An attachment of the test's own process."""
        return self.store.connect()

    def peer(self, *, attached: bool = True) -> Peer:
        """Another process that knows device arrays."""
        peer = self.store.peer(attached=attached)
        peer.do(IMPORTS)
        return peer

    def device_stats(self, client: StoreClient) -> Body:
        """What the device's process says of itself."""
        backend = own_backend()
        return client.devices.of(backend.identity(0), backend.name).stats()

    def clock(self, client: StoreClient) -> int:
        """The clock of LRU, which the device's process turns ten times a second."""
        return int(self.device_stats(client)["clock"])

    def kill_device_process(self, client: StoreClient) -> None:
        """Kill -9 of the process that owns the device's memory."""
        os.kill(self.device_stats(client)["pid"], signal.SIGKILL)


def used_bytes(stats: Body) -> int:
    """How much of the device's memory arrays have."""
    return int(stats["used_bytes"])


@contextlib.contextmanager
def running_devices(
    folder: Path, nursery: Nursery, memory_bytes: int, *options: str, device_bytes: int
) -> Iterator[DeviceStore]:
    """A store with so much of a device's memory; nothing may be left in it at the end."""
    device = ("--device-memory", str(device_bytes), *OPTIONS)
    with running(folder, nursery, memory_bytes, *device, *options) as store:
        yield DeviceStore(store)
