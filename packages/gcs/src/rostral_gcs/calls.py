"""What each call of the service does, whatever it travels by: a message in, a message out.

This file owns the checks of a request and its conversion to and from what ``store.py`` takes. It
knows neither gRPC nor frames; ``service.py`` serves these calls by both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from rostral_gcs import __version__
from rostral_gcs._proto import gcs_pb2
from rostral_gcs.backends.base import Columns, Row
from rostral_gcs.columns import key_list, value_list
from rostral_gcs.config import GcsConfig
from rostral_gcs.error_wire import error_to_detail
from rostral_gcs.errors import (
    GcsError,
    InvalidArgumentError,
    ResyncRequiredError,
    ShardsMovedError,
    TooLargeError,
    VersionMismatchError,
)
from rostral_gcs.ids import NodeID
from rostral_gcs.protocol import PROTOCOL_VERSION
from rostral_gcs.requests import (
    check_columns,
    check_keys,
    check_prefix,
    check_prefixes,
    check_query,
    check_request_id,
    check_scan,
    parse_op,
)
from rostral_gcs.shard_core import Op
from rostral_gcs.store import Store
from rostral_gcs.tables.node_report import decode_report
from rostral_gcs.tables.nodes import NODES
from rostral_gcs.tables.registry import table_spec
from rostral_gcs.watch import WatchPage

__all__ = ["Calls"]


class Calls:
    """The calls, by the names that they have in gcs.proto, in lower case.

    Each raises GcsError for what it refuses.

    Args:
        store: What they are about.
        config: Bounds.
    """

    def __init__(self, store: Store, config: GcsConfig) -> None:
        self._store = store
        self._config = config
        # Told to whoever greets; set once it listens.
        self.frames_port = 0

    async def hello(self, request: gcs_pb2.HelloRequest) -> gcs_pb2.HelloReply:
        """Says what is served here, and where else."""
        if request.protocol_version != PROTOCOL_VERSION:
            raise VersionMismatchError(
                f"client speaks protocol {request.protocol_version}, server {PROTOCOL_VERSION}",
                hint="run the same rostral-gcs version on both sides",
            )
        return gcs_pb2.HelloReply(
            protocol_version=PROTOCOL_VERSION,
            cluster_id=self._store.cluster_id,
            shard_count=self._store.shard_count,
            server_version=__version__,
            frames_port=self.frames_port,
        )

    async def read(self, request: gcs_pb2.ReadRequest) -> gcs_pb2.ReadReply:
        """Rows by key and by prefix."""
        spec = table_spec(request.table)
        check_keys(request.keys, self._config)
        rows = await self._store.read(spec, list(request.keys))
        if request.prefixes:
            check_prefixes(request.prefixes, self._config)
            rows += await self._store.read_prefixes(spec, request.prefixes)
        return gcs_pb2.ReadReply(rows=_row_messages(rows))

    async def scan(self, request: gcs_pb2.ScanRequest) -> gcs_pb2.ScanReply:
        """A page of rows in key order."""
        spec = table_spec(request.table)
        check_scan(request, self._config)
        rows, more = await self._store.scan(
            spec, prefix=request.prefix, after_key=request.after_key, limit=request.limit
        )
        return gcs_pb2.ScanReply(rows=_row_messages(rows), more=more)

    async def query(self, request: gcs_pb2.QueryRequest) -> gcs_pb2.QueryReply:
        """A page of rows that meet all conditions."""
        spec = table_spec(request.table)
        filters = check_query(request, self._config)
        rows, token = await self._store.query(
            spec, filters, limit=request.limit, token=request.page_token
        )
        return gcs_pb2.QueryReply(rows=_row_messages(rows), page_token=token)

    async def add_shards(self, request: gcs_pb2.AddShardsRequest) -> gcs_pb2.AddShardsReply:
        """Grows the store."""
        # A caller that gives up must not leave the store half grown.
        done = await asyncio.shield(self._store.add_shards(request.shard_count))
        return gcs_pb2.AddShardsReply(
            shard_count=done.shard_count, moved_rows=done.moved_rows, blocked_s=done.blocked_s
        )

    async def renew_node_lease(
        self, request: gcs_pb2.RenewNodeLeaseRequest
    ) -> gcs_pb2.RenewNodeLeaseReply:
        """Renews a lease and takes the node's report."""
        resources = dict(request.resources_available) if request.has_resources else None
        report = decode_report(request.report) if request.HasField("report") else None
        lease_s = await self._store.renew_node_lease(
            _node_id(request.node_id), request.epoch, resources, report
        )
        return gcs_pb2.RenewNodeLeaseReply(lease_s=lease_s)

    async def write(self, request: gcs_pb2.WriteRequest) -> gcs_pb2.WriteReply:
        """Applies each operation on its own."""
        check_request_id(request.request_id)
        if len(request.ops) > self._config.batch_ops_max:
            raise TooLargeError(
                f"{len(request.ops)} operations in one request; the limit is "
                f"{self._config.batch_ops_max}",
                hint="send smaller batches",
            )
        writer = _writer(request)
        ops = [parse_op(op, self._config) for op in request.ops]
        for at, op in enumerate(ops):
            if not isinstance(op, GcsError) and op.spec.name == NODES.name and op.value is not None:
                try:
                    self._store.check_node_row(NODES.decode(op.key, op.value, 0))
                except GcsError as error:
                    ops[at] = error
        results = await self._store.write(request.request_id, ops, writer)
        return gcs_pb2.WriteReply(
            results=[
                gcs_pb2.WriteResult(error=error_to_detail(result))
                if isinstance(result, GcsError)
                else gcs_pb2.WriteResult(version=result)
                for result in results
            ]
        )

    async def write_columns(
        self, request: gcs_pb2.WriteColumnsRequest
    ) -> gcs_pb2.WriteColumnsReply:
        """Writes or deletes many rows of one table, all or none."""
        check_request_id(request.request_id)
        spec = check_columns(request, self._config)
        columns = Columns(
            table=spec.number,
            first_sequence=0,
            key_size=spec.key_size,
            keys=request.keys,
            sizes=list(request.sizes),
            values=request.values,
        )
        count = len(request.keys) // spec.key_size
        if spec.appended:
            await self._store.write_columns(request.request_id, columns, spec, _writer(request))
            return gcs_pb2.WriteColumnsReply(count=count)
        values = [None] * count if request.delete else value_list(columns)
        ops = [
            Op(spec, key, value, None) for key, value in zip(key_list(columns), values, strict=True)
        ]
        for result in await self._store.write(request.request_id, ops, _writer(request)):
            if isinstance(result, GcsError):
                raise result
        return gcs_pb2.WriteColumnsReply(count=count)

    async def watch(
        self, request: gcs_pb2.WatchRequest
    ) -> AsyncGenerator[gcs_pb2.WatchReply, None]:
        """A snapshot, unless cursors are given, and then every change, until it is closed."""
        spec = table_spec(request.table)
        check_prefix(request.prefix, self._config)
        cursors = None
        if request.cursors:
            if request.cluster_id != self._store.cluster_id:
                raise ResyncRequiredError(
                    "the position is of another store", hint="watch again from a snapshot"
                )
            cursors = {cursor.shard: cursor.sequence for cursor in request.cursors}
            if len(cursors) != self._store.shard_count:
                # Another service may have added shards, and told of it before we heard.
                await self._store.hear_of_shards()
        pages = self._store.hub.watch(spec, prefix=request.prefix, cursors=cursors)
        try:
            async with contextlib.aclosing(pages):
                async for page in pages:
                    yield _watch_reply(page)
        except ShardsMovedError as error:
            await self._store.hear_of_shards()
            raise ResyncRequiredError(
                f"shards were added; there are {self._store.shard_count} now",
                hint="watch again from a snapshot",
            ) from error


