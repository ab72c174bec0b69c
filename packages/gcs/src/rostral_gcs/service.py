"""The gRPC face of the GCS, and the server that can run in any process's event loop.

This file owns the calls, their conversion to and from messages, and starting and stopping in order.
What a call does is in ``store.py``; who may call is in ``interceptor.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio

from rostral_gcs import __version__
from rostral_gcs._proto import gcs_pb2, gcs_pb2_grpc
from rostral_gcs.backends.base import Columns
from rostral_gcs.channels import add_port
from rostral_gcs.columns import key_list, value_list
from rostral_gcs.config import GcsConfig
from rostral_gcs.error_wire import abort_with, error_to_detail
from rostral_gcs.errors import (
    ConfigError,
    GcsError,
    GcsInternalError,
    InvalidArgumentError,
    PortInUseError,
    ResyncRequiredError,
    TooLargeError,
    VersionMismatchError,
)
from rostral_gcs.health import Health
from rostral_gcs.ids import NodeID
from rostral_gcs.interceptor import TokenInterceptor
from rostral_gcs.metrics import CallCounter, GcsStats, Page, serve_metrics
from rostral_gcs.needs import GCS_NEEDS
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

__all__ = ["GcsServer"]

logger = logging.getLogger("rostral.gcs.service")

_Context = grpc.aio.ServicerContext[Any, Any]


class GcsServer:
    """A GCS server.

    Start, use and stop it on one event loop; it may share the loop with other services.

    Args:
        config: How it runs.

    Raises:
        ConfigError: The configuration is wrong.
        InsecureBindError: A bind to more than loopback that was not asked for outright.
    """

    def __init__(self, config: GcsConfig) -> None:
        config.validate()
        self._config = config
        self._store = Store(config)
        self._server: grpc.aio.Server | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self._tokens = TokenInterceptor(config.token, GCS_NEEDS)
        self._counters = [] if config.metrics_port is None else [CallCounter()]
        self._metrics: Page | None = None
        self._health = Health(self._store.probe, config.health_interval_s)
        self._stopping = asyncio.Event()
        self._port = 0

    @property
    def address(self) -> str:
        """``host:port`` to give to clients; the port is 0 before ``start``."""
        return _join_address(self._config.bind, self._port)

    async def start(self) -> int:
        """Opens the data directory, listens, and returns the bound port.

        Calls are served when it returns. On failure nothing is left open.

        Raises:
            PortInUseError: Another process listens on the port.
            DataDirLockedError: Another server has the data directory open.
            ConfigError: The address is not one of this machine, or the shard count is another.
            StorageError: The data directory cannot be used.
        """
        config = self._config
        await self._store.open()
        try:
            server = grpc.aio.server(
                interceptors=[*self._counters, self._tokens],
                options=[
                    # Without this a second server would share the port in silence.
                    ("grpc.so_reuseport", 0),
                    ("grpc.max_receive_message_length", config.message_size_max),
                    ("grpc.max_send_message_length", config.message_size_max),
                    # Clients send keepalive pings while they only watch.
                    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                    ("grpc.keepalive_permit_without_calls", 1),
                ],
            )
            servicer = _Servicer(self._store, config, self._stopping)
            _add_servicer(servicer, server)
            self._port = _bind(server, config)
            if config.metrics_port is not None:
                self._metrics = serve_metrics(config.metrics_port, self._counters[0], self._stats)
            await self._health.start(server)
            await server.start()
            self._server = server
            self._upkeep = asyncio.create_task(self._run_upkeep(), name="gcs-upkeep")
        except BaseException:
            self._end_metrics()
            await self._health.stop()
            await self._store.close()
            raise
        logger.info("serving address=%s", self.address)
        return self._port

    async def stop(self) -> None:
        """Ends watches, lets calls under way finish, commits and closes. May be called twice."""
        self._stopping.set()
        self._end_metrics()
        await self._health.stop()
        if self._upkeep is not None:
            self._upkeep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._upkeep
            self._upkeep = None
        if self._server is not None:
            await self._server.stop(self._config.shutdown_grace_s)
            self._server = None
        await self._store.close()

    async def probe(self) -> None:
        """Returns when a read has gone through every shard: the server does its work.

        Raises:
            StorageError: A shard cannot read.
        """
        await self._store.probe()

    @property
    def metrics_port(self) -> int:
        """Where the page of metrics is; 0 when there is none."""
        return 0 if self._metrics is None else self._metrics.server_port

    def _stats(self) -> GcsStats:
        shards = self._store.shards
        return GcsStats(
            is_serving=self._health.is_serving,
            is_insecure=self._config.insecure,
            watches=self._store.hub.watcher_count,
            refused_calls=self._tokens.refused,
            queued_commands={shard.index: shard.queued_count for shard in shards},
            last_sequences={shard.index: shard.last_sequence for shard in shards},
        )

    def _end_metrics(self) -> None:
        if self._metrics is not None:
            self._metrics.shutdown()
            self._metrics.server_close()
            self._metrics = None

    async def _run_upkeep(self) -> None:
        while True:
            await asyncio.sleep(self._config.lease_check_interval_s)
            try:
                await self._store.bury_expired_nodes()
            except GcsError as error:
                # The disk may be full now and not later; leases must go on being looked at.
                logger.warning("upkeep failed: %s", error)


class _Servicer(gcs_pb2_grpc.GcsServicer):
    """The calls. Each turns typed errors into an aborted call and anything else into INTERNAL."""

    def __init__(self, store: Store, config: GcsConfig, stopping: asyncio.Event) -> None:
        self._store = store
        self._config = config
        self._stopping = stopping

    async def Hello(  # noqa: N802
        self, request: gcs_pb2.HelloRequest, context: _Context
    ) -> gcs_pb2.HelloReply:
        if request.protocol_version != PROTOCOL_VERSION:
            await abort_with(
                context,
                VersionMismatchError(
                    f"client speaks protocol {request.protocol_version}, server {PROTOCOL_VERSION}",
                    hint="run the same rostral-gcs version on both sides",
                ),
            )
        return gcs_pb2.HelloReply(
            protocol_version=PROTOCOL_VERSION,
            cluster_id=self._store.cluster_id,
            shard_count=self._store.shard_count,
            server_version=__version__,
        )

    async def Write(  # noqa: N802
        self, request: gcs_pb2.WriteRequest, context: _Context
    ) -> gcs_pb2.WriteReply:
        try:
            with _internal_errors("Write"):
                return await self._write(request)
        except GcsError as error:
            await abort_with(context, error)

    async def WriteColumns(  # noqa: N802
        self, request: gcs_pb2.WriteColumnsRequest, context: _Context
    ) -> gcs_pb2.WriteColumnsReply:
        try:
            with _internal_errors("WriteColumns"):
                return await self._write_columns(request)
        except GcsError as error:
            await abort_with(context, error)

    async def Read(  # noqa: N802
        self, request: gcs_pb2.ReadRequest, context: _Context
    ) -> gcs_pb2.ReadReply:
        try:
            with _internal_errors("Read"):
                spec = table_spec(request.table)
                check_keys(request.keys, self._config)
                rows = await self._store.read(spec, list(request.keys))
                if request.prefixes:
                    check_prefixes(request.prefixes, self._config)
                    rows += await self._store.read_prefixes(spec, request.prefixes)
                return gcs_pb2.ReadReply(
                    rows=[
                        gcs_pb2.Row(key=row.key, value=row.value, version=row.version)
                        for row in rows
                    ]
                )
        except GcsError as error:
            await abort_with(context, error)

    async def Scan(  # noqa: N802
        self, request: gcs_pb2.ScanRequest, context: _Context
    ) -> gcs_pb2.ScanReply:
        try:
            with _internal_errors("Scan"):
                spec = table_spec(request.table)
                check_scan(request, self._config)
                rows, more = await self._store.scan(
                    spec, prefix=request.prefix, after_key=request.after_key, limit=request.limit
                )
                return gcs_pb2.ScanReply(
                    rows=[
                        gcs_pb2.Row(key=row.key, value=row.value, version=row.version)
                        for row in rows
                    ],
                    more=more,
                )
        except GcsError as error:
            await abort_with(context, error)

    async def Query(  # noqa: N802
        self, request: gcs_pb2.QueryRequest, context: _Context
    ) -> gcs_pb2.QueryReply:
        try:
            with _internal_errors("Query"):
                spec = table_spec(request.table)
                filters = check_query(request, self._config)
                rows, token = await self._store.query(
                    spec, filters, limit=request.limit, token=request.page_token
                )
                return gcs_pb2.QueryReply(
                    rows=[
                        gcs_pb2.Row(key=row.key, value=row.value, version=row.version)
                        for row in rows
                    ],
                    page_token=token,
                )
        except GcsError as error:
            await abort_with(context, error)

    async def AddShards(  # noqa: N802
        self, request: gcs_pb2.AddShardsRequest, context: _Context
    ) -> gcs_pb2.AddShardsReply:
        try:
            with _internal_errors("AddShards"):
                # A caller that gives up must not leave the store half grown.
                done = await asyncio.shield(self._store.add_shards(request.shard_count))
                return gcs_pb2.AddShardsReply(
                    shard_count=done.shard_count,
                    moved_rows=done.moved_rows,
                    blocked_s=done.blocked_s,
                )
        except GcsError as error:
            await abort_with(context, error)

    async def RenewNodeLease(  # noqa: N802
        self, request: gcs_pb2.RenewNodeLeaseRequest, context: _Context
    ) -> gcs_pb2.RenewNodeLeaseReply:
        try:
            with _internal_errors("RenewNodeLease"):
                resources = dict(request.resources_available) if request.has_resources else None
                report = decode_report(request.report) if request.HasField("report") else None
                lease_s = await self._store.renew_node_lease(
                    _node_id(request.node_id), request.epoch, resources, report
                )
                return gcs_pb2.RenewNodeLeaseReply(lease_s=lease_s)
        except GcsError as error:
            await abort_with(context, error)

    async def Watch(  # noqa: N802
        self, request: gcs_pb2.WatchRequest, context: _Context
    ) -> AsyncIterator[gcs_pb2.WatchReply]:
        try:
            with _internal_errors("Watch"):
                pages = self._watch(request)
                async with contextlib.aclosing(pages):
                    async for reply in pages:
                        yield reply
        except GcsError as error:
            await abort_with(context, error)

    async def _write(self, request: gcs_pb2.WriteRequest) -> gcs_pb2.WriteReply:
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

    async def _write_columns(
        self, request: gcs_pb2.WriteColumnsRequest
    ) -> gcs_pb2.WriteColumnsReply:
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

    async def _watch(
        self, request: gcs_pb2.WatchRequest
    ) -> AsyncGenerator[gcs_pb2.WatchReply, None]:
        spec = table_spec(request.table)
        check_prefix(request.prefix, self._config)
        cursors = None
        if request.cursors:
            if request.cluster_id != self._store.cluster_id:
                raise ResyncRequiredError(
                    "the position is of another store", hint="watch again from a snapshot"
                )
            cursors = {cursor.shard: cursor.sequence for cursor in request.cursors}
        pages = self._store.hub.watch(spec, prefix=request.prefix, cursors=cursors)
        # A watcher sleeps until a change comes, so stopping must be able to wake it.
        stopping = asyncio.ensure_future(self._stopping.wait())
        following: asyncio.Future[WatchPage] | None = None
        try:
            while True:
                following = asyncio.ensure_future(anext(pages))
                await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    return
                yield _watch_reply(following.result())
        finally:
            stopping.cancel()
            if following is not None:
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError, GcsError):
                    await following
            await pages.aclose()


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


def _add_servicer(servicer: _Servicer, server: grpc.aio.Server) -> None:
    # The generated function has no types; this one has.
    add: Callable[[_Servicer, grpc.aio.Server], None] = vars(gcs_pb2_grpc)[
        "add_GcsServicer_to_server"
    ]
    add(servicer, server)


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


@contextlib.contextmanager
def _internal_errors(call: str) -> Iterator[None]:
    try:
        yield
    except GcsError:
        raise
    except Exception as error:
        logger.exception("call=%s failed", call)
        raise GcsInternalError(f"{call} failed: {error!r}") from error


def _join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(server: grpc.aio.Server, config: GcsConfig) -> int:
    address = _join_address(config.bind, config.port)
    try:
        port = add_port(server, address, config.tls)
    except RuntimeError as error:
        raise _bind_error(config) from error
    if port == 0:
        raise _bind_error(config)
    return port


def _bind_error(config: GcsConfig) -> GcsError:
    """Finds out why by binding a plain socket: grpc tells only that it failed."""
    host = "127.0.0.1" if config.bind == "localhost" else config.bind
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, config.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return ConfigError(
                    f"cannot listen on {_join_address(host, config.port)}: {error.strerror}",
                    hint="bind to an address of this machine and a port you may use",
                )
    return PortInUseError(
        f"port {config.port} on {host} is in use by another process",
        hint="stop that process, choose another --port, or use --port 0 for any free one",
        port=config.port,
    )
