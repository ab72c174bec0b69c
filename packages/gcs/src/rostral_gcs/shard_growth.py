"""Adding shards to a store that one server uses: rows change shards while calls are served.

This file owns the order of the steps. A new shard is filled with copies of the rows that will be
its own, in pages, while these are read and written where they are; what is written meanwhile is
noted. Then writes to the moving slots wait, and nothing else does, while the noted rows are copied
again and the new table of shards is stored; reads go on throughout. Afterwards the old copies are
dropped. A death before the table is stored leaves the store as it was, one after it leaves old
copies, which the next start drops.

Rows keep their versions. Rows of appended tables stay where they were written: they are asked for
in all shards. Watches end with RESYNC_REQUIRED when the table changes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rostral_gcs.backends.base import Row
from rostral_gcs.shard import Shard
from rostral_gcs.shard_core import Op
from rostral_gcs.shard_map import ShardMap, slot_of
from rostral_gcs.tables.registry import TABLES, TableSpec

__all__ = ["Flight", "Growth", "copy_moving_rows", "drop_moved_rows", "pages", "switch"]

_PAGE_COUNT: Final = 1000
_ROUNDS_MAX: Final = 10
_FEW: Final = 100


class Flight:
    """Writes under way, so that their end can be waited for. Used on one event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __enter__(self) -> None:
        self._count += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Returns when none is under way."""
        await self._idle.wait()


@dataclass(slots=True)
class Growth:
    """A growth under way.

    Attributes:
        slots: The slots that move, and to which shard.
        flight: Writes to moving slots that are under way.
        dirty: Rows of moving slots that were written, to be copied again.
        gate: Set while writes to moving slots may pass.
    """

    slots: dict[int, int]
    flight: Flight = field(default_factory=Flight)
    dirty: set[tuple[str, bytes]] = field(default_factory=set)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def touched(self, ops: Sequence[object]) -> list[tuple[str, bytes]]:
        """The rows of moving slots among what is written."""
        return [
            (op.spec.name, op.key)
            for op in ops
            if isinstance(op, Op)
            and not (op.spec.appended or op.spec.pinned)
            and slot_of(op.spec, op.key) in self.slots
        ]


async def copy_moving_rows(shards: Sequence[Shard], growth: Growth) -> int:
    """Copies what the new shards will own; returns how many rows."""
    count = 0
    for source in shards:
        if source.index in set(growth.slots.values()):
            continue
        for spec in TABLES.values():
            if spec.appended or spec.pinned:
                continue
            async for page in pages(source, spec):
                count += await _adopt(shards, growth, spec, page)
    return count


async def switch(
    shards: Sequence[Shard],
    present: ShardMap,
    growth: Growth,
    store_map: Callable[[], Awaitable[None]],
) -> float:
    """Stops writes to the moving slots, copies what changed, stores the map; seconds it took.

    The caller opens the gate again once it uses the new map.
    """
    for _ in range(_ROUNDS_MAX):
        if len(growth.dirty) < _FEW:
            break
        # While writes go on, so that less is left for when they wait.
        await _copy_dirty(shards, present, growth)
    growth.gate.clear()
    began_s = time.monotonic()
    await growth.flight.wait_idle()
    await _copy_dirty(shards, present, growth)
    # No version that a row has may come again.
    highest = max(shard.last_sequence for shard in shards)
    for target in set(growth.slots.values()):
        await shards[target].adopt(TABLES["kv"], [], highest)
    await store_map()
    return time.monotonic() - began_s


async def _copy_dirty(shards: Sequence[Shard], present: ShardMap, growth: Growth) -> None:
    dirty, growth.dirty = growth.dirty, set()
    by_place: dict[tuple[str, int], list[bytes]] = {}
    for name, key in dirty:
        by_place.setdefault((name, present.shard_for(TABLES[name], key)), []).append(key)
    for (name, index), keys in by_place.items():
        spec = TABLES[name]
        found = await shards[index].read(spec, keys)
        await _adopt(shards, growth, spec, list(found.values()))
        gone: dict[int, list[bytes]] = {}
        for key in keys:
            if key not in found:
                gone.setdefault(growth.slots[slot_of(spec, key)], []).append(key)
        for target, lost in gone.items():
            await shards[target].drop(spec, lost)


async def drop_moved_rows(shards: Sequence[Shard], present: ShardMap) -> None:
    """Drops what lies in a shard that does not own it."""
    for shard in shards:
        for spec in TABLES.values():
            if spec.appended or spec.pinned:
                continue
            async for page in pages(shard, spec):
                foreign = [
                    row.key for row in page if present.shard_for(spec, row.key) != shard.index
                ]
                if foreign:
                    await shard.drop(spec, foreign)


async def _adopt(
    shards: Sequence[Shard], growth: Growth, spec: TableSpec, rows: Sequence[Row]
) -> int:
    by_target: dict[int, list[Row]] = {}
    for row in rows:
        target = growth.slots.get(slot_of(spec, row.key))
        if target is not None:
            by_target.setdefault(target, []).append(row)
    for target, part in by_target.items():
        await shards[target].adopt(spec, part, max(row.version for row in part))
    return sum(map(len, by_target.values()))


async def pages(shard: Shard, spec: TableSpec) -> AsyncGenerator[list[Row], None]:
    """All rows of a table in a shard, in pages."""
    after_key = b""
    more = True
    while more:
        rows, more = await shard.scan(spec, prefix=b"", after_key=after_key, limit=_PAGE_COUNT)
        if rows:
            after_key = rows[-1].key
            yield rows
