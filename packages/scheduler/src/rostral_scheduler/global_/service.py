"""The gRPC face of a global scheduler: one call, answered from the placer, and its health.

This file owns the call, its bounds and the listening socket. What it answers is decided in
``core/placement.py``; who may call is the GCS's interceptor's matter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from rostral_gcs import TokenInterceptor
from rostral_gcs.channels import add_port
from rostral_gcs.error_wire import abort_with
from rostral_gcs.errors import ConfigError, GcsError, GcsInternalError, TooLargeError
from rostral_gcs.health import Health
from rostral_scheduler._proto import scheduler_pb2, scheduler_pb2_grpc
from rostral_scheduler.core.placement_request import Answer
from rostral_scheduler.global_.config import GlobalSchedulerConfig
from rostral_scheduler.global_.placer import Placer
from rostral_scheduler.global_.wire import encode_answers, requests_of

__all__ = ["SERVICE", "PlacementServer"]

SERVICE = "rostral.scheduler.GlobalScheduler"
_HEALTH_S = 1.0

logger = logging.getLogger("rostral.scheduler.global")

_Context = grpc.aio.ServicerContext[Any, Any]


class PlacementServer:
    """Listens and answers. Start, use and stop it on one event loop.

    Args:
        config: Checked by who makes it.
        placer: Started and stopped by who makes it.
        probe: Returns when the GCS has answered; raises when it does not.
    """

    def __init__(
        self, config: GlobalSchedulerConfig, placer: Placer, probe: Callable[[], Awaitable[None]]
    ) -> None:
        self._config = config
        self._placer = placer
        self._server: grpc.aio.Server | None = None
        self._health = Health(probe, _HEALTH_S, SERVICE)

    async def start(self) -> int:
        """Listens, and returns the bound port.

        Raises:
            ConfigError: The address cannot be bound.
        """
        config = self._config
        server = grpc.aio.server(
            interceptors=[TokenInterceptor(config.token)],
            maximum_concurrent_rpcs=config.calls_max,
            options=[
                # Without this a second server would share the port in silence.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", config.message_size_max),
                ("grpc.max_send_message_length", config.message_size_max),
            ],
        )
        # The generated function has no types; this one has.
        add: Callable[[_Servicer, grpc.aio.Server], None] = vars(scheduler_pb2_grpc)[
            "add_GlobalSchedulerServicer_to_server"
        ]
        add(_Servicer(config, self._placer), server)
        host = f"[{config.bind}]" if ":" in config.bind else config.bind
        address = f"{host}:{config.port}"
        try:
            port = add_port(server, address, config.tls)
        except RuntimeError as error:
            raise _bind_error(address) from error
        if port == 0:
            raise _bind_error(address)
        await self._health.start(server)
        await server.start()
        self._server = server
        return port

    async def stop(self) -> None:
        """Lets calls under way finish, and closes. May be called twice."""
        if self._server is not None:
            server, self._server = self._server, None
            await self._health.stop()
            await server.stop(self._config.shutdown_grace_s)


class _Servicer(scheduler_pb2_grpc.GlobalSchedulerServicer):
    """The call. Typed errors become an aborted call, anything else INTERNAL."""

    def __init__(self, config: GlobalSchedulerConfig, placer: Placer) -> None:
        self._config = config
        self._placer = placer

    async def Place(  # noqa: N802
        self, request: scheduler_pb2.PlaceRequest, context: _Context
    ) -> scheduler_pb2.PlaceReply:
        try:
            return encode_answers(await self._place(request))
        except GcsError as error:
            await abort_with(context, error)
        except Exception as error:
            logger.exception("call=Place failed")
            await abort_with(context, GcsInternalError(f"Place failed: {error!r}"))

    async def _place(self, message: scheduler_pb2.PlaceRequest) -> list[Answer]:
        config = self._config
        if len(message.tasks) > config.batch_tasks_max:
            raise TooLargeError(
                f"{len(message.tasks)} tasks in one call; allowed: {config.batch_tasks_max}",
                hint="send smaller batches",
            )
        requests = requests_of(message)
        answers: list[Answer] = []
        for at in range(0, len(requests), config.slice_tasks):
            answers += self._placer.place(requests[at : at + config.slice_tasks])
            await asyncio.sleep(0)
        return answers


def _bind_error(address: str) -> ConfigError:
    problem = f"cannot listen on {address}"
    return ConfigError(
        problem,
        hint="bind to an address of this machine and a port that is free; port 0 takes any",
        problems=[problem],
    )
