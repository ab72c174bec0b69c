"""Watches: every change of a table from a sequence on, none lost, none repeated.

This file owns the ring of newest changes, the cursor of each watcher and the rules of resuming. A
watcher has no queue: it has a cursor into its shards' history, reads the ring when it keeps up and
the disk when it does not, and is told to start again when history was trimmed past it. So a slow
reader costs nothing but its own cursor, and memory is bounded by the ring. It knows no RPC.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rostral_gcs.backends.base import Change, Row
from rostral_gcs.config import GcsConfig
from rostral_gcs.errors import (
    GcsOverloadedError,
    InvalidArgumentError,
    OutOfRangeError,
    ResyncRequiredError,
)
from rostral_gcs.shard import Shard
from rostral_gcs.tables.registry import TableSpec

__all__ = ["Ring", "WatchHub", "WatchPage"]

_PAGE_COUNT: Final = 1000


class Ring:
    """The newest watchable changes of one shard, in memory.

    Invariant: holds every watchable change with sequence > ``start_sequence``, in order.

    Args:
        start_sequence: The shard's last sequence when the server started.
        count_max: Most changes kept.
        size_max: Most bytes of values kept.
    """

    def __init__(self, *, start_sequence: int, count_max: int, size_max: int) -> None:
        self.start_sequence = start_sequence
        self.last_sequence = start_sequence
        self._count_max = count_max
        self._size_max = size_max
        self._size = 0
        self._changes: list[Change] = []

    def append(self, last_sequence: int, changes: Sequence[Change]) -> None:
        """Adds a commit's changes and drops the oldest over the bounds."""
        self._changes.extend(changes)
        self._size += sum(_size_of(change) for change in changes)
        self.last_sequence = last_sequence
        # Dropping from the front of a list is linear, so let it grow to twice the bound first.
        if len(self._changes) > 2 * self._count_max or self._size > 2 * self._size_max:
            self._drop_oldest()

    def restart(self, sequence: int) -> None:
        """Forgets all changes: those up to the sequence are to be read from the shard."""
        self._changes.clear()
        self._size = 0
        self.start_sequence = self.last_sequence = sequence

    def after(self, sequence: int, limit: int, size_max: int) -> list[Change] | None:
        """Up to ``limit`` changes after the sequence; None when the ring no longer reaches back."""
        if sequence < self.start_sequence:
            return None
        at = self._position_after(sequence)
        page: list[Change] = []
        size = 0
        for change in self._changes[at : at + limit]:
            page.append(change)
            size += _size_of(change)
            if size > size_max:
                break
        return page

    def _drop_oldest(self) -> None:
        drop = max(0, len(self._changes) - self._count_max)
        size = self._size - sum(_size_of(change) for change in self._changes[:drop])
        while drop < len(self._changes) and size > self._size_max:
            size -= _size_of(self._changes[drop])
            drop += 1
        if drop:
            self.start_sequence = self._changes[drop - 1].sequence
            del self._changes[:drop]
        self._size = size

    def _position_after(self, sequence: int) -> int:
        low, high = 0, len(self._changes)
        while low < high:
            middle = (low + high) // 2
            if self._changes[middle].sequence <= sequence:
                low = middle + 1
            else:
                high = middle
        return low


def _size_of(change: Change) -> int:
    return len(change.key) + len(change.value or b"")


@dataclass(frozen=True, slots=True)
class WatchPage:
    """What a watcher gets at once.

    Attributes:
        rows: Rows of the snapshot, with their shard.
        changes: Changes after the snapshot, with their shard.
        cursors: Where to resume after this page, by shard; empty within a snapshot, which cannot
            be resumed.
        synced: This page ends the snapshot.
    """

    rows: list[tuple[int, Row]]
    changes: list[tuple[int, Change]]
    cursors: dict[int, int]
    synced: bool = False


