"""Adding shards to a store that several services use at once: the order of the steps.

This file owns what happens to all shards together; what one step does to one shard is its backend's
(``base.Mover``). Writes wait while rows are copied, since other services write too, and know only
what lies in the store. Reads go on. The steps, and what a death after each leaves:

1. The first shard gets the layout of this growth, which is a claim as well; then the other shards.
   Nobody's writes pass from then on. A claim is renewed; when it has run out, whoever waits gives
   the first shard its earlier layout back, so that nothing of this growth can be stored any more.
2. The new shards are opened, emptied of what an earlier growth left, and filled: rows that nobody
   knows of. Growths have numbers, so that one that was given up and does not know it touches no
   shard that a later one has.
3. The new table of shards is stored in the first shard, together with its new layout. This is the
   moment from which it holds; whoever finds it goes on with step 4.
4. The other shards get the new layout, the old ones first: so nobody writes to a new shard while
   another service may still read the row where it was.
5. Old copies are dropped. They are told from rows by the table of shards.

The first shard tells what holds. Another shard whose layout differs from its, and was looked at
before it, is left over from a death in step 1 or 4, and is given that layout.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from rostral_gcs.backends.base import Mover, Row
from rostral_gcs.errors import NotReplicatedError, ShardsMovedError
from rostral_gcs.shard import Shard
from rostral_gcs.shard_growth import pages
from rostral_gcs.shard_map import ShardMap, slot_of
from rostral_gcs.tables.registry import TABLES, table_spec

__all__ = ["COPIES_KEY", "MAP_KEY", "grow", "layout_of", "settled_layout", "stored_map", "thaw"]

logger = logging.getLogger("rostral.gcs.growth")

MAP_KEY: Final = b"owners"
"""The key of the table of shards, in the table ``shards``."""
COPIES_KEY: Final = b"copies"
"""There while a shard may still hold copies of rows that have moved."""

# For how long whoever grows may be silent: far longer than copying one page takes.
CLAIM_S: Final = 10.0
_REPLICAS_S: Final = 10.0
_PAUSE_S: Final = 0.02
_SHARDS: Final = table_spec("shards")
_MOVING: Final = [spec for spec in TABLES.values() if not (spec.appended or spec.pinned)]


def layout_of(stored: ShardMap | None) -> str:
    """The name of a stored table of shards; empty: none is, so the store never grew."""
    return "" if stored is None else hashlib.sha256(stored.encode()).hexdigest()[:16]


async def stored_map(first: Shard) -> ShardMap | None:
    """The table of shards in the first shard, whatever its layout."""
    found = await first.move(lambda mover: mover.read(_SHARDS.number, [MAP_KEY]))
    return ShardMap.decode(found[MAP_KEY].value) if found else None


async def settled_layout(first: Shard, wait_s: float) -> str:
    """The layout that holds, once nobody adds shards; the growth of somebody gone is given up.

    Raises:
        ShardsMovedError: Somebody still does after that time.
    """
    until_s = time.monotonic() + wait_s
    while True:
        layout = await first.move(lambda mover: mover.layout())
        if not layout.startswith("+"):
            return layout
        if await _give_up(first, layout):
            logger.warning("growth=%s was given up: whoever began it is gone", layout)
        elif time.monotonic() >= until_s:
            raise ShardsMovedError(
                "another service is adding shards", hint="nothing is lost by waiting"
            )
        else:
            await asyncio.sleep(_PAUSE_S)


async def _give_up(first: Shard, layout: str) -> bool:
    before = layout_of(await stored_map(first))
    return await first.move(lambda mover: mover.give_up(layout, before))


async def thaw(shards: Sequence[Shard], layout: str) -> None:
    """Gives the layout of the first shard to all others, in their order.

    Raises:
        ShardsMovedError: The first shard has another one by now.
    """
    for shard in shards[1:]:
        # Its layout before that of the first shard: so a growth that begins now is not undone.
        while (seen := await shard.move(lambda mover: mover.layout())) != layout:
            if await shards[0].move(lambda mover: mover.layout()) != layout:
                raise ShardsMovedError("shards are being added", hint="look again")
            await shard.move(_setting(seen, layout))


async def grow(
    shards: list[Shard],
    present: ShardMap,
    later: ShardMap,
    before: str,
    start_shard: Callable[[], Awaitable[Shard]],
) -> tuple[int, float]:
    """Adds shards; returns how many rows moved, and for how many seconds writes waited.

    Args:
        shards: Those that there are; ``start_shard`` adds to them. They are of layout ``before``.
        present: The table of shards that holds.
        later: The one that is to hold.
        before: The layout of all shards.
        start_shard: Opens the next one.

    Raises:
        ShardsMovedError: Another service adds shards, or has, or took over.
        NotReplicatedError: The new shards have no replicas.
        StorageError: It failed. What then holds is what ``settled_layout`` says.
    """
    name, after = secrets.token_hex(8), layout_of(later)
    first, old = shards[0], shards[: present.shard_count]
    logger.debug("growth=%s step=claim", name)
    layout = await first.move(lambda mover: mover.claim(before, name, CLAIM_S))
    _check(bool(layout))
    began_s = time.monotonic()
    try:
        for shard in old[1:]:
            logger.debug("growth=%s step=freeze", layout)
            _check(await shard.move(_setting(before, layout)))
        while len(shards) < later.shard_count:
            logger.debug("growth=%s step=open", layout)
            fresh = await start_shard()
            _check(await fresh.move(lambda mover: mover.take(layout)))
            _check(await fresh.move(_emptying(layout)))
            await _renew(first, layout)
        logger.debug("growth=%s step=copy", layout)
        moved = await _copy(shards, old, present.moved_slots(later), layout)
        await _finish_copies(shards, old, layout)
        logger.debug("growth=%s step=store", layout)
        _check(await first.move(_storing(layout, later)))
    except BaseException:
        # Until the table is stored, it is as if nothing had been begun.
        if await first.move(_setting(layout, before)):
            await thaw(old, before)
        raise
    logger.debug("growth=%s step=thaw", layout)
    await thaw(shards, after)
    logger.debug("growth=%s step=drop", layout)
    return moved, time.monotonic() - began_s


async def _copy(
    shards: Sequence[Shard], old: Sequence[Shard], slots: dict[int, int], layout: str
) -> int:
    count = 0
    for source in old:
        for spec in _MOVING:
            async for page in pages(source, spec):
                by_target: dict[int, list[Row]] = {}
                for row in page:
                    target = slots.get(slot_of(spec, row.key))
                    if target is not None:
                        by_target.setdefault(target, []).append(row)
                for target, rows in by_target.items():
                    highest = max(row.version for row in rows)
                    step = _adopting(layout, spec.number, rows, highest)
                    _check(await shards[target].move(step))
                    count += len(rows)
                await _renew(shards[0], layout)
    return count


async def _finish_copies(shards: Sequence[Shard], old: Sequence[Shard], layout: str) -> None:
    """Has new sequences begin above all others, and the copies be as safe as the rows are."""
    for shard in old:
        await shard.refresh()
    highest = max(shard.last_sequence for shard in old)
    replicas = await shards[0].move(lambda mover: mover.replicas())
    until_s = time.monotonic() + _REPLICAS_S
    for shard in shards[len(old) :]:
        while await shard.move(lambda mover: mover.replicas()) < replicas:
            if time.monotonic() >= until_s:
                raise NotReplicatedError(
                    f"shard {shard.index} has not the {replicas} replicas that the others have",
                    hint="start the replicas, then add the shards again",
                )
            await asyncio.sleep(_PAUSE_S)
            await _renew(shards[0], layout)
        # It waits for the replicas, and they get what came before in order.
        _check(await shard.move(_adopting(layout, _SHARDS.number, [], highest)))


async def _renew(first: Shard, layout: str) -> None:
    _check(await first.move(lambda mover: mover.renew(layout, CLAIM_S)))


def _check(done: bool) -> None:  # noqa: FBT001
    if not done:
        raise ShardsMovedError(
            "another service adds shards, or took this growth for dead",
            hint="look how many shards there are, then ask again",
        )


def _setting(before: str, after: str) -> Callable[[Mover], bool]:
    return lambda mover: mover.set_layout(before, after)


def _emptying(layout: str) -> Callable[[Mover], bool]:
    return lambda mover: all(mover.empty(layout, spec.number) for spec in _MOVING)


def _adopting(
    layout: str, table: int, rows: Sequence[Row], last_sequence: int
) -> Callable[[Mover], bool]:
    return lambda mover: mover.adopt(layout, table, rows, last_sequence)


def _storing(layout: str, later: ShardMap) -> Callable[[Mover], bool]:
    rows = [Row(MAP_KEY, later.encode(), 1), Row(COPIES_KEY, b"1", 1)]
    return lambda mover: mover.store_map(
        layout, layout_of(later), later.shard_count, _SHARDS.number, rows
    )
