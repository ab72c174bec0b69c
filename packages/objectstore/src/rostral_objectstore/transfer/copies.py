"""The copies of other nodes' objects that a node keeps for the next one who asks.

Pure but for the handles, which hold the objects: dropping one lets the object go, unless somebody
uses it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Hold = TypeVar("Hold")


class Copies(Generic[Hold]):
    """Holds by id, the longest unused first, up to so many bytes.

    Invariant: `size_bytes <= size_bytes_max`.
    """

    def __init__(self, size_bytes_max: int) -> None:
        self.size_bytes = 0
        self._size_bytes_max = size_bytes_max
        self._holds: OrderedDict[bytes, tuple[Hold, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holds)

    def keep(self, id: bytes, hold: Hold, size_bytes: int) -> None:
        """Keeps it as the last used; drops others for it, and itself when it is too large."""
        self.drop(id)
        if size_bytes > self._size_bytes_max:
            return
        self._holds[id] = (hold, size_bytes)
        self.size_bytes += size_bytes
        self.shrink(self._size_bytes_max)

    def drop(self, id: bytes) -> None:
        """Keeps it no longer, if it is kept."""
        kept = self._holds.pop(id, None)
        if kept is not None:
            self.size_bytes -= kept[1]

    def shrink(self, size_bytes_max: int) -> int:
        """Drops the longest unused until so many bytes are left; returns the bytes dropped."""
        before = self.size_bytes
        while self.size_bytes > size_bytes_max:
            _, (_, size_bytes) = self._holds.popitem(last=False)
            self.size_bytes -= size_bytes
        return before - self.size_bytes