class WatchHub:
    """The watches of all shards. Lives on one event loop.

    Args:
        shards: All shards, started.
        config: Bounds.
        belongs: Whether a row that lies in a shard is that shard's, and not to be dropped.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        config: GcsConfig,
        belongs: Callable[[int, TableSpec, bytes], bool],
    ) -> None:
        self._shards = list(shards)
        self._config = config
        self._rings = [
            Ring(
                start_sequence=shard.last_sequence,
                count_max=config.ring_count_max,
                size_max=config.ring_size_max,
            )
            for shard in shards
        ]
        self._wakers: dict[int, set[asyncio.Event]] = {}
        self._watcher_count = 0
        self._growths = 0
        self._belongs = belongs

    @property
    def watcher_count(self) -> int:
        """Watches open now."""
        return self._watcher_count

    def handle_commit(self, shard: int, last_sequence: int, changes: Sequence[Change]) -> None:
        """Keeps a commit's changes and wakes the watchers of the tables that it touched."""
        self._rings[shard].append(last_sequence, changes)
        for table in {change.table for change in changes}:
            for waker in self._wakers.get(table, ()):
                waker.set()

    def handle_growth(self, added: Sequence[Shard]) -> None:
        """Takes shards in. Every watch ends: its position says nothing of the new ones."""
        self._shards = [*self._shards, *added]
        self._rings += [
            Ring(
                start_sequence=shard.last_sequence,
                count_max=self._config.ring_count_max,
                size_max=self._config.ring_size_max,
            )
            for shard in added
        ]
        self._growths += 1
        for wakers in self._wakers.values():
            for waker in wakers:
                waker.set()

    def _check_not_grown(self, growths: int) -> None:
        if growths != self._growths:
            raise ResyncRequiredError(
                f"shards were added; there are {len(self._shards)} now",
                hint="watch again from a snapshot",
            )

    def handle_restart(self, shard: int, sequence: int) -> None:
        """The shard's history below the sequence is not what it was: all its watchers look anew."""
        self._rings[shard].restart(sequence)
        for wakers in self._wakers.values():
            for waker in wakers:
                waker.set()

    async def watch(
        self, spec: TableSpec, *, prefix: bytes, cursors: Mapping[int, int] | None
    ) -> AsyncGenerator[WatchPage, None]:
        """Yields a snapshot, unless cursors are given, and then changes for ever.

        Args:
            spec: The table.
            prefix: Only keys with it.
            cursors: Where an earlier watch ended, by shard.

        Raises:
            InvalidArgumentError: The table is not watchable, or a cursor is missing.
            OutOfRangeError: A cursor is in the future.
            ResyncRequiredError: A cursor was trimmed, at the start or because the reader was slow.
            GcsOverloadedError: Too many watches are open.
        """
        if not spec.watchable:
            raise InvalidArgumentError(
                f"table {spec.name} cannot be watched", hint="read it by key; its rows never change"
            )
        if self._watcher_count >= self._config.watchers_max:
            raise GcsOverloadedError(
                f"{self._watcher_count} watches are open, the limit", hint="close some"
            )
        if cursors is not None:
            await self._check_cursors(cursors)
        growths = self._growths
        waker = asyncio.Event()
        self._wakers.setdefault(spec.number, set()).add(waker)
        self._watcher_count += 1
        try:
            if cursors is None:
                position = {
                    shard.index: self._rings[shard.index].last_sequence for shard in self._shards
                }
                async with contextlib.aclosing(self._snapshot(spec, prefix, position)) as pages:
                    async for page in pages:
                        self._check_not_grown(growths)
                        yield page
                self._check_not_grown(growths)
                yield WatchPage([], [], dict(position), synced=True)
            else:
                position = dict(cursors)
            while True:
                # Cleared before reading: a change that comes while we read sets it again.
                waker.clear()
                self._check_not_grown(growths)
                async with contextlib.aclosing(self._changes(spec, prefix, position)) as pages:
                    async for page in pages:
                        yield page
                await waker.wait()
        finally:
            self._wakers[spec.number].discard(waker)
            self._watcher_count -= 1

    async def _check_cursors(self, cursors: Mapping[int, int]) -> None:
        if (
            cursors
            and set(cursors) == set(range(len(cursors)))
            and len(cursors) < len(self._shards)
        ):
            raise ResyncRequiredError(
                f"the position is from when there were {len(cursors)} shards; there are "
                f"{len(self._shards)} now",
                hint="watch again from a snapshot",
            )
        if set(cursors) != {shard.index for shard in self._shards}:
            raise InvalidArgumentError(
                f"cursors are for shards {sorted(cursors)[:20]}, the store has {len(self._shards)}",
                hint="resume with the position that the watch gave, unchanged",
            )
        for shard in self._shards:
            ring = self._rings[shard.index]
            if cursors[shard.index] > ring.last_sequence:
                # Another service of the same store may have told of what we have not heard yet.
                await shard.refresh()
            last_sequence = ring.last_sequence
            if cursors[shard.index] > last_sequence:
                raise OutOfRangeError(
                    f"sequence {cursors[shard.index]} of shard {shard.index} is in the future; the "
                    f"newest is {last_sequence}",
                    hint="the position is of another or a newer store; watch from a snapshot",
                    last_sequence=last_sequence,
                )
            self._check_not_trimmed(shard, cursors[shard.index])

    def _check_not_trimmed(self, shard: Shard, sequence: int) -> None:
        if sequence < shard.trimmed_sequence:
            raise ResyncRequiredError(
                f"history of shard {shard.index} after sequence {sequence} has been trimmed; it "
                f"begins after {shard.trimmed_sequence}",
                hint="watch again from a snapshot",
                first_available=shard.trimmed_sequence,
            )
        for start, end in shard.gaps:
            if start < sequence < end:
                raise ResyncRequiredError(
                    f"sequence {sequence} of shard {shard.index} was lost in a failover, which "
                    f"left {start}",
                    hint="watch again from a snapshot",
                    first_available=end,
                )

    async def _snapshot(
        self, spec: TableSpec, prefix: bytes, position: Mapping[int, int]
    ) -> AsyncGenerator[WatchPage, None]:
        """Pages of the rows as old as ``position``; newer ones come as changes after it.

        Pages are read one after the other while writes go on. A row that changes before its page is
        read has a version above the position: it is left out here and comes as a change.
        """
        for shard in self._shards:
            after_key = b""
            more = True
            while more:
                rows, more = await shard.scan(
                    spec, prefix=prefix, after_key=after_key, limit=_PAGE_COUNT
                )
                if rows:
                    after_key = rows[-1].key
                    old = [
                        row
                        for row in rows
                        if row.version <= position[shard.index]
                        and self._belongs(shard.index, spec, row.key)
                    ]
                    yield WatchPage([(shard.index, row) for row in old], [], {})

    async def _changes(
        self, spec: TableSpec, prefix: bytes, position: dict[int, int]
    ) -> AsyncGenerator[WatchPage, None]:
        """Pages of changes up to now; moves ``position`` with them."""
        for shard in self._shards:
            ring = self._rings[shard.index]
            while position[shard.index] < ring.last_sequence:
                sequence = position[shard.index]
                changes = ring.after(sequence, _PAGE_COUNT, self._config.page_size_max)
                if changes is None:
                    self._check_not_trimmed(shard, sequence)
                    changes, complete = await shard.history(sequence, _PAGE_COUNT)
                    # Trimmed while we read: the page may have a hole in front.
                    self._check_not_trimmed(shard, sequence)
                else:
                    complete = changes[-1].sequence if changes else ring.last_sequence
                # History on disk may be ahead of what was published; the next turn takes the rest.
                position[shard.index] = complete
                wanted = [
                    (shard.index, change)
                    for change in changes
                    if change.table == spec.number and change.key.startswith(prefix)
                ]
                if wanted:
                    yield WatchPage([], wanted, dict(position))
