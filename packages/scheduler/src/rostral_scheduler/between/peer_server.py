"""Where other nodes' schedulers reach this one: the listening side of their streams.

This file owns the port and who may use it. What is said on a stream is `hosted.py`'s affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc
import grpc.aio

from rostral_gcs.errors import PortInUseError
from rostral_gcs.interceptor import TokenInterceptor
from rostral_scheduler.between.messages import METHOD, Message
from rostral_scheduler.between.stream import CHANNEL_OPTIONS, Outbox, receive
from rostral_scheduler.errors import RequestError

__all__ = ["ORIGIN", "Host", "PeerServer"]

logger = logging.getLogger("rostral.scheduler.between")

ORIGIN = "rostral-origin"
"""The metadata that says whose stream it is: the origin's node id, in hexadecimal."""

_Context = grpc.aio.ServicerContext[Any, Any]


class Host(Protocol):
    """What the listening side does with streams."""

    def connected(self, origin: bytes, outbox: Outbox) -> None:
        """An origin has opened its stream, for the first time or again."""

    def disconnected(self, origin: bytes, outbox: Outbox) -> None:
        """That stream has ended."""

    def handle(self, origin: bytes, message: Message) -> None:
        """One message of the origin's."""


class PeerServer:
    """Listens on the running event loop from `start` to `stop`.

    Args:
        address: ``host:port``; port 0 takes a free one.
        token: The cluster token, which every caller must show.
        host: Does what they ask for.
    """

    def __init__(self, address: str, token: str, host: Host) -> None:
        self._host = host
        self._streams: set[asyncio.Task[Any]] = set()
        self._server = grpc.aio.server(
            interceptors=[TokenInterceptor(token)],
            options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)],
        )
        self._server.add_generic_rpc_handlers((_OneMethod(self._exchange),))
        self._wanted = address
        self.address = ""

    async def start(self) -> None:
        """Listens. Raises PortInUseError."""
        try:
            port = self._server.add_insecure_port(self._wanted)
        except RuntimeError:
            port = 0
        if port == 0:
            raise PortInUseError(
                f"cannot listen for other nodes at {self._wanted}",
                hint="choose another address, or stop who listens there",
            )
        self.address = f"{self._wanted.rpartition(':')[0]}:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Ends all streams. May be called twice."""
        await self._server.stop(None)

    async def _exchange(self, frames: AsyncIterator[bytes], context: _Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        try:
            origin = bytes.fromhex(str(metadata.get(ORIGIN, "")))
        except ValueError:
            origin = b""
        if len(origin) != 16:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no node's id came along")
        outbox = Outbox()
        self._host.connected(origin, outbox)
        pump = asyncio.create_task(outbox.pump(context.write))
        try:
            await receive(frames, lambda message: self._host.handle(origin, message))
        except RequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        finally:
            pump.cancel()
            self._host.disconnected(origin, outbox)
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await pump


class _OneMethod(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, exchange: Any) -> None:
        self._handler = grpc.stream_stream_rpc_method_handler(exchange)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handler if details.method == METHOD else None
