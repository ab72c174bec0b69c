"""Room within one stretch of memory: which bytes of it are free.

For memory that the processor cannot reach, where nothing can be noted beside the blocks. Pure: it
knows offsets and lengths, and neither the memory nor who has it.
"""

from __future__ import annotations

from bisect import bisect_left, insort


class Extents:
    """Hands out parts of `size_bytes`, the smallest free one that is large enough first.

    Invariant: free extents do not touch each other; all offsets and lengths are multiples of the
    alignment.
    Invariant: free and taken bytes together are `size_bytes`.

    Args:
        size_bytes: of the whole; rounded down to the alignment.
        alignment_bytes: of every part.
    """

    def __init__(self, size_bytes: int, alignment_bytes: int) -> None:
        self.alignment_bytes = alignment_bytes
        self.size_bytes = size_bytes // alignment_bytes * alignment_bytes
        self.free_bytes = 0
        self._taken: dict[int, int] = {}
        # The same free extents three times: (length, offset) in order, and by either end.
        self._by_length: list[tuple[int, int]] = []
        self._by_start: dict[int, int] = {}
        self._by_end: dict[int, int] = {}
        if self.size_bytes:
            self._add(0, self.size_bytes)

    def rounded(self, size_bytes: int) -> int:
        """What a part of that size takes."""
        units = -(-max(size_bytes, 1) // self.alignment_bytes)
        return units * self.alignment_bytes

    @property
    def longest_bytes(self) -> int:
        """The largest part that can be had."""
        return self._by_length[-1][0] if self._by_length else 0

    def take(self, size_bytes: int) -> int | None:
        """The offset of a part of at least that size; None: there is no such room in one piece."""
        wanted = self.rounded(size_bytes)
        index = bisect_left(self._by_length, (wanted, -1))
        if index == len(self._by_length):
            return None
        length, offset = self._by_length[index]
        self._remove(offset, length)
        if length > wanted:
            self._add(offset + wanted, length - wanted)
        self._taken[offset] = wanted
        return offset

    def give_back(self, offset: int) -> None:
        """Frees what `take` gave. Raises KeyError for anything else."""
        length = self._taken.pop(offset)
        after = self._by_start.get(offset + length)
        if after is not None:
            self._remove(offset + length, after)
            length += after
        before = self._by_end.get(offset)
        if before is not None:
            self._remove(offset - before, before)
            offset, length = offset - before, length + before
        self._add(offset, length)

    def _add(self, offset: int, length: int) -> None:
        insort(self._by_length, (length, offset))
        self._by_start[offset] = self._by_end[offset + length] = length
        self.free_bytes += length

    def _remove(self, offset: int, length: int) -> None:
        del self._by_length[bisect_left(self._by_length, (length, offset))]
        del self._by_start[offset], self._by_end[offset + length]
        self.free_bytes -= length

    def check_invariants(self) -> None:
        """Raises AssertionError when an invariant of the class does not hold."""
        parts = sorted([*self._taken.items(), *self._by_start.items()])
        end, was_free = 0, False
        for offset, length in parts:
            assert offset == end, parts
            assert length > 0, parts
            assert length % self.alignment_bytes == 0, parts
            is_free = offset in self._by_start
            assert not (is_free and was_free), parts
            end, was_free = offset + length, is_free
        assert end == self.size_bytes, parts
        assert self.free_bytes == sum(self._by_start.values())
        assert sorted(self._by_length) == self._by_length
        assert {(n, at) for at, n in self._by_start.items()} == set(self._by_length)
