"""A client that does everything there is to do with objects, at random, and checks what it reads.

What an object holds follows from its id alone, so whoever reads one can check it, whoever wrote it;
and several writers may race for one id. Used by tests that kill such clients, in a process of the
client's own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from rostral_gcs.ids import ObjectID
from rostral_objectstore import ObjectHandle, StoreClient
from rostral_objectstore.errors import (
    ObjectAlreadyExistsError,
    ObjectNotFoundError,
    ObjectStateError,
    ObjectStoreFullError,
)
from rostral_objectstore.serialization import KIND_BYTES

# One of each of the ways in which values lie in the store, and of the heap's kinds of blocks.
SIZES = (0, 30, 64, 300, 1000, 5000, 15_000, 40_000, 100_000, 300_000, 1_000_000, 4_000_000)
KEPT_MAX = 24
PACKED_BYTES = 28
BYTES, ARRAY, BUFFER, NESTED = range(4)
GIFTS = [
    ObjectID(bytes([0xF0 + i]) * 16 + bytes([SIZES.index(15_000), BYTES, 0, 0])) for i in range(8)
]


class WrongBytesError(Exception):
    """An object does not hold what its id says."""


def new_id(size_max: int, chooser: random.Random) -> ObjectID:
    """An id that nobody else has, of an object of at most that size."""
    return shaped_id(os.urandom(16), size_max, chooser)


def shared_ids(count: int, size_max: int) -> list[ObjectID]:
    """Ids that all clients fight over; the same for all."""
    chooser = random.Random(count)
    return [shaped_id(bytes([i]) * 16, size_max, chooser) for i in range(count)]


def shaped_id(unique: bytes, size_max: int, chooser: random.Random) -> ObjectID:
    sizes = sum(size <= size_max for size in SIZES)
    return ObjectID(unique + bytes([chooser.randrange(sizes), chooser.randrange(4), 0, 0]))


def kind_of(id: ObjectID) -> int:
    return id.binary()[17]


@functools.lru_cache(maxsize=32)
def content(id: ObjectID) -> bytes:
    """What the object with the id holds, unless it is NESTED."""
    size = SIZES[id.binary()[16]]
    pattern = hashlib.shake_128(id.binary()).digest(4099)
    return (pattern * (size // len(pattern) + 1))[:size]


class Churn:
    """One client's endless work. `step` does one thing; raises WrongBytesError.

    Args:
        seed: of all its choices.
        size_max: of the objects, in bytes.
        shared_count: how many ids the clients fight over.
    """

    def __init__(
        self, client: StoreClient, seed: int, *, size_max: int = 300_000, shared_count: int = 8
    ) -> None:
        self.client = client
        self.chooser = random.Random(seed)
        self.size_max = size_max
        self.shared = shared_ids(shared_count, size_max)
        self.gifts: dict[ObjectID, ObjectHandle] = {}
        self.kept: list[ObjectHandle] = []
        self.views: list[Any] = []
        self.checked = 0
        self.stale = bytes(PACKED_BYTES)
        self.actions: list[Callable[[], None]] = [
            self.put_new,
            self.put_new,
            self.put_shared,
            self.put_shared,
            self.read_shared,
            self.read_shared,
            self.read_kept,
            self.write_in_place,
            self.give_up,
            self.keep_view,
            self.wait,
            self.adopt_stale,
        ]
        self.actions = self.actions * 5 + [self.burst] + [self.exchange_gifts] * 10

    def step(self) -> None:
        """One action, and some drops so that what is kept stays bounded."""
        with contextlib.suppress(ObjectStoreFullError):
            self.chooser.choice(self.actions)()
        while len(self.kept) > KEPT_MAX:
            self.drop_one()
        if self.kept and self.chooser.random() < 0.3:
            self.drop_one()
        if len(self.views) > 4 or (self.views and self.chooser.random() < 0.3):
            self.views.pop(self.chooser.randrange(len(self.views)))

    def drop_one(self) -> None:
        handle = self.kept.pop(self.chooser.randrange(len(self.kept)))
        if self.chooser.random() < 0.2:
            self.stale = handle.packed()

    def leave(self) -> None:
        """Drops everything."""
        self.kept.clear()
        self.views.clear()
        self.gifts.clear()

    # ---- writing

    def put(self, id: ObjectID) -> ObjectHandle:
        """Writes the object with the id in the way that its id says."""
        if kind_of(id) == BYTES:
            return self.client.put(content(id), id)
        if kind_of(id) == ARRAY:
            return self.client.put(np.frombuffer(content(id), np.uint8), id)
        if kind_of(id) == BUFFER:
            with self.client.create(len(content(id)), id) as writable:
                writable.buffer[:] = content(id)
                return writable.seal()
        inner = [handle for handle in self.kept if self.client.table.is_sealed(handle)][-5:]
        packed = b"".join(handle.packed() for handle in inner)
        return self.client.table.put(ObjectHandle, id.binary(), KIND_BYTES, packed, [], inner)

    def put_new(self) -> None:
        self.kept.append(self.put(new_id(self.size_max, self.chooser)))

    def put_shared(self) -> None:
        """Puts an object that others put as well: exactly one of them succeeds."""
        id = self.chooser.choice(self.shared)
        try:
            self.kept.append(self.put(id))
        except ObjectAlreadyExistsError:
            self.kept.append(self.client.handle(id))

    def write_in_place(self) -> None:
        id = new_id(self.size_max, self.chooser)
        size = SIZES[id.binary()[16]]
        with self.client.create(size, id) as writable:
            if self.chooser.random() < 0.5:
                writable.buffer[:] = content(id)
                handle = writable.seal()
                if kind_of(id) == BUFFER:
                    self.kept.append(handle)

    def give_up(self) -> None:
        """Begins an object that others may wait for, and does not go through with it."""
        id = self.chooser.choice(self.shared)
        with contextlib.suppress(ObjectAlreadyExistsError, ObjectStateError):
            self.client.create(len(content(id)), id).abort()

    def burst(self) -> None:
        """Many objects at once, and none of them: enough for whole chunks to be given back."""
        kept = [self.client.put(bytes(15_000)) for _ in range(100)]
        del kept

    def exchange_gifts(self) -> None:
        """Puts what another shall be the last to hold: so clients free each other's blocks."""
        for id in GIFTS:
            handle = self.gifts.pop(id, None)
            if handle is not None:
                # One that nobody has taken yet is kept, but not for ever.
                if not self.client.table.held_elsewhere(handle) and self.chooser.random() < 0.9:
                    self.gifts[id] = handle
                continue
            try:
                self.gifts[id] = self.client.put(content(id), id)
            except ObjectAlreadyExistsError:
                self.gifts[id] = self.client.handle(id)

    # ---- reading

    def check(self, handle: ObjectHandle, *, depth: int = 0) -> Any:
        """Reads a sealed object and what it refers to. Returns its value."""
        value = self.client.get(handle)
        self.checked += 1
        if kind_of(handle.id) != NESTED:
            if memoryview(value).cast("B") != content(handle.id):
                raise WrongBytesError(handle.hex())
            return value
        if len(value) % PACKED_BYTES:
            raise WrongBytesError(handle.hex())
        for at in range(0, len(value), PACKED_BYTES):
            # The outer object is held, so the inner one must be there.
            packed = bytes(value[at : at + PACKED_BYTES])
            inner = self.client.table.adopt_packed(ObjectHandle, packed)
            if depth < 2:
                self.check(inner, depth=depth + 1)
        return value

    def is_sealed(self, handle: ObjectHandle) -> bool:
        return self.client.wait([handle], timeout_s=0) == 1

    def read_shared(self) -> None:
        handle = self.client.handle(self.chooser.choice(self.shared))
        if self.client.wait([handle], timeout_s=self.chooser.choice([0, 0.001])) == 1:
            self.check(handle)
            self.kept.append(handle)

    def read_kept(self) -> None:
        if self.kept and self.is_sealed(handle := self.chooser.choice(self.kept)):
            self.check(handle)

    def keep_view(self) -> None:
        if self.kept and self.is_sealed(handle := self.chooser.choice(self.kept)):
            self.views.append(self.check(handle))

    def wait(self) -> None:
        handles = [self.client.handle(id) for id in self.chooser.sample(self.shared, 3)]
        self.client.wait(handles, count=1, timeout_s=0.001)

    def adopt_stale(self) -> None:
        """Follows a reference that nobody may keep any more: it is gone, or still the same."""
        with contextlib.suppress(ObjectNotFoundError):
            handle = self.client.table.adopt_packed(ObjectHandle, self.stale)
            if self.is_sealed(handle):
                self.check(handle)
