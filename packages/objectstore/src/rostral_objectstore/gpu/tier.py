"""A process's way to the arrays of one device: put with one copy on it, read with none.

Owns the line to the device's daemon, the daemon's memory as this process sees it, and the hold on
each array that is read here. A read costs no message: it takes hold, looks at the table, and makes
an array over the mapped memory.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rostral_objectstore.control import Body, ControlClient
from rostral_objectstore.errors import (
    DeviceError,
    DeviceUnavailableError,
    ProtocolError,
    StoreUnavailableError,
)
from rostral_objectstore.gpu.backend import ArrayForm, Backend, Source, find_device, load_backend
from rostral_objectstore.gpu.buffers import IN_MEMORY_OR_ON_DISK, lost
from rostral_objectstore.gpu.residence import ON_DEVICE, map_table, word_of
from rostral_objectstore.handle import ObjectHandle

if TYPE_CHECKING:
    from rostral_objectstore.client import StoreClient
    from rostral_objectstore.device_target import Putting

# The daemon imports CuPy first.
START_TIMEOUT_S = 70.0
# A copy of a whole device's memory to a disk, at worst.
CALL_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where an array was put: what the value that it belongs to says of it.

    Attributes:
        identity: of the device.
        incarnation: of its daemon; another one knows nothing of `entry`.
        packed: names the host object.
        entry, generation: its line of the residency table.
    """

    identity: str
    incarnation: bytes
    packed: bytes
    entry: int
    generation: int


class Lease:
    """What an array over the store's device memory keeps: the hold, and the mapped memory.

    The array's end says nothing of the work on it, which a device does later. So the hold ends only
    when all is done that this process had given to the device by then.
    """

    __slots__ = ("_device", "_handle", "_tier")

    def __init__(self, tier: DeviceTier, handle: ObjectHandle, device: int) -> None:
        self._tier, self._handle, self._device = tier, handle, device

    def __del__(self) -> None:
        _retired.put((self._tier, self._device, self._handle))


_retired: queue.SimpleQueue[tuple[DeviceTier, int, ObjectHandle]] = queue.SimpleQueue()
_retiring = threading.Lock()
_retirer: threading.Thread | None = None


def _start_retiring() -> None:
    global _retirer
    with _retiring:
        if _retirer is None:
            _retirer = threading.Thread(target=_retire, name="rostral-device", daemon=True)
            _retirer.start()


def _retire() -> None:
    while True:
        tier, device, handle = _retired.get()
        with contextlib.suppress(DeviceError):  # a device that fails reads nothing any more
            tier.backend.fence(device).synchronize()
        del tier, handle


def _forget_in_child() -> None:
    global _retirer, _retired, _retiring
    _retirer, _retired, _retiring = None, queue.SimpleQueue(), threading.Lock()


os.register_at_fork(after_in_child=_forget_in_child)


