"""Which shard holds which keys: hash slots, and who owns each. Pure: no I/O.

This file owns routing. A key falls into one of ``SLOT_COUNT`` slots by its hash; the map says which
shard owns the slot. A store that never grew needs no stored map: its slots are dealt out in turn.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import Final

from rostral_gcs.errors import CorruptError
from rostral_gcs.tables.registry import TableSpec

__all__ = ["SHARD_COUNT_MAX", "SLOT_COUNT", "GrowthSummary", "ShardMap", "slot_of"]

SLOT_COUNT: Final = 4096
SHARD_COUNT_MAX: Final = 256


def slot_of(spec: TableSpec, key: bytes) -> int:
    """The slot that a key, or a prefix as long as the table's routes, falls into."""
    route = key[: spec.route_size] if spec.route_size else key
    return zlib.crc32(route, spec.number) % SLOT_COUNT


@dataclass(frozen=True, slots=True)
class GrowthSummary:
    """How shards were added.

    Attributes:
        shard_count: How many there are now.
        moved_rows: Rows that changed shards.
        blocked_s: How long writes to them waited.
    """

    shard_count: int
    moved_rows: int = 0
    blocked_s: float = 0.0


class ShardMap:
    """The owner of each slot. Never changed: a store that grows gets another one.

    Invariant: every shard from 0 to ``shard_count - 1`` owns a slot.

    Args:
        owners: The shard of each slot.
    """

    def __init__(self, owners: list[int]) -> None:
        self._owners = owners
        self.shard_count = max(owners) + 1
        self.has_grown = owners != [slot % self.shard_count for slot in range(SLOT_COUNT)]

    @classmethod
    def uniform(cls, shard_count: int) -> ShardMap:
        """The map of a store that was made with so many shards."""
        return cls([slot % shard_count for slot in range(SLOT_COUNT)])

    @classmethod
    def decode(cls, value: bytes) -> ShardMap:
        """The map that ``encode`` wrote.

        Raises:
            CorruptError: It is none.
        """
        if len(value) != 2 * SLOT_COUNT:
            raise CorruptError(
                f"the stored table of shards has {len(value)} bytes, not {2 * SLOT_COUNT}",
                hint="restore the data directory from a backup",
            )
        owners = array("H")
        owners.frombytes(value)
        if sys.byteorder != "little":
            owners.byteswap()
        return cls(owners.tolist())

    def encode(self) -> bytes:
        """As it is stored: two bytes for each slot."""
        owners = array("H", self._owners)
        if sys.byteorder != "little":
            owners.byteswap()
        return owners.tobytes()

    def owner(self, slot: int) -> int:
        """The shard that owns a slot."""
        return self._owners[slot]

    def shard_for(self, spec: TableSpec, key: bytes) -> int:
        """The shard that holds the key."""
        return 0 if self.shard_count == 1 or spec.pinned else self._owners[slot_of(spec, key)]

    def grown(self, shard_count: int) -> ShardMap:
        """The map with more shards: each new one takes its share, and no slot moves otherwise."""
        owners = list(self._owners)
        counts = Counter(owners)
        share = SLOT_COUNT // shard_count
        fresh = range(self.shard_count, shard_count)
        takers = iter([shard for shard in fresh for _ in range(share)])
        for slot, owner in enumerate(self._owners):
            if counts[owner] > share:
                taker = next(takers, None)
                if taker is None:
                    break
                counts[owner] -= 1
                owners[slot] = taker
        return ShardMap(owners)

    def moved_slots(self, later: ShardMap) -> dict[int, int]:
        """The slots that another map gives to another shard, and to which."""
        return {
            slot: after
            for slot, (before, after) in enumerate(zip(self._owners, later._owners, strict=True))
            if before != after
        }
