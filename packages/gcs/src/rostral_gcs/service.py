"""The faces of the GCS, gRPC and frames, and the server that can run in any process's event loop.

This file owns what is served where, and starting and stopping in order. What a call does is in
``calls.py``; who may call is in ``interceptor.py`` and ``frames/session.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import operator
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from rostral_gcs._proto import gcs_pb2, gcs_pb2_grpc
from rostral_gcs.calls import Calls
from rostral_gcs.channels import add_port
from rostral_gcs.config import GcsConfig
from rostral_gcs.error_wire import abort_with
from rostral_gcs.errors import ConfigError, GcsError, GcsInternalError, PortInUseError
from rostral_gcs.frames.server import FrameLimits, FrameServer, Method
from rostral_gcs.health import Health
from rostral_gcs.interceptor import TokenInterceptor
from rostral_gcs.metrics import CallCounter, GcsStats, serve_metrics
from rostral_gcs.needs import GCS_NEEDS, Need
from rostral_gcs.protocol import FRAME_METHODS, SERVICE
from rostral_gcs.store import Store
from rostral_gcs.tokens import Scope

__all__ = ["GcsServer"]

if TYPE_CHECKING:
    from rostral_gcs.services.metrics_page import MetricsPage

logger = logging.getLogger("rostral.gcs.service")

_Context = grpc.aio.ServicerContext[Any, Any]
_T = TypeVar("_T")


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
        self._frames: FrameServer | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self._tokens = TokenInterceptor(config.token, GCS_NEEDS)
        self._counters = [] if config.metrics_port is None else [CallCounter()]
        self._metrics: MetricsPage | None = None
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
            calls = Calls(self._store, config)
            _add_servicer(_Servicer(calls, self._stopping), server)
            self._port = _bind(server, config)
            if config.framed:
                calls.frames_port = await self._serve_frames(calls)
            if config.metrics_port is not None:
                self._metrics = serve_metrics(
                    config.metrics_port, self._counters[0], self._stats, config.token
                )
            await self._health.start(server)
            await server.start()
            self._server = server
            self._upkeep = asyncio.create_task(self._run_upkeep(), name="gcs-upkeep")
        except BaseException:
            self._end_metrics()
            await self._health.stop()
            if self._frames is not None:
                await self._frames.stop()
            await self._store.close()
            raise
        logger.info("serving address=%s", self.address)
        return self._port

    async def _serve_frames(self, calls: Calls) -> int:
        config = self._config
        self._frames = FrameServer(
            SERVICE,
            _frame_methods(calls),
            tokens=config.token,
            tls=config.tls,
            limits=FrameLimits(size_max=config.message_size_max),
            observe=self._counters[0].count if self._counters else None,
        )
        return await self._frames.start(config.bind, config.frames_port, insecure=config.insecure)

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
        grace_s = self._config.shutdown_grace_s
        if self._frames is not None:
            await self._frames.stop(grace_s)
        if self._server is not None:
            await self._server.stop(grace_s)
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
        return 0 if self._metrics is None else self._metrics.port

    def _stats(self) -> GcsStats:
        shards = self._store.shards
        return GcsStats(
            is_serving=self._health.is_serving,
            is_insecure=self._config.insecure,
            watches=self._store.hub.watcher_count,
            refused_calls=self._tokens.refused + (self._frames.refused if self._frames else 0),
            queued_commands={shard.index: shard.queued_count for shard in shards},
            last_sequences={shard.index: shard.last_sequence for shard in shards},
        )

    def _end_metrics(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
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
    """The calls by gRPC. Typed errors become an aborted call, and anything else INTERNAL."""

    def __init__(self, calls: Calls, stopping: asyncio.Event) -> None:
        self._calls = calls
        self._stopping = stopping

    async def Hello(  # noqa: N802
        self, request: gcs_pb2.HelloRequest, context: _Context
    ) -> gcs_pb2.HelloReply:
        return await _answer("Hello", self._calls.hello(request), context)

    async def Write(  # noqa: N802
        self, request: gcs_pb2.WriteRequest, context: _Context
    ) -> gcs_pb2.WriteReply:
        return await _answer("Write", self._calls.write(request), context)

    async def WriteColumns(  # noqa: N802
        self, request: gcs_pb2.WriteColumnsRequest, context: _Context
    ) -> gcs_pb2.WriteColumnsReply:
        return await _answer("WriteColumns", self._calls.write_columns(request), context)

    async def Read(  # noqa: N802
        self, request: gcs_pb2.ReadRequest, context: _Context
    ) -> gcs_pb2.ReadReply:
        return await _answer("Read", self._calls.read(request), context)

    async def Scan(  # noqa: N802
        self, request: gcs_pb2.ScanRequest, context: _Context
    ) -> gcs_pb2.ScanReply:
        return await _answer("Scan", self._calls.scan(request), context)

    async def Query(  # noqa: N802
        self, request: gcs_pb2.QueryRequest, context: _Context
    ) -> gcs_pb2.QueryReply:
        return await _answer("Query", self._calls.query(request), context)

    async def AddShards(  # noqa: N802
        self, request: gcs_pb2.AddShardsRequest, context: _Context
    ) -> gcs_pb2.AddShardsReply:
        return await _answer("AddShards", self._calls.add_shards(request), context)

    async def RenewNodeLease(  # noqa: N802
        self, request: gcs_pb2.RenewNodeLeaseRequest, context: _Context
    ) -> gcs_pb2.RenewNodeLeaseReply:
        return await _answer("RenewNodeLease", self._calls.renew_node_lease(request), context)

    async def Watch(  # noqa: N802
        self, request: gcs_pb2.WatchRequest, context: _Context
    ) -> AsyncIterator[gcs_pb2.WatchReply]:
        try:
            with _internal_errors("Watch"):
                async with contextlib.aclosing(self._until_stopped(request)) as replies:
                    async for reply in replies:
                        yield reply
        except GcsError as error:
            await abort_with(context, error)

    async def _until_stopped(
        self, request: gcs_pb2.WatchRequest
    ) -> AsyncGenerator[gcs_pb2.WatchReply, None]:
        replies = self._calls.watch(request)
        # A watcher sleeps until a change comes, so stopping must be able to wake it.
        stopping = asyncio.ensure_future(self._stopping.wait())
        following: asyncio.Future[gcs_pb2.WatchReply] | None = None
        try:
            while True:
                following = asyncio.ensure_future(anext(replies))
                await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    return
                yield following.result()
        finally:
            stopping.cancel()
            if following is not None:
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError, GcsError):
                    await following
            await replies.aclose()


async def _answer(name: str, call: Coroutine[Any, Any, _T], context: _Context) -> _T:
    try:
        with _internal_errors(name):
            return await call
    except GcsError as error:
        await abort_with(context, error)


def _frame_methods(calls: Calls) -> dict[int, Method]:
    """The calls in frames; what they need is the same as by gRPC."""
    made: dict[str, dict[str, Any]] = {
        "Hello": {"parse": gcs_pb2.HelloRequest.FromString, "run": calls.hello},
        "Write": {"parse": gcs_pb2.WriteRequest.FromString, "run": calls.write},
        "WriteColumns": {
            "parse": gcs_pb2.WriteColumnsRequest.FromString,
            "run": calls.write_columns,
        },
        "Read": {"parse": gcs_pb2.ReadRequest.FromString, "run": calls.read},
        "Scan": {"parse": gcs_pb2.ScanRequest.FromString, "run": calls.scan},
        "Query": {"parse": gcs_pb2.QueryRequest.FromString, "run": calls.query},
        "Watch": {"parse": gcs_pb2.WatchRequest.FromString, "stream": calls.watch},
        "AddShards": {"parse": gcs_pb2.AddShardsRequest.FromString, "run": calls.add_shards},
        "RenewNodeLease": {
            "parse": gcs_pb2.RenewNodeLeaseRequest.FromString,
            "run": calls.renew_node_lease,
        },
    }
    return {
        FRAME_METHODS[name]: Method(
            name=name,
            pack=operator.methodcaller("SerializeToString"),
            need=GCS_NEEDS.get(name, Need(Scope.NODE)),
            **parts,
        )
        for name, parts in made.items()
    }


def _add_servicer(servicer: _Servicer, server: grpc.aio.Server) -> None:
    # The generated function has no types; this one has.
    add: Callable[[_Servicer, grpc.aio.Server], None] = vars(gcs_pb2_grpc)[
        "add_GcsServicer_to_server"
    ]
    add(servicer, server)


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
