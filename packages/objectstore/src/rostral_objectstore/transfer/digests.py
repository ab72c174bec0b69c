"""Checksums of chunks, kept from one transfer of an object to the next.

What is sealed does not change, so whoever serves an object to many nodes need read it for its
checksums only once. A bit that changes in memory later is found by the receiver, as one that
changes on the way is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

# 8 bytes a chunk: those of 64 GB, or of so many small objects, take some megabytes.
CHUNKS_MAX = 1 << 16

# One life of an object in this store: id, record and its version.
Key = tuple[bytes, int, int]


class Digests:
    """Thread-safe. Forgets the objects that were not asked for longest."""

    def __init__(self, chunks_max: int = CHUNKS_MAX) -> None:
        self._lock = threading.Lock()
        self._chunks_max = chunks_max
        self._chunk_count = 0
        self._known: OrderedDict[Key, dict[int, int]] = OrderedDict()

    def get(self, key: Key, offset: int) -> int | None:
        """The checksum of the chunk at that offset, if it is known."""
        with self._lock:
            known = self._known.get(key)
            if known is None:
                return None
            self._known.move_to_end(key)
            return known.get(offset)

    def keep(self, key: Key, offset: int, digest: int) -> None:
        """Remembers the checksum of a chunk."""
        with self._lock:
            known = self._known.setdefault(key, {})
            self._known.move_to_end(key)
            self._chunk_count += offset not in known
            known[offset] = digest
            while self._chunk_count > self._chunks_max:
                _, forgotten = self._known.popitem(last=False)
                self._chunk_count -= len(forgotten)
