"""The shards of a store: which there are, how they are opened, and how there come to be more.

This file owns the table of shards as it holds now, and the growth by which it changes: of a store
on files, which one server uses (``shard_growth.py``), and of one in Redis, which several use
(``shared_growth.py``). What is read and written is ``store.py``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from rostral_gcs.config import GcsConfig
from rostral_gcs.data_dir import DataDir
from rostral_gcs.errors import (
    GcsError,
    InvalidArgumentError,
    ShardsMovedError,
)
from rostral_gcs.ids import NodeID
from rostral_gcs.shard import Publish, Shard
from rostral_gcs.shard_core import Op
from rostral_gcs.shard_growth import (
    Flight,
    Growth,
    copy_moving_rows,
    drop_moved_rows,
    switch,
)
from rostral_gcs.shard_map import SHARD_COUNT_MAX, GrowthSummary, ShardMap
from rostral_gcs.shared_growth import (
    COPIES_KEY,
    MAP_KEY,
    grow,
    layout_of,
    settled_layout,
    stored_map,
    thaw,
)
from rostral_gcs.tables.registry import TableSpec, table_spec
from rostral_gcs.watch import WatchHub

if TYPE_CHECKING:
    from rostral_gcs.backends.redis_storage import RedisStorage

__all__ = ["StoreShards"]

logger = logging.getLogger("rostral.gcs.store")

_T = TypeVar("_T")
_SHARDS = table_spec("shards")
# How long a call waits for another service that adds shards.
_FOLLOW_S: Final = 30.0


class StoreShards(ABC):
    """The shards.

    Args:
        config: Validated.
    """

    def __init__(self, config: GcsConfig) -> None:
        self._config = config
        self._storage: DataDir | RedisStorage | None = None
        self._shards: list[Shard] = []
        self._hub: WatchHub | None = None
        self._map = ShardMap.uniform(config.shard_count)
        self._flight = Flight()
        self._growth: Growth | None = None
        self._growing = asyncio.Lock()
        # The name of the table of shards, of a store that several services use.
        self._layout = ""
        self._followed = 0
        # While old copies of moved rows wait to be dropped, rows are told from copies.
        self._has_copies = False

    @abstractmethod
    async def _load_nodes(self) -> None:
        """Hears of all nodes anew."""

    @abstractmethod
    def _publisher(self, index: int) -> Publish:
        """What a shard tells of its commits."""

    @abstractmethod
    def _restarter(self, index: int) -> Callable[[int], None]:
        """What a shard tells when history is to be read from it again."""

    @property
    def hub(self) -> WatchHub:
        """The watches."""
        assert self._hub is not None
        return self._hub

    @property
    def shard_count(self) -> int:
        """How many shards there are."""
        return self._map.shard_count

    async def _start_shard(self, storage: DataDir | RedisStorage) -> Shard:
        index = len(self._shards)
        shard = Shard(
            index=index,
            backend=storage.backend(index),
            config=self._config,
            publish=self._publisher(index),
            restart=self._restarter(index),
        )
        self._shards.append(shard)
        await shard.start()
        return shard

    async def _load_map(self, storage: DataDir | RedisStorage) -> ShardMap:
        found = await self._shards[0].read(_SHARDS, [MAP_KEY])
        if found:
            return ShardMap.decode(found[MAP_KEY].value)
        made_with = storage.shard_count if isinstance(storage, DataDir) else None
        return ShardMap.uniform(made_with or self._config.shard_count)

    async def _end_interrupted_growth(self, storage: DataDir | RedisStorage) -> None:
        """Undoes, or ends, the growth that a death interrupted."""
        if isinstance(storage, DataDir):
            storage.remove_shards(self._map.shard_count)
        # Shards may be added by another service at this moment, which then sees to that.
        with contextlib.suppress(ShardsMovedError):
            if await self._shards[0].read(_SHARDS, [COPIES_KEY]):
                self._has_copies = True
                await self._drop_copies(storage)

    async def add_shards(self, shard_count: int) -> GrowthSummary:
        """Adds shards until there are so many, while calls are served; see ``shard_growth.py``.

        Raises:
            InvalidArgumentError: There are more already, or it is too many, or the backend cannot.
            StorageError: The disk is full or failed; the store is as it was.
        """
        async with self._growing:
            storage = self._storage
            assert storage is not None
            if self._is_shared:
                await self._follow_shards(storage, _FOLLOW_S)
            present = self._map
            if not present.shard_count <= shard_count <= SHARD_COUNT_MAX:
                raise InvalidArgumentError(
                    f"asked for {shard_count} shards; allowed: {present.shard_count}, as many as "
                    f"there are, to {SHARD_COUNT_MAX}",
                    hint="shards can be added, not taken away",
                )
            if shard_count == present.shard_count:
                return GrowthSummary(shard_count)
            if not isinstance(storage, DataDir):
                return await self._grow_shared(storage, present, present.grown(shard_count))
            return await self._grow(storage, present, present.grown(shard_count))

    async def _grow(self, storage: DataDir, present: ShardMap, later: ShardMap) -> GrowthSummary:
        growth = Growth(present.moved_slots(later))
        growth.gate.set()
        earlier, self._flight = self._flight, Flight()
        self._growth = growth
        try:
            for _ in range(present.shard_count, later.shard_count):
                await self._start_shard(storage)
            # What began before is not noted as dirty, so it must be done before rows are copied.
            await earlier.wait_idle()
            moved = await copy_moving_rows(self._shards, growth)
            blocked_s = await switch(self._shards, present, growth, lambda: self._store_map(later))
            # One step for the event loop: whoever looks sees both or neither.
            self._map = later
            self._has_copies = True
            self.hub.handle_growth(self._shards[present.shard_count :])
        except BaseException:
            for shard in self._shards[present.shard_count :]:
                await shard.close()
            storage.remove_shards(present.shard_count)
            del self._shards[present.shard_count :]
            raise
        finally:
            self._growth = None
            growth.gate.set()
        await self._drop_copies(storage)
        logger.info("shards=%d moved rows=%d", later.shard_count, moved)
        return GrowthSummary(later.shard_count, moved, blocked_s)

    async def _store_map(self, later: ShardMap) -> None:
        results = await self._shards[0].write(
            NodeID.from_random().binary(),
            [Op(_SHARDS, MAP_KEY, later.encode(), None), Op(_SHARDS, COPIES_KEY, b"1", None)],
        )
        for result in results:
            if isinstance(result, GcsError):
                raise result

    async def _drop_copies(self, storage: DataDir | RedisStorage) -> None:
        await drop_moved_rows(self._shards, self._map)
        if isinstance(storage, DataDir):
            await asyncio.to_thread(storage.write_shard_count, self._map.shard_count)
        op = Op(_SHARDS, COPIES_KEY, None, None)
        await self._shards[0].write(NodeID.from_random().binary(), [op])
        # Where others add shards as well, there may be copies at any time.
        self._has_copies = self._is_shared

    # --- Shards of a store that several services use ---------------------------------------------

    async def _open_shared(self, storage: DataDir | RedisStorage) -> None:
        """Opens the shards that there are, also while another service adds to them."""
        try:
            await self._follow_shards(storage, 0.0)
        except ShardsMovedError:
            await self._take_map(storage, await stored_map(self._shards[0]))

    async def _grow_shared(
        self, storage: RedisStorage, present: ShardMap, later: ShardMap
    ) -> GrowthSummary:
        storage.check_room(later.shard_count)

        async def start_shard() -> Shard:
            return await self._start_shard(storage)

        try:
            moved, blocked_s = await grow(self._shards, present, later, self._layout, start_shard)
        except BaseException:
            for shard in self._shards[present.shard_count :]:
                await shard.close()
            del self._shards[present.shard_count :]
            raise
        await self._follow_shards(storage, _FOLLOW_S)
        with contextlib.suppress(ShardsMovedError):
            await self._drop_copies(storage)
        logger.info("shards=%d moved rows=%d", later.shard_count, moved)
        return GrowthSummary(later.shard_count, moved, blocked_s)

    async def _follow_shards(self, storage: DataDir | RedisStorage, wait_s: float) -> None:
        """Takes in the table of shards that holds now. The caller has ``_growing``.

        Raises:
            ShardsMovedError: Another service still adds shards after that time.
        """
        while True:
            layout = await settled_layout(self._shards[0], wait_s)
            present = await stored_map(self._shards[0])
            if layout_of(present) == layout:
                break
        await self._take_map(storage, present)
        await thaw(self._shards[: self._map.shard_count], layout)
        self._followed += 1

    async def _take_map(self, storage: DataDir | RedisStorage, stored: ShardMap | None) -> None:
        present = stored or ShardMap.uniform(storage.shard_count)
        before = self._map.shard_count if self._hub is not None else present.shard_count
        opened = len(self._shards)
        try:
            while len(self._shards) < present.shard_count:
                await self._start_shard(storage)
        except BaseException:
            for shard in self._shards[opened:]:
                await shard.close()
            del self._shards[opened:]
            raise
        added = self._shards[before : present.shard_count]
        for shard in added:
            await shard.refresh()
        # One step for the event loop: whoever looks sees all of it or nothing.
        for shard in self._shards:
            shard.expect(layout_of(stored))
        self._map, self._layout = present, layout_of(stored)
        self._has_copies = present.has_grown
        if added:
            self.hub.handle_growth(added)
            # What was written to nodes meanwhile was told by shards that were not heard yet.
            await self._load_nodes()

    async def hear_of_shards(self, *, wait_s: float = _FOLLOW_S) -> None:
        """Looks where the rows are now, after ShardsMovedError or on the suspicion.

        Raises:
            ShardsMovedError: Another service still adds shards after that time.
        """
        if not self._is_shared:
            return
        followed = self._followed
        async with self._growing:
            assert self._storage is not None
            # Whoever waits here beside others finds it done.
            if self._followed == followed:
                await self._follow_shards(self._storage, wait_s)

    def _belongs(self, index: int, spec: TableSpec, key: bytes) -> bool:
        return (
            not self._has_copies
            or spec.appended
            or spec.name == _SHARDS.name
            or self._map.shard_for(spec, key) == index
        )

    async def _of_one_map(self, read: Callable[[], Awaitable[_T]]) -> _T:
        """Reads again when shards were added meanwhile: what was looked for may have moved."""
        while True:
            present = self._map
            try:
                result = await read()
            except ShardsMovedError:
                await self.hear_of_shards()
                continue
            if self._map is present:
                return result

    @property
    def _has_moved(self) -> bool:
        """Whether another service adds shards, or has, as far as was heard."""
        return self._is_shared and any(shard.layout != self._layout for shard in self._shards)

    @property
    def _is_shared(self) -> bool:
        return self._shards[0].shares_leases
