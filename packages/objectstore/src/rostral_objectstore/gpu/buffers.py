"""One device's share of the store: which arrays are in it, and where the others are.

Owns the device memory, the table of residency that readers map, and the copies between device and
host. What keeps an array is the record of its *host object*: an object that nobody has written yet.
The value that the array belongs to refers to it, so it lives exactly as long as that value does;
who reads the array on the device holds it, so its bits say who does. When the array has to leave
the device, the host object is written: from there on it is an object like any other, which the
store spills to disk under pressure and which outlives this process.

Not thread-safe: the daemon calls it under a lock. Methods block for as long as a copy does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from rostral_gcs.ids import ObjectID
from rostral_objectstore._native import headroom
from rostral_objectstore._native.residency import ResidencyTable
from rostral_objectstore.client import StoreClient
from rostral_objectstore.core.extents import Extents
from rostral_objectstore.errors import (
    DeviceError,
    DeviceFullError,
    DeviceLostError,
    ObjectNotFoundError,
    ObjectStoreFullError,
)
from rostral_objectstore.gpu.backend import Backend, DeviceMemory
from rostral_objectstore.gpu.residence import ON_DEVICE, ON_HOST, word_of
from rostral_objectstore.gpu.staging import Staging
from rostral_objectstore.handle import ObjectHandle
from rostral_objectstore.layout import ObjectState

logger = logging.getLogger("rostral.objectstore.gpu")

# What the widest loads of a GPU want, and what cudaMalloc itself keeps to.
ALIGNMENT_BYTES = 512
HOLDERS_NAMED = 3
IN_MEMORY_OR_ON_DISK = (ObjectState.SEALED, ObjectState.SPILLED)

Key = tuple[int, int]


@dataclass(slots=True)
class Buffer:
    """One array.

    Attributes:
        packed: names its host object.
        entry: its line of the residency table.
        generation: tells it from others that had the line before.
        offset: where it begins; None: it is not on the device.
    """

    packed: bytes
    entry: int
    generation: int
    size_bytes: int
    offset: int | None = None

    @property
    def key(self) -> Key:
        """Locator and version of the host object."""
        return key_of(self.packed)


def key_of(packed: bytes) -> Key:
    """What `headroom.gone` knows an object by."""
    return int.from_bytes(packed[20:24], "little"), int.from_bytes(packed[24:28], "little")


@dataclass(slots=True)
class Counts:
    """What has happened since the start."""

    demoted: int = 0
    promoted: int = 0
    freed: int = 0


class DeviceBuffers:
    """The arrays of one device.

    Args:
        store: our attachment to the store; the host objects are its.
        backend, device: whose memory.
        table: of residency; line 0 is its clock.
        size_bytes: of our share of the device.

    Raises:
        DeviceFullError: the device does not have so much.
    """

    def __init__(
        self,
        store: StoreClient,
        backend: Backend,
        device: int,
        table: ResidencyTable,
        size_bytes: int,
    ) -> None:
        self._store, self._backend, self.device, self._table = store, backend, device, table
        self.identity = backend.identity(device)
        self.extents = Extents(size_bytes, ALIGNMENT_BYTES)
        self.memory: DeviceMemory = backend.allocate(device, self.extents.size_bytes)
        self.counts = Counts()
        self._staging = Staging(backend, device)
        self._buffers: dict[Key, Buffer] = {}
        self._free_entries = list(range(table.count - 1, 0, -1))
        self._generation = 0

    def __len__(self) -> int:
        return len(self._buffers)

    # ---- what clients ask

    def allocate(self, packed: bytes, size_bytes: int, *, can_wait: bool) -> Buffer | None:
        """Room for a new array, which the caller, who holds its host object, is about to write.

        Nobody else can come to it before, since nobody knows of the host object. None: ask again.

        Raises:
            DeviceFullError: it can never be, or there is none and the caller does not wait.
        """
        buffer = self._room_for(packed, size_bytes, can_wait=can_wait)
        if buffer is not None:
            self._publish(buffer)
        return buffer

    def promote(self, packed: bytes, *, can_wait: bool) -> Buffer | None:
        """Brings an array back to the device; the caller holds its host object. None: ask again.

        Raises:
            DeviceLostError: its bytes are nowhere.
            DeviceFullError: no room. ObjectStoreError: it cannot be read back.
        """
        buffer = self._buffers.get(key_of(packed))
        if buffer is not None and buffer.offset is not None:
            return buffer
        handle = self._store.table.adopt_packed(ObjectHandle, packed)
        if self._store.table.state(handle) not in IN_MEMORY_OR_ON_DISK:
            raise lost(packed, self.identity)
        elements = self._store.get_buffer(handle)
        placed = self._room_for(packed, elements.nbytes, can_wait=can_wait)
        if placed is None:
            return None
        assert placed.offset is not None
        try:
            self._staging.upload(self.memory.pointer + placed.offset, elements)
        except DeviceError:
            self._forget(self._buffers.pop(placed.key))
            raise
        self._publish(placed)
        self.counts.promoted += 1
        return placed

    def write_host_object(self, packed: bytes) -> None:
        """Has the bytes in the store's shared memory too; the caller holds the host object.

        Raises: DeviceLostError, ObjectStoreFullError.
        """
        handle = self._store.table.adopt_packed(ObjectHandle, packed)
        if self._store.table.state(handle) in IN_MEMORY_OR_ON_DISK:
            return
        buffer = self._buffers.get(key_of(packed))
        if buffer is None or buffer.offset is None:
            raise lost(packed, self.identity)
        self._download(buffer)

    # ---- room

    def reclaim(self) -> int:
        """Frees what nobody refers to any more. Returns how many arrays that were."""
        gone = headroom.gone(self._store.table, list(self._buffers))
        for key in gone:
            self._forget(self._buffers.pop(key))
        self.counts.freed += len(gone)
        return len(gone)

    def tick(self, clock: int) -> None:
        """Turns the clock of LRU."""
        self._table.touch(0, clock)

    def _room_for(self, packed: bytes, size_bytes: int, *, can_wait: bool) -> Buffer | None:
        if size_bytes > self.extents.size_bytes:
            raise self._too_large(size_bytes)
        buffer = self._buffers.get(key_of(packed)) or self._new(packed, size_bytes)
        if buffer is not None and self._place(buffer):
            return buffer
        if can_wait:
            return None
        raise self._full(size_bytes)

    def _new(self, packed: bytes, size_bytes: int) -> Buffer | None:
        if not self._free_entries:
            self.reclaim()
            if not self._free_entries:
                return None
        entry = self._free_entries.pop()
        self._generation += 1
        buffer = Buffer(packed, entry, self._generation, size_bytes)
        self._buffers[buffer.key] = buffer
        self._table.set_word(entry, word_of(buffer.generation, ON_HOST))
        return buffer

    def _place(self, buffer: Buffer) -> bool:
        """Gives the array a place on the device, whoever has to leave for it."""
        if buffer.offset is not None:
            return True
        offset = self.extents.take(buffer.size_bytes)
        if offset is None and self._make_room(buffer.size_bytes):
            offset = self.extents.take(buffer.size_bytes)
        if offset is None:
            if not self._is_written(buffer):
                self._forget(self._buffers.pop(buffer.key))
            return False
        buffer.offset = offset
        self._table.set_offset(buffer.entry, offset)
        self._table.touch(buffer.entry, self._table.last_used(0))
        return True

    def _is_written(self, buffer: Buffer) -> bool:
        try:
            handle = self._store.table.adopt_packed(ObjectHandle, buffer.packed)
        except ObjectNotFoundError:
            return False
        return self._store.table.state(handle) in IN_MEMORY_OR_ON_DISK

    def _make_room(self, size_bytes: int) -> bool:
        """Whether there is room in one piece, least recently used arrays having left for it."""
        self.reclaim()
        if self.extents.longest_bytes >= self.extents.rounded(size_bytes):
            return True
        for victim in self._by_age():
            try:
                demoted = self._demote(victim)
            except ObjectStoreFullError as error:
                logger.warning("no array can leave device %s: %s", self.identity, error)
                return False
            if demoted and self.extents.longest_bytes >= self.extents.rounded(size_bytes):
                return True
        return False

    def _by_age(self) -> Iterator[Buffer]:
        placed = [one for one in self._buffers.values() if one.offset is not None]
        placed.sort(key=lambda one: (self._table.last_used(one.entry), one.generation))
        return iter(placed)

    def _demote(self, buffer: Buffer) -> bool:
        """Takes an array off the device, its bytes being in the host object. False: it is read.

        Raises ObjectStoreFullError.
        """
        if self._readers(buffer):
            return False
        try:
            self._download(buffer)
        except ObjectNotFoundError:
            return False  # gone by now: the next look at what is gone frees it
        self._table.set_word(buffer.entry, word_of(buffer.generation, ON_HOST))
        if self._readers(buffer):
            # Somebody took hold of it since, and may have read the word before we wrote it.
            self._publish(buffer)
            return False
        assert buffer.offset is not None
        self.extents.give_back(buffer.offset)
        buffer.offset = None
        self.counts.demoted += 1
        return True

    def _download(self, buffer: Buffer) -> None:
        """Writes the array's bytes into its host object, if they are not there."""
        assert buffer.offset is not None
        handle = self._store.table.adopt_packed(ObjectHandle, buffer.packed)
        if self._store.table.state(handle) in IN_MEMORY_OR_ON_DISK:
            return
        writable = self._store.create(buffer.size_bytes, ObjectID(handle.binary()))
        with writable:
            self._staging.download(writable.buffer, self.memory.pointer + buffer.offset)
            writable.seal()

    def _readers(self, buffer: Buffer) -> list[int]:
        """Slots of the processes that hold the array's host object: they may read it here."""
        try:
            handle = self._store.table.adopt_packed(ObjectHandle, buffer.packed)
        except ObjectNotFoundError:
            return []
        slots: list[int] = self._store.table.holder_slots(handle)
        return [slot for slot in slots if slot != self._store.slot]

    def _publish(self, buffer: Buffer) -> None:
        self._table.set_word(buffer.entry, word_of(buffer.generation, ON_DEVICE))

    def _forget(self, buffer: Buffer) -> None:
        self._table.set_word(buffer.entry, 0)
        self._free_entries.append(buffer.entry)
        if buffer.offset is not None:
            self.extents.give_back(buffer.offset)
            buffer.offset = None

    # ---- errors

    def _too_large(self, size_bytes: int) -> DeviceFullError:
        return self._error(
            size_bytes,
            f"an array of {size_bytes} bytes cannot fit: the store has "
            f"{self.extents.size_bytes} bytes of device {self.identity}",
            "start the store with a larger share of it (--device-memory)",
        )

    def _full(self, size_bytes: int) -> DeviceFullError:
        if not self._free_entries:
            return self._error(
                size_bytes,
                f"device {self.identity} has {self._table.count - 1} arrays in the store, and "
                "cannot have more",
                "drop references to arrays that are no longer needed",
            )
        used = self.extents.size_bytes - self.extents.free_bytes
        return self._error(
            size_bytes,
            f"no room on device {self.identity} for {size_bytes} bytes in one piece: {used} of the "
            f"store's {self.extents.size_bytes} bytes there are in use; arrays are read by "
            f"{self._named_readers()}",
            "drop arrays that are no longer needed, or start the store with a larger share of the "
            "device (--device-memory) or with more shared memory, for arrays to go to",
        )

    def _named_readers(self) -> str:
        held: dict[int, tuple[int, int]] = {}
        for buffer in self._buffers.values():
            for slot in self._readers(buffer) if buffer.offset is not None else []:
                count, size_bytes = held.get(slot, (0, 0))
                held[slot] = count + 1, size_bytes + buffer.size_bytes
        largest = sorted(held.items(), key=lambda item: -item[1][1])[:HOLDERS_NAMED]
        named = []
        for slot, (count, size_bytes) in largest:
            pid = self._store.segment.slot_info(slot)["pid"]
            named.append(f"process {pid} ({size_bytes} bytes in {count} arrays)")
        return ", ".join(named) or "nobody"

    def _error(self, size_bytes: int, text: str, hint: str) -> DeviceFullError:
        error = DeviceFullError(text, hint=hint)
        error.device, error.need_bytes = self.identity, size_bytes
        error.capacity_bytes = self.extents.size_bytes
        return error


def lost(packed: bytes, identity: str) -> DeviceLostError:
    """The error of whoever reads an array whose bytes are gone."""
    hexadecimal = packed[:20].hex()
    return DeviceLostError(
        f"an array on device {identity} is lost (host object {hexadecimal}): the store's process "
        "of that device died, and it was nowhere else",
        hint="make it again; the store's log says why the process died",
        object_ref_hex=hexadecimal,
    )
