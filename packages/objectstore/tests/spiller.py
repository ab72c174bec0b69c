"""The work of a client that puts more than fits into memory: imported by peers, which run it.

Every value follows from its number, so that whoever reads it knows what it must be.
"""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import numpy.typing as npt

from rostral_objectstore import ObjectHandle, StoreClient
from rostral_objectstore.serialization import serialize

SIZES_BYTES = (200, 3_000, 60_000, 400_000, 2_000_000)
# From the number of a value to that of the one that it holds; of the same size.
INNER = 10_000_000


def value_of(number: int) -> Any:
    """An array, or its bytes."""
    array = array_of(number)
    return array if number % 2 else array.tobytes()


def array_of(number: int) -> npt.NDArray[np.int64]:
    """What the value has in it."""
    return np.arange(number, number + SIZES_BYTES[number % len(SIZES_BYTES)] // 8)


class Spiller:
    """Puts values and keeps them; some hold another one, which nobody else does."""

    def __init__(self, client: StoreClient, seed: int) -> None:
        self._client = client
        self._chooser = random.Random(seed)
        self._next = seed << 32
        self._kept: list[tuple[int, ObjectHandle, bytes]] = []

    def fill(self, total_bytes: int) -> None:
        """Puts values of all sizes until they come to that many bytes."""
        put_bytes = 0
        while put_bytes < total_bytes:
            number = self._next
            self._next += 1
            inner = [self._client.put(value_of(number + INNER))] if number % 7 == 0 else []
            kind, inband, buffers = serialize(value_of(number))
            id = os.urandom(20)
            handle = self._client.table.put(ObjectHandle, id, kind, inband, buffers, inner)
            self._kept.append((number, handle, inner[0].id.binary() if inner else b""))
            put_bytes += (1 + len(inner)) * SIZES_BYTES[number % len(SIZES_BYTES)]

    def verify(self) -> None:
        """Reads all of them in random order; AssertionError names the one that is wrong."""
        for number, handle, inner_id in self._chooser.sample(self._kept, len(self._kept)):
            self._expect(number, handle)
            if inner_id:
                inner = self._client.table.find(ObjectHandle, inner_id)
                assert inner is not None, number
                self._expect(number + INNER, inner)

    def _expect(self, number: int, handle: ObjectHandle) -> None:
        found = self._client.get(handle)
        if isinstance(found, bytes):
            found = np.frombuffer(found, dtype=np.int64)
        np.testing.assert_array_equal(found, array_of(number), str(number))

    def keep_every(self, step: int) -> None:
        """Drops all but each so-manyth value."""
        self._kept = self._kept[::step]
