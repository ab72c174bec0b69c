"""Device arrays that are wanted in shared memory too, for who cannot wait: a node's scheduler.

A value with device arrays leaves its node as parts, and the host objects of the arrays beside it:
so each has to be written first, by the process that owns the device's memory.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from rostral_objectstore._native.handle import Handle
from rostral_objectstore.client import StoreClient

# A copy of a whole device's memory to a disk, at worst.
WRITE_TIMEOUT_S = 600.0


class HostCopies:
    """Asks for host objects to be written, one after the other, in a thread of its own."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client
        self._thread = ThreadPoolExecutor(1, "rostral-host-copies")
        self._asked: dict[bytes, Future[None]] = {}

    def want(self, handle: Handle) -> None:
        """Has the bytes of a device array written to its host object, which is sealed then.

        Does not wait: ask again until it is sealed.

        Raises: DeviceLostError, ObjectStoreFullError, ...: it was asked before, and cannot be.
        """
        packed = handle.packed()
        asked = self._asked.get(packed)
        if asked is None:
            self._asked[packed] = self._thread.submit(self._write, handle)
        elif asked.done():
            del self._asked[packed]
            asked.result()

    def _write(self, handle: Handle) -> None:
        self._client.ask_daemon("device_to_host", {"packed": handle.packed()}, WRITE_TIMEOUT_S)