def _row_messages(rows: Sequence[Row]) -> list[gcs_pb2.Row]:
    return [gcs_pb2.Row(key=row.key, value=row.value, version=row.version) for row in rows]


def _watch_reply(page: WatchPage) -> gcs_pb2.WatchReply:
    events = [
        gcs_pb2.WatchEvent(key=row.key, value=row.value, version=row.version, shard=shard)
        for shard, row in page.rows
    ]
    events += [
        gcs_pb2.WatchEvent(key=change.key, value=change.value, version=change.sequence, shard=shard)
        for shard, change in page.changes
    ]
    cursors = [
        gcs_pb2.Cursor(shard=shard, sequence=sequence) for shard, sequence in page.cursors.items()
    ]
    return gcs_pb2.WatchReply(events=events, cursors=cursors, synced=page.synced)


def _writer(
    request: gcs_pb2.WriteRequest | gcs_pb2.WriteColumnsRequest,
) -> tuple[NodeID, int] | None:
    if not request.HasField("writer"):
        return None
    return _node_id(request.writer.node_id), request.writer.epoch


def _node_id(binary: bytes) -> NodeID:
    try:
        return NodeID(binary)
    except ValueError as error:
        raise InvalidArgumentError(str(error), hint="send the node's 16 bytes") from error
