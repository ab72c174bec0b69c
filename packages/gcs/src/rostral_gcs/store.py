"""The store behind the service: all shards of one data directory, routed by key.

This file owns opening and closing the shards together, splitting requests by shard, merging their
answers, and the upkeep of node liveness; which shards there are is ``store_shards.py``'s. It speaks
requests' messages but no RPC, and it is the one place where shards, watches and liveness meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rostral_gcs.archive.files import archive_form
from rostral_gcs.archive.schema import RECORD_MEMORY, Filter, check_filters, schema_of
from rostral_gcs.backends.base import Change, Columns, Row
from rostral_gcs.columns import split_columns
from rostral_gcs.config import GcsConfig
from rostral_gcs.data_dir import DataDir
from rostral_gcs.errors import (
    ConflictError,
    FencedError,
    GcsError,
    InvalidArgumentError,
    NotFoundError,
    ShardsMovedError,
    TooLargeError,
)
from rostral_gcs.ids import NodeID
from rostral_gcs.liveness import NodeLiveness, with_resources
from rostral_gcs.shard import Publish, Shard
from rostral_gcs.shard_core import Op, OpResult
from rostral_gcs.store_shards import StoreShards
from rostral_gcs.tables.node_report import NodeReport
from rostral_gcs.tables.nodes import NODES, NodeRow
from rostral_gcs.tables.registry import TableSpec, table_spec
from rostral_gcs.watch import WatchHub

if TYPE_CHECKING:
    from rostral_gcs.backends.redis_storage import RedisStorage

__all__ = ["Store"]

logger = logging.getLogger("rostral.gcs.store")

_NODES = table_spec("nodes")


class Store(StoreShards):
    """All shards. Opened, used and closed on one event loop.

    Args:
        config: Validated.
    """

    def __init__(self, config: GcsConfig) -> None:
        super().__init__(config)
        # Of nodes that renewed here, and other services have not been told.
        self._renewed_s: dict[bytes, float] = {}
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
            if self._is_shared:
                await self._open_shared(storage)
            else:
                self._map = await self._load_map(storage)
                while len(self._shards) < self._map.shard_count:
                    await self._start_shard(storage)
            await self._end_interrupted_growth(storage)
            self._hub = WatchHub(self._shards, config, self._belongs)
            await self._load_nodes()
        except BaseException:
            await self.close()
            raise

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
        places = [at for at, op in enumerate(ops) if not isinstance(op, GcsError)]
        while places:
            # What a shard refused since rows have moved was not applied: it goes to where they are.
            places = await self._write_parts(request_id, ops, places, results)
            if places:
                await self.hear_of_shards()
        return results

    async def _write_parts(
        self,
        request_id: bytes,
        ops: Sequence[Op | GcsError],
        places: Sequence[int],
        results: list[OpResult],
    ) -> list[int]:
        """Writes the ops at the places; returns the places of those whose rows have moved."""
        by_shard: dict[int, list[int]] = {}
        for at in places:
            op = ops[at]
            if not isinstance(op, GcsError):
                index = self._map.shard_for(op.spec, op.key)
                by_shard.setdefault(index, []).append(at)
        moved: list[int] = []

        async def write_part(index: int, places: list[int]) -> None:
            part = [op for op in (ops[at] for at in places) if not isinstance(op, GcsError)]
            try:
                done = await self._shards[index].write(request_id, part)
            except ShardsMovedError:
                moved.extend(places)
                return
            if len(done) != len(places):
                # It was sent before shards were added, and was another part of the request then.
                done = [_changed_shards(op) for op in part]
            for at, result in zip(places, done, strict=True):
                results[at] = result

        if len(by_shard) == 1:
            await write_part(*next(iter(by_shard.items())))
        else:
            outcomes = await asyncio.gather(
                *(write_part(*item) for item in by_shard.items()), return_exceptions=True
            )
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    # Other shards' parts may be applied: the caller sends the request again, and
                    # those answer from memory.
                    raise outcome
        return sorted(moved)

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
        if self._map.shard_count == 1:
            try:
                await self._shards[0].append(request_id, columns)
            except ShardsMovedError:
                await self.hear_of_shards()
                await self._append_parts(request_id, columns, spec)
            return
        await self._append_parts(request_id, columns, spec)

    async def _append_parts(self, request_id: bytes, columns: Columns, spec: TableSpec) -> None:
        parts = split_columns(columns, lambda key: self._map.shard_for(spec, key))
        outcomes = await asyncio.gather(
            *(self._shards[index].append(request_id, part) for index, part in parts.items()),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, ShardsMovedError):
                raise outcome
        for (index, part), outcome in zip(parts.items(), outcomes, strict=True):
            if isinstance(outcome, ShardsMovedError):
                await self.hear_of_shards()
                # A name of its own: two parts of one request may come to lie in one shard.
                name = hashlib.sha256(request_id + b"%d" % index).digest()[: len(request_id)]
                await self._append_parts(name, part, spec)

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
            missed = [key for key in keys if key not in found]
            found |= await self._of_one_map(lambda: self._read_anywhere(spec, missed))
        size_max = self._config.message_size_max // 2
        if sum(len(row.value) for row in found.values()) > size_max:
            raise TooLargeError(
                f"the values of {len(found)} rows pass {size_max} bytes",
                hint="read fewer keys at once",
                limit_bytes=size_max,
            )
        return [found[key] for key in keys if key in found]

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

        async def read() -> None:
            for shard in self._shards:
                await shard.read(_NODES, [bytes(NodeID.SIZE)])

        await self._of_one_map(read)

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
        if self._is_shared:
            # Rows may lie in shards that another service has added.
            await self._of_one_map(self._shards[0].refresh)
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
        newest = await self._of_one_map(lambda: self._read_anywhere(spec, foreign))
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
        if self._has_moved and not self._growing.locked():
            with contextlib.suppress(ShardsMovedError):
                await self.hear_of_shards(wait_s=0.0)
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

    async def _hear_of_nodes(self, node_ids: Sequence[NodeID]) -> None:
        """Takes in what other services know of these nodes: their rows and their leases."""

        async def refresh() -> None:
            for shard in self._shards:
                await shard.refresh()

        await self._of_one_map(refresh)
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
            if self._hub is not None and index < self._map.shard_count:
                self._hub.handle_commit(index, last_sequence, changes)

        return publish

    def _restarter(self, index: int) -> Callable[[int], None]:
        def restart(sequence: int) -> None:
            if self._hub is not None and index < self._map.shard_count:
                self._hub.handle_restart(index, sequence)

        return restart

    def _handle_node(self, key: bytes, value: bytes | None, version: int) -> None:
        if value is None:
            self._liveness.handle_deleted(NodeID(key))
        else:
            self._liveness.handle_row(NODES.decode(key, value, version), time.monotonic())


def _changed_shards(op: Op) -> GcsError:
    return ConflictError(
        f"the request that wrote row {op.key[:40].hex()} of table {op.spec.name} was sent before "
        "shards were added: whether it was applied is not known any more",
        hint="read the row again and decide anew",
    )


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
