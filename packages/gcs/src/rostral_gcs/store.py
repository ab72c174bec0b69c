"""The store behind the service: all shards of one data directory, routed by key.

This file owns opening and closing the shards together, splitting requests by shard, merging their
answers, and the upkeep of node liveness. It speaks requests' messages but no RPC, and it is the one
place where shards, watches and liveness meet.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from rostral_gcs.archive.files import archive_form
from rostral_gcs.archive.schema import RECORD_MEMORY, Filter, check_filters, schema_of
from rostral_gcs.backends.base import Change, Columns, Row
from rostral_gcs.columns import split_columns
from rostral_gcs.config import GcsConfig
from rostral_gcs.data_dir import DataDir
from rostral_gcs.errors import (
    FencedError,
    GcsError,
    InvalidArgumentError,
    NotFoundError,
    TooLargeError,
)
from rostral_gcs.ids import NodeID
from rostral_gcs.liveness import NodeLiveness, with_resources
from rostral_gcs.shard import Publish, Shard
from rostral_gcs.shard_core import Op, OpResult
from rostral_gcs.shard_growth import (
    Flight,
    Growth,
    copy_moving_rows,
    drop_moved_rows,
    switch,
)
from rostral_gcs.shard_map import SHARD_COUNT_MAX, GrowthSummary, ShardMap
from rostral_gcs.tables.node_report import NodeReport
from rostral_gcs.tables.nodes import NODES, NodeRow
from rostral_gcs.tables.registry import TableSpec, table_spec
from rostral_gcs.watch import WatchHub

if TYPE_CHECKING:
    from rostral_gcs.backends.redis_storage import RedisStorage

__all__ = ["Store"]

logger = logging.getLogger("rostral.gcs.store")

_T = TypeVar("_T")
_NODES = table_spec("nodes")
_SHARDS = table_spec("shards")
_MAP_KEY: Final = b"owners"
# There while a shard may still hold copies of rows that have moved.
_COPIES_KEY: Final = b"copies"


class Store:
    """All shards. Opened, used and closed on one event loop.

    Args:
        config: Validated.
    """

    def __init__(self, config: GcsConfig) -> None:
        self._config = config
        self._storage: DataDir | RedisStorage | None = None
        self._shards: list[Shard] = []
        self._hub: WatchHub | None = None
        # Of nodes that renewed here, and other services have not been told.
        self._renewed_s: dict[bytes, float] = {}
        self._map = ShardMap.uniform(config.shard_count)
        self._flight = Flight()
        self._growth: Growth | None = None
        self._growing = asyncio.Lock()
        # While old copies of moved rows wait to be dropped, rows are told from copies.
        self._has_copies = False
        self._liveness = NodeLiveness(
            lease_s_min=config.node_lease_s_min,
            lease_s_max=config.node_lease_s_max,
            pause_s_min=config.pause_s_min,
        )

    @property
    def cluster_id(self) -> bytes:
        """16 random bytes made with the store."""
        assert self._storage is not None
        return self._storage.cluster_id

    @property
    def shards(self) -> Sequence[Shard]:
        """All shards, by index."""
        return self._shards

    @property
    def hub(self) -> WatchHub:
        """The watches."""
        assert self._hub is not None
        return self._hub

    async def open(self) -> None:
        """Opens the storage and all shards; on failure nothing is left open.

        Raises:
            DataDirLockedError: Another server has the directory open.
            ConfigError: It was made with another shard count.
            StorageError: It cannot be used.
        """
        config = self._config
        storage = _open_storage(config)
        self._storage = storage
        try:
            await self._start_shard(storage)
            self._map = await self._load_map(storage)
            while len(self._shards) < self._map.shard_count:
                await self._start_shard(storage)
            await self._end_interrupted_growth(storage)
            self._hub = WatchHub(self._shards, config, self._belongs)
            await self._load_nodes()
        except BaseException:
            await self.close()
            raise

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
        found = await self._shards[0].read(_SHARDS, [_MAP_KEY])
        if found:
            return ShardMap.decode(found[_MAP_KEY].value)
        made_with = storage.shard_count if isinstance(storage, DataDir) else None
        return ShardMap.uniform(made_with or self._config.shard_count)

    async def _end_interrupted_growth(self, storage: DataDir | RedisStorage) -> None:
        """Undoes, or ends, the growth that a death interrupted."""
        if not isinstance(storage, DataDir):
            return
        storage.remove_shards(self._map.shard_count)
        if await self._shards[0].read(_SHARDS, [_COPIES_KEY]):
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
                raise InvalidArgumentError(
                    "shards cannot be added to a store in Redis", hint="make a new store with more"
                )
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
            [Op(_SHARDS, _MAP_KEY, later.encode(), None), Op(_SHARDS, _COPIES_KEY, b"1", None)],
        )
        for result in results:
            if isinstance(result, GcsError):
                raise result

    async def _drop_copies(self, storage: DataDir) -> None:
        await drop_moved_rows(self._shards, self._map)
        await asyncio.to_thread(storage.write_shard_count, self._map.shard_count)
        op = Op(_SHARDS, _COPIES_KEY, None, None)
        await self._shards[0].write(NodeID.from_random().binary(), [op])
        self._has_copies = False

    def _belongs(self, index: int, spec: TableSpec, key: bytes) -> bool:
        return (
            not self._has_copies
            or spec.appended
            or spec.name == _SHARDS.name
            or self._map.shard_for(spec, key) == index
        )

    async def close(self) -> None:
        """Commits what is queued, closes the shards and gives the storage back."""
        for shard in self._shards:
            await shard.close()
        self._shards.clear()
        if self._storage is not None:
            self._storage.close()

    async def write(
        self, request_id: bytes, ops: Sequence[Op | GcsError], writer: tuple[NodeID, int] | None
    ) -> list[OpResult]:
        """Applies each op on its own; the results are in the order of the ops.

        Args:
            request_id: The same one again gets the same answer.
            ops: Ops, or why they were refused already.
            writer: The node on whose behalf, and its epoch.

        Raises:
            FencedError: The writer is fenced; nothing was applied.
            NotFoundError: The writer's node is unknown; nothing was applied.
        """
        growth = self._growth
        touched: list[tuple[str, bytes]] = []
        while growth is not None and (touched := growth.touched(ops)):
            if growth.gate.is_set():
                break
            await growth.gate.wait()
            growth = self._growth
        if growth is None or not touched:
            with self._flight:
                return await self._write(request_id, ops, writer)
        with growth.flight:
            try:
                return await self._write(request_id, ops, writer)
            finally:
                growth.dirty.update(touched)

    async def _write(
        self, request_id: bytes, ops: Sequence[Op | GcsError], writer: tuple[NodeID, int] | None
    ) -> list[OpResult]:
        await self._check_writer(writer)
        results: list[OpResult] = [op if isinstance(op, GcsError) else 0 for op in ops]
        by_shard: dict[int, list[int]] = {}
        for at, op in enumerate(ops):
            if not isinstance(op, GcsError):
                index = self._map.shard_for(op.spec, op.key)
                by_shard.setdefault(index, []).append(at)

        async def write_part(index: int, places: list[int]) -> None:
            part = [op for op in (ops[at] for at in places) if not isinstance(op, GcsError)]
            done = await self._shards[index].write(request_id, part)
            for at, result in zip(places, done, strict=True):
                results[at] = result

        if len(by_shard) == 1:
            await write_part(*next(iter(by_shard.items())))
        elif by_shard:
            outcomes = await asyncio.gather(
                *(write_part(*item) for item in by_shard.items()), return_exceptions=True
            )
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    # Other shards' parts may be applied: the caller sends the request again, and
                    # those answer from memory.
                    raise outcome
        return results

    async def write_columns(
        self,
        request_id: bytes,
        columns: Columns,
        spec: TableSpec,
        writer: tuple[NodeID, int] | None,
    ) -> None:
        """Appends the rows to their shards' lineage; on failure some shards may have theirs.

        Raises:
            FencedError: The writer is fenced; nothing was applied.
            NotFoundError: The writer's node is unknown; nothing was applied.
        """
        await self._check_writer(writer)
        if len(self._shards) == 1:
            await self._shards[0].append(request_id, columns)
            return
        parts = split_columns(columns, lambda key: self._map.shard_for(spec, key))
        outcomes = await asyncio.gather(
            *(self._shards[index].append(request_id, part) for index, part in parts.items()),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def read_prefixes(self, spec: TableSpec, prefixes: Sequence[bytes]) -> list[Row]:
        """All rows whose key begins with one of the prefixes, in the order of these.

        Raises:
            InvalidArgumentError: A prefix does not name one shard.
            TooLargeError: Their values would not fit in one message.
        """
        if not spec.route_size or any(len(prefix) < spec.route_size for prefix in prefixes):
            raise InvalidArgumentError(
                f"rows of table {spec.name} cannot be read by prefixes this short",
                hint="give whole keys, or scan",
            )

        async def read() -> dict[bytes, list[Row]]:
            by_shard: dict[int, list[bytes]] = {}
            for prefix in prefixes:
                by_shard.setdefault(self._map.shard_for(spec, prefix), []).append(prefix)
            found: dict[bytes, list[Row]] = {}
            for index, part in by_shard.items():
                found.update(await self._shards[index].read_prefixes(spec, part))
            return found

        found = await self._of_one_map(read)
        return [row for prefix in prefixes for row in found[prefix]]

    async def read(self, spec: TableSpec, keys: Sequence[bytes]) -> list[Row]:
        """The rows that exist, in the order of the keys.

        Raises:
            TooLargeError: Their values would not fit in one message.
        """

        async def read() -> dict[bytes, Row]:
            by_shard: dict[int, list[bytes]] = {}
            for key in keys:
                by_shard.setdefault(self._map.shard_for(spec, key), []).append(key)
            found: dict[bytes, Row] = {}
            for index, part in by_shard.items():
                found.update(await self._shards[index].read(spec, part))
            return found

        found = await self._of_one_map(read)
        if spec.appended and len(found) < len(keys) and self._map.has_grown:
            found |= await self._read_anywhere(spec, [key for key in keys if key not in found])
        size_max = self._config.message_size_max // 2
        if sum(len(row.value) for row in found.values()) > size_max:
            raise TooLargeError(
                f"the values of {len(found)} rows pass {size_max} bytes",
                hint="read fewer keys at once",
                limit_bytes=size_max,
            )
        return [found[key] for key in keys if key in found]

    async def _of_one_map(self, read: Callable[[], Awaitable[_T]]) -> _T:
        """Reads again when shards were added meanwhile: what was looked for may have moved."""
        while True:
            present = self._map
            result = await read()
            if self._map is present:
                return result

    async def _read_anywhere(self, spec: TableSpec, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """Rows that were written before their slot moved: the newest of each key."""
        newest: dict[bytes, Row] = {}
        for shard in self._shards:
            for key, row in (await shard.read(spec, keys)).items():
                if key not in newest or newest[key].version < row.version:
                    newest[key] = row
        return newest

    async def probe(self) -> None:
        """Returns when every shard has read a row, or looked for one. Raises StorageError."""
        for shard in self._shards:
            await shard.read(_NODES, [bytes(NodeID.SIZE)])

    async def scan(
        self, spec: TableSpec, *, prefix: bytes, after_key: bytes, limit: int
    ) -> tuple[list[Row], bool]:
        """A page of rows in key order over all shards, and whether more may follow."""
        return await self._of_one_map(lambda: self._scan(spec, prefix, after_key, limit))

    async def _scan(
        self, spec: TableSpec, prefix: bytes, after_key: bytes, limit: int
    ) -> tuple[list[Row], bool]:
        shards = self._shards[: self._map.shard_count]
        if spec.route_size and len(prefix) >= spec.route_size:
            shards = [self._shards[self._map.shard_for(spec, prefix)]]
        pages = [
            await shard.scan(spec, prefix=prefix, after_key=after_key, limit=limit)
            for shard in shards
        ]
        # A shard that has more hides its keys above its page's last, so the merge ends there.
        ends = [rows[-1].key for rows, more in pages if more]
        parts = [
            [row for row in rows if self._belongs(shard.index, spec, row.key)]
            for shard, (rows, _) in zip(shards, pages, strict=True)
        ]
        merged: list[Row] = []
        for row in heapq.merge(*parts, key=lambda row: (row.key, -row.version)):
            if ends and row.key > min(ends):
                break
            # Of a row that was written anew after its slot moved, the newest.
            if not merged or merged[-1].key != row.key:
                merged.append(row)
        rows = merged[:limit]
        return rows, bool(ends) or len(merged) > len(rows)

    async def query(
        self, spec: TableSpec, filters: Sequence[Filter], *, limit: int, token: bytes
    ) -> tuple[list[Row], bytes]:
        """A page of rows that meet all filters, shard after shard, and where the next begins.

        Raises:
            InvalidArgumentError: The table cannot be asked, or a filter or the token is wrong.
        """
        check_filters(schema_of(spec), filters)
        index, token = (int.from_bytes(token[:2], "big"), token[2:]) if token else (0, b"")
        if index >= len(self._shards):
            raise InvalidArgumentError(
                f"page token of shard {index}; there are {len(self._shards)}",
                hint="give back the one of the page before",
            )
        rows, token = await self._shards[index].query(spec, filters, limit, token)
        if self._map.has_grown:
            rows = await self._newest_of(spec, rows, index)
        if not token:
            index += 1
        done = index == len(self._shards)
        return rows, b"" if done else index.to_bytes(2, "big") + token

    async def _newest_of(self, spec: TableSpec, rows: Sequence[Row], index: int) -> list[Row]:
        """The rows but for those that were written anew in the shard that has their slot now."""
        foreign = [row.key for row in rows if self._map.shard_for(spec, row.key) != index]
        newest = await self._read_anywhere(spec, foreign)
        return [row for row in rows if row.key not in newest or newest[row.key] == row]

    async def renew_node_lease(
        self,
        node_id: NodeID,
        epoch: int,
        resources_available: dict[str, float] | None,
        report: NodeReport | None = None,
    ) -> float:
        """Renews, and writes what the node says of itself when it changed; the lease, seconds.

        Raises:
            NotFoundError: There is no such node: it must register again.
            FencedError: It is dead, or another epoch is current, or the lease has run out.
            InvalidArgumentError: A measure in the report is out of bounds.
        """
        try:
            row = self._liveness.renew(node_id, epoch, time.monotonic())
        except (NotFoundError, FencedError):
            if not self._is_shared:
                raise
            await self._hear_of_nodes([node_id])
            row = self._liveness.renew(node_id, epoch, time.monotonic())
        if self._is_shared:
            self._renewed_s[node_id.binary()] = row.lease_s
        changed = with_resources(row, resources_available, report)
        if changed is not None:
            # A conflict means that somebody wrote the row meanwhile; the next report will do. It
            # need not survive the machine either: the next report replaces it.
            await self._write_node(changed, relaxed=True)
        return row.lease_s

    async def bury_expired_nodes(self) -> None:
        """Writes the nodes whose lease ran out as DEAD; first hears and tells other services."""
        if self._renewed_s:
            renewed_s, self._renewed_s = self._renewed_s, {}
            await self._shards[0].share_leases(renewed_s)
        expired = self._liveness.expired(time.monotonic())
        if expired and self._is_shared:
            await self._hear_of_nodes([row.node_id for row in expired])
            expired = self._liveness.expired(time.monotonic())
        for row in expired:
            logger.info("node=%s %s", row.node_id.hex(), row.death_cause)
            await self._write_node(replace(row, end_time_s=time.time()))

    def check_node_row(self, row: NodeRow) -> None:
        """Refuses a lease out of bounds."""
        self._liveness.check_row(row)

    @property
    def _is_shared(self) -> bool:
        return self._shards[0].shares_leases

    async def _hear_of_nodes(self, node_ids: Sequence[NodeID]) -> None:
        """Takes in what other services know of these nodes: their rows and their leases."""
        for shard in self._shards:
            await shard.refresh()
        ids = [node_id.binary() for node_id in node_ids]
        remaining_s = await self._shards[0].remaining_leases(ids)
        now_s = time.monotonic()
        for node_id in node_ids:
            left_s = remaining_s.get(node_id.binary())
            if left_s is not None:
                self._liveness.extend(node_id, now_s + left_s)

    async def _check_writer(self, writer: tuple[NodeID, int] | None) -> None:
        if writer is None:
            return
        try:
            self._liveness.check_writer(*writer)
        except (NotFoundError, FencedError):
            if not self._is_shared:
                raise
            # It may have registered with another service just now.
            await self._hear_of_nodes([writer[0]])
            self._liveness.check_writer(*writer)

    async def _write_node(self, row: NodeRow, *, relaxed: bool = False) -> None:
        op = Op(_NODES, NODES.key_of(row), NODES.encode(row), row.version, relaxed)
        # The version that is expected makes it idempotent; the id need only be new.
        await self.write(NodeID.from_random().binary(), [op], None)

    async def _load_nodes(self) -> None:
        after_key = b""
        more = True
        while more:
            rows, more = await self.scan(_NODES, prefix=b"", after_key=after_key, limit=1000)
            for row in rows:
                after_key = row.key
                self._handle_node(row.key, row.value, row.version)

    def _publisher(self, index: int) -> Publish:
        def publish(last_sequence: int, changes: list[Change]) -> None:
            for change in changes:
                if change.table == _NODES.number:
                    self._handle_node(change.key, change.value, change.sequence)
            if self._hub is not None:
                self._hub.handle_commit(index, last_sequence, changes)

        return publish

    def _restarter(self, index: int) -> Callable[[int], None]:
        def restart(sequence: int) -> None:
            if self._hub is not None:
                self._hub.handle_restart(index, sequence)

        return restart

    def _handle_node(self, key: bytes, value: bytes | None, version: int) -> None:
        if value is None:
            self._liveness.handle_deleted(NodeID(key))
        else:
            self._liveness.handle_row(NODES.decode(key, value, version), time.monotonic())


def _open_storage(config: GcsConfig) -> DataDir | RedisStorage:
    if config.redis is None:
        return DataDir(
            config.data_dir,
            shard_count=config.shard_count,
            lineage_memory_max=config.lineage_memory_max,
            archive_form=archive_form(config.archive_form),
        )
    # Here, so that a server on files imports nothing of it.
    from rostral_gcs.backends.redis_storage import RedisStorage

    return RedisStorage(
        config.redis,
        shard_count=config.shard_count,
        archive_dir=config.archive_dir or config.data_dir / "archive",
        archive_form=archive_form(config.archive_form),
        lineage_rows_max=config.lineage_memory_max // RECORD_MEMORY,
    )