class DeviceTier:
    """This process's attachment to one device's daemon. Thread-safe.

    Args:
        store: this process's attachment to the store.
        identity: of the device.
        backend: by its name.

    Raises:
        DeviceError, StoreUnavailableError: the device's daemon does not run and cannot be started.
    """

    def __init__(self, store: StoreClient, identity: str, backend: str) -> None:
        self.identity, self.backend_name = identity, backend
        self._store = store
        body = {"identity": identity, "backend": backend}
        path = store.ask_daemon("device", body, START_TIMEOUT_S)["socket_path"]
        self._control = ControlClient(path)
        told, fds = self._control.call_with_fds("attach", {})
        try:
            if len(fds) != 1:
                raise ProtocolError(f"{path} sent {len(fds)} descriptors instead of one")
            self._table = map_table(fds[0])
        finally:
            for fd in fds:
                os.close(fd)
        self.incarnation: bytes = told["incarnation"]
        self._handle, self._size_bytes = told["handle"], told["size_bytes"]
        self._opening = threading.Lock()
        self._is_open = False
        self.device: int | None = None

    @property
    def closed(self) -> bool:
        """Whether the device's daemon is gone, and with it what was in the device's memory."""
        return self._control.closed

    def close(self) -> None:
        """Ends the conversation. The memory stays mapped for arrays that live."""
        self._control.close()

    # ---- writing

    def put(self, source: Source, putting: Putting) -> Place:
        """Copies an array into the store's device memory. `putting` says when it is there.

        Raises: DeviceFullError, DeviceError, StoreUnavailableError.
        """
        self._open()
        handle = self._store.table.expect(ObjectHandle, os.urandom(20))
        packed = handle.packed()
        told = self._ask("allocate", {"packed": packed, "size_bytes": source.size_bytes})
        if source.size_bytes:
            self._stream.follow(source)
            target = self._memory.pointer + told["offset"]
            self._stream.copy(target, source.pointer, source.size_bytes)
            putting.copies.append(self._stream.record())
            putting.sources.append(source)
        putting.contained.append(handle)
        return Place(self.identity, self.incarnation, packed, told["entry"], told["generation"])

    # ---- reading

    def read(self, place: Place, form: ArrayForm, size_bytes: int) -> Any:
        """The array on the device, with no copy; brought back to it if it had to leave.

        Raises: DeviceLostError, DeviceFullError, DeviceError.
        """
        self._open()
        assert self.device is not None
        # From here on the daemon leaves the array where it is, if that is the device.
        handle = self._store.table.adopt_packed(ObjectHandle, place.packed)
        entry, generation = place.entry, place.generation
        is_known = place.incarnation == self.incarnation and not self.closed
        if is_known and self._table.word(entry) == word_of(generation, ON_DEVICE):
            offset = self._table.offset(entry)
        else:
            told = self._ask_for(place, "promote")
            entry, offset = told["entry"], told["offset"]
        self._table.touch(entry, self._table.last_used(0))
        pointer = self._memory.pointer + offset
        lease = Lease(self, handle, self.device)
        return self.backend.array(form, self.device, pointer, size_bytes, lease)

    # ---- the device's daemon

    def write_host_object(self, place: Place) -> None:
        """Has the array's bytes in shared memory too; the caller holds the host object.

        Raises: DeviceLostError, ObjectStoreFullError.
        """
        self._ask_for(place, "write_host_object")

    def _ask_for(self, place: Place, method: str) -> Body:
        """Asks for something that exists already. Raises DeviceLostError when it does not."""
        try:
            return self._ask(method, {"packed": place.packed})
        except StoreUnavailableError as error:
            if not self.closed:
                raise
            raise lost(place.packed, self.identity) from error

    def _ask(self, method: str, body: Body) -> Body:
        waited_s = 0.0
        while True:
            told = self._control.call(method, {**body, "waited_s": waited_s}, CALL_TIMEOUT_S)
            if told.get("room", True):
                return told
            waited_s += 0.25

    def stats(self) -> Body:
        """What the daemon says of itself."""
        return self._control.call("stats", {})

    def _open(self) -> None:
        """Maps the daemon's memory, once. Raises DeviceError, DeviceUnavailableError."""
        if not self._is_open:
            with self._opening:
                self._map()

    def _map(self) -> None:
        if self._is_open:
            return  # another thread was quicker
        self.backend: Backend = load_backend(self.backend_name)
        self.device = find_device(self.backend, self.identity)
        if self.device is None:
            raise DeviceUnavailableError(
                f"this process does not see device {self.identity}",
                hint="CUDA_VISIBLE_DEVICES says which a process may use",
            )
        self._memory = self.backend.open(self.device, self._handle, self._size_bytes)
        self._stream = self.backend.stream(self.device)
        _start_retiring()
        self._is_open = True


class DeviceTiers:
    """The devices' daemons that one attachment to a store has to do with. Thread-safe."""

    def __init__(self, store: StoreClient) -> None:
        self._store = store
        self._tiers: dict[str, DeviceTier] = {}
        self._lock = threading.Lock()

    def of(self, identity: str, backend: str) -> DeviceTier:
        """The attachment to a device's daemon; a new one if that has died. Raises DeviceError."""
        tier = self._tiers.get(identity)
        if tier is not None and not tier.closed:
            return tier
        with self._lock:
            tier = self._tiers.get(identity)
            if tier is not None and tier.closed:
                tier.close()
                tier = None
            if tier is None:
                tier = self._tiers[identity] = DeviceTier(self._store, identity, backend)
            return tier

    def close(self) -> None:
        """Ends all conversations."""
        for tier in self._tiers.values():
            tier.close()


def host_bytes(store: StoreClient, place: Place, backend: str) -> memoryview:
    """The bytes of an array in shared memory, one copy for all who read them there.

    Raises: DeviceLostError, ObjectStoreFullError.
    """
    handle = store.table.adopt_packed(ObjectHandle, place.packed)
    if store.table.state(handle) not in IN_MEMORY_OR_ON_DISK:
        store.devices.of(place.identity, backend).write_host_object(place)
    return store.get_buffer(handle)
