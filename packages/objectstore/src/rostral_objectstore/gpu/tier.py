"""A process's way to the arrays of one device: put with one copy on it, read with none.

Owns the line to the device's daemon, the daemon's memory as this process sees it, and the hold on
each array that is read here. A read costs no message: it takes hold, looks at the table, and makes
an array over the mapped memory.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rostral_objectstore.control import Body, ControlClient
from rostral_objectstore.device_ids import host_object_id
from rostral_objectstore.errors import (
    DeviceError,
    DeviceUnavailableError,
    ProtocolError,
    StoreUnavailableError,
)
from rostral_objectstore.gpu.backend import (
    ArrayForm,
    Backend,
    Framework,
    Source,
    device_name,
    find_device,
    load_backend,
)
from rostral_objectstore.gpu.buffers import IN_MEMORY_OR_ON_DISK, lost
from rostral_objectstore.gpu.opened import OpenMemory, end_reading
from rostral_objectstore.gpu.residence import ON_DEVICE, map_table, word_of
from rostral_objectstore.handle import ObjectHandle

if TYPE_CHECKING:
    from rostral_objectstore.client import StoreClient
    from rostral_objectstore.device_target import Putting

# The daemon imports CuPy first.
START_TIMEOUT_S = 70.0
RETRY_S = 0.01
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

    __slots__ = ("_backend", "_device", "_framework", "_handle", "_memory")

    def __init__(
        self,
        backend: Backend,
        device: int,
        framework: Framework,
        memory: OpenMemory,
        handle: ObjectHandle,
    ) -> None:
        self._backend, self._device, self._framework = backend, device, framework
        self._memory, self._handle = memory, handle

    def __del__(self) -> None:
        if sys.is_finalizing():
            return  # the libraries may be gone; the store takes the hold from a process that ends
        here = None
        with contextlib.suppress(DeviceError):
            here = self._backend.here(self._device)
        end_reading(self._backend, self._device, self._framework, here, self._memory, self._handle)


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
        self._control, told, fds = _attach(store, {"identity": identity, "backend": backend})
        try:
            if len(fds) != 1:
                raise ProtocolError(f"device {identity} sent {len(fds)} descriptors, not one")
            self._table = map_table(fds[0])
        finally:
            for fd in fds:
                os.close(fd)
        self.incarnation: bytes = told["incarnation"]
        self._handle, self._size_bytes = told["handle"], told["size_bytes"]
        self._opening = threading.Lock()
        self._memory: OpenMemory | None = None
        self.device: int | None = None

    @property
    def closed(self) -> bool:
        """Whether the device's daemon is gone, and with it what was in the device's memory."""
        return self._control.closed

    def close(self) -> None:
        """Unmaps the memory, or has the last array there do it, and ends the conversation.

        In this order: a daemon to which nobody speaks may free its memory.
        """
        with self._opening:
            self._memory = None
        self._control.close()

    # ---- writing

    def put(self, source: Source, putting: Putting) -> Place:
        """Copies an array into the store's device memory. `putting` says when it is there.

        Raises: DeviceFullError, DeviceError, StoreUnavailableError.
        """
        memory = self._open()
        assert self.device is not None
        host_id = host_object_id(device_name(self.device), source.size_bytes)
        handle = self._store.table.expect(ObjectHandle, host_id)
        packed = handle.packed()
        told = self._ask("allocate", {"packed": packed, "size_bytes": source.size_bytes})
        if source.size_bytes:
            self._stream.follow(source)
            target = memory.pointer + told["offset"]
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
        try:
            memory = self._open()
        except DeviceError as error:
            if not self.closed:
                raise
            raise lost(place.packed, self.identity) from error
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
        lease = Lease(self.backend, self.device, form.framework, memory, handle)
        return self.backend.array(form, self.device, memory.pointer + offset, size_bytes, lease)

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

    def _open(self) -> OpenMemory:
        """The daemon's memory, mapped once. Raises DeviceError, DeviceUnavailableError."""
        memory = self._memory
        if memory is None:
            with self._opening:
                memory = self._memory
                if memory is None:
                    memory = self._memory = self._map()
        return memory

    def _map(self) -> OpenMemory:
        self.backend: Backend = load_backend(self.backend_name)
        self.device = find_device(self.backend, self.identity)
        if self.device is None:
            raise DeviceUnavailableError(
                f"this process does not see device {self.identity}",
                hint="CUDA_VISIBLE_DEVICES says which a process may use",
            )
        self._stream = self.backend.stream(self.device)
        return OpenMemory(self.backend, self.device, self._handle, self._size_bytes)


def _attach(store: StoreClient, device: Body) -> tuple[ControlClient, Body, list[int]]:
    """The conversation with a device's daemon, and what that says first. Raises DeviceError."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while True:
        path = store.ask_daemon("device", device, START_TIMEOUT_S)["socket_path"]
        control = None
        try:
            control = ControlClient(path)
            return control, *control.call_with_fds("attach", {})
        except StoreUnavailableError:
            # A daemon that ends may listen a moment longer: the store starts another one then.
            if control is not None:
                control.close()
            if time.monotonic() > until_s:
                raise
            time.sleep(RETRY_S)


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
