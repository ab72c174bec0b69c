"""Which chunks of an object are still to come. Pure: no clock, no sockets, no bytes.

An object travels in chunks, each with a checksum of its own; a stream carries a stretch of
consecutive chunks. When a stream ends early, what it did not bring goes back and somebody else
takes it: nothing that has arrived travels twice.
"""

from __future__ import annotations

import heapq

STRETCH_CHUNKS_MIN = 4
"""A call takes as long to open as four chunks of a mebibyte take to come over loopback: shorter
stretches, which the last ones of an object would be, cost more than an uneven end."""


class ChunkPlan:
    """What is missing, what is on its way, what has arrived.

    Invariant: each chunk is in exactly one of these three.

    Args:
        size_bytes: the object's size, at least 1.
        chunk_bytes: the size of each chunk but the last.
        stretch_chunks_max: the longest stretch given out at once.
    """

    def __init__(self, *, size_bytes: int, chunk_bytes: int, stretch_chunks_max: int) -> None:
        self.size_bytes = size_bytes
        self.chunk_bytes = chunk_bytes
        self.chunk_count = -(-size_bytes // chunk_bytes)
        self._stretch_chunks_max = stretch_chunks_max
        self._missing = [(0, self.chunk_count)]
        self._missing_count = self.chunk_count
        self._arrived = bytearray(self.chunk_count)
        self._arrived_count = 0

    @property
    def complete(self) -> bool:
        """Whether every chunk has arrived."""
        return self._arrived_count == self.chunk_count

    def take(self, stream_count: int) -> range | None:
        """A stretch for one of so many streams; None when everything is taken or there."""
        if not self._missing:
            return None
        share = max(STRETCH_CHUNKS_MIN, -(-self._missing_count // stream_count))
        first, stop = heapq.heappop(self._missing)
        end = min(stop, first + min(share, self._stretch_chunks_max))
        if end < stop:
            heapq.heappush(self._missing, (end, stop))
        self._missing_count -= end - first
        return range(first, end)

    def take_first(self) -> range:
        """The first chunk alone: it comes with the answer that tells the size."""
        first, stop = heapq.heappop(self._missing)
        if first + 1 < stop:
            heapq.heappush(self._missing, (first + 1, stop))
        self._missing_count -= 1
        return range(first, first + 1)

    def arrived(self, chunk: int) -> None:
        """A chunk of a stretch that was taken is there, and its checksum is right."""
        if self._arrived[chunk]:
            raise ValueError(f"chunk {chunk} arrived twice")
        self._arrived[chunk] = True
        self._arrived_count += 1

    def give_back(self, chunks: range) -> None:
        """The rest of a stretch will not come by the stream that took it."""
        if chunks:
            heapq.heappush(self._missing, (chunks.start, chunks.stop))
            self._missing_count += len(chunks)

    def place(self, chunks: range) -> tuple[int, int]:
        """Offset and length in bytes of a stretch."""
        offset = chunks.start * self.chunk_bytes
        return offset, min(self.size_bytes, chunks.stop * self.chunk_bytes) - offset

    def check_invariants(self) -> None:
        """For tests: what is missing is counted right, in order, and has not arrived."""
        assert sum(stop - first for first, stop in self._missing) == self._missing_count
        seen: set[int] = set()
        for first, stop in self._missing:
            assert 0 <= first < stop <= self.chunk_count
            assert not any(self._arrived[first:stop])
            assert seen.isdisjoint(range(first, stop))
            seen.update(range(first, stop))
        assert sum(self._arrived) == self._arrived_count
