"""Whether the server does its work, told in the standard way: ``grpc.health.v1``.

This file owns the statuses, how often they are looked at, and the question of a client. A status
needs no token, since whoever asks (an orchestrator, a load balancer) has none; it says nothing but
that. ``SERVING`` means that what the server needs has just answered: of a GCS, every shard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rostral_gcs.error_wire import error_from_rpc
from rostral_gcs.errors import GcsError
from rostral_gcs.protocol import SERVICE

__all__ = ["SERVICE", "Health", "ask_health"]

logger = logging.getLogger("rostral.gcs.health")

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The health service of one server.

    Args:
        probe: Returns when a read has gone through; raises when it cannot.
        interval_s: How often it is probed, and how long a probe may take.
        service: By which name it is asked for, beside the empty one.
    """

    def __init__(
        self, probe: Callable[[], Awaitable[None]], interval_s: float, service: str = SERVICE
    ) -> None:
        self._probe = probe
        self._service = service
        self._interval_s = interval_s
        self._servicer: Any = _make_servicer()
        self._task: asyncio.Task[None] | None = None
        self.is_serving = False

    async def start(self, server: grpc.aio.Server) -> None:
        """Adds the service; before the server is started."""
        add: Any = health_pb2_grpc.add_HealthServicer_to_server
        add(self._servicer, server)
        await self._set(_SERVING)
        self._task = asyncio.create_task(self._run(), name="health")

    async def stop(self) -> None:
        """Says NOT_SERVING, so that callers go elsewhere. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            await self._servicer.enter_graceful_shutdown()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._probe()
                await self._set(_SERVING)
            except (GcsError, TimeoutError) as error:
                if self.is_serving:
                    logger.warning("not serving: %r", error)
                await self._set(_NOT_SERVING)

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        self.is_serving = status == _SERVING
        for name in ("", self._service):
            await self._servicer.set(name, status)


def _make_servicer() -> object:
    # Published types of this module know nothing of its asyncio half.
    module: Any = health
    made: object = module.aio.HealthServicer()
    return made


async def ask_health(address: str, timeout_s: float, service: str = SERVICE) -> str:
    """What a server says of itself: ``SERVING``, ``NOT_SERVING`` or ``SERVICE_UNKNOWN``.

    Args:
        address: ``host:port``.
        timeout_s: For the answer.
        service: The name to ask for.

    Raises:
        GcsUnavailableError: Nothing answers.
        GcsError: What answers is no GCS.
    """
    async with grpc.aio.insecure_channel(
        address, options=[("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        make: Any = health_pb2_grpc.HealthStub
        try:
            reply = await make(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_s
            )
        except grpc.aio.AioRpcError as failure:
            if failure.code() is grpc.StatusCode.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            raise error_from_rpc(failure, address) from failure
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return name
