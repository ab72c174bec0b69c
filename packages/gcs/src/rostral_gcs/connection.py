"""A client's connection: one channel, the token on every call, retries within a deadline.

This file owns the channel and what is tried again. A call is repeated only while nothing answers or
the server is overloaded; every call may be, since writes carry a request id.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from rostral_gcs._proto import gcs_pb2, gcs_pb2_grpc
from rostral_gcs.auth import bearer_metadata
from rostral_gcs.client_options import ClientOptions
from rostral_gcs.error_wire import error_from_rpc
from rostral_gcs.errors import (
    ClientClosedError,
    ForkedClientError,
    GcsError,
    GcsOverloadedError,
    GcsUnavailableError,
)
from rostral_gcs.protocol import PROTOCOL_VERSION

__all__ = ["Connection", "backoff_s"]

_T = TypeVar("_T")


class Connection:
    """A channel to one GCS, used on one event loop.

    Args:
        address: ``host:port``.
        token: The cluster token.
        options: Bounds.
    """

    def __init__(self, address: str, token: str, options: ClientOptions) -> None:
        self.address = address
        self.cluster_id = b""
        self.metadata = bearer_metadata(token)
        self._options = options
        self._pid = os.getpid()
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def open(self) -> None:
        """Connects and greets the server.

        Raises:
            GcsUnavailableError: Nothing answers within ``connect_timeout_s``.
            UnauthenticatedError: The token is not the server's.
            VersionMismatchError: The server speaks another protocol.
        """
        self._channel = grpc.aio.insecure_channel(
            self.address,
            options=[
                # The address is the cluster's own: a proxy from the environment has no part in it.
                ("grpc.enable_http_proxy", 0),
                ("grpc.min_reconnect_backoff_ms", 50),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 1_000),
                ("grpc.max_send_message_length", self._options.message_size_max),
                ("grpc.max_receive_message_length", self._options.message_size_max),
                # A watch on a network that went away would else wait for ever.
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
                # Clients of several clusters or tests in one process must not share sockets.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._stub = _make_stub(self._channel)
        try:
            reply = await self.call(
                "Hello",
                gcs_pb2.HelloRequest(protocol_version=PROTOCOL_VERSION),
                gcs_pb2.HelloReply,
                timeout_s=self._options.connect_timeout_s,
            )
        except BaseException:
            await self.close()
            raise
        self.cluster_id = reply.cluster_id

    async def close(self) -> None:
        """Ends calls under way and closes the channel. May be called twice."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close(None)

    async def call(
        self, method: str, request: object, reply_type: type[_T], *, timeout_s: float | None = None
    ) -> _T:
        """Makes one call, again and again while nothing answers.

        Args:
            method: The call's name.
            request: Its message.
            reply_type: What it answers with.
            timeout_s: In all, retries included; by default ``call_timeout_s``.

        Raises:
            GcsUnavailableError: Nothing answered within the time.
            GcsError: What the server refused, typed.
        """
        loop = asyncio.get_running_loop()
        limit_s = self._options.call_timeout_s if timeout_s is None else timeout_s
        deadline_s = loop.time() + limit_s
        attempt = 0
        while True:
            self.check_usable()
            remaining_s = deadline_s - loop.time()
            try:
                reply = await getattr(self._stub, method)(
                    request, metadata=self.metadata, timeout=max(0.001, remaining_s)
                )
                assert isinstance(reply, reply_type)
                return reply
            except grpc.aio.AioRpcError as failure:
                error = error_from_rpc(failure, self.address)
                pause_s = backoff_s(self._options, attempt)
                if not _may_retry(error) or loop.time() + pause_s >= deadline_s:
                    if isinstance(error, GcsUnavailableError):
                        error.message += f" (tried for {limit_s:g} s)"
                    raise error from failure
            except asyncio.CancelledError:
                # Closing the channel cancels the calls under way; tell that from our own caller.
                self.check_usable()
                raise
            await asyncio.sleep(pause_s)
            attempt += 1

    async def stream(
        self, request: gcs_pb2.WatchRequest
    ) -> AsyncGenerator[gcs_pb2.WatchReply, None]:
        """Opens one watch and yields its replies until it breaks. No retry.

        The caller must close it, with ``aclosing``, before the connection.

        Raises:
            GcsUnavailableError: Nothing answers, or it went away.
            GcsError: What the server refused, typed.
        """
        self.check_usable()
        call = self._stub.Watch(request, metadata=self.metadata)
        try:
            async for reply in call:
                yield reply
        except grpc.aio.AioRpcError as failure:
            raise error_from_rpc(failure, self.address) from failure
        except asyncio.CancelledError:
            self.check_usable()
            raise
        finally:
            call.cancel()

    def check_usable(self) -> None:
        """Refuses use after close and in a forked child.

        Raises:
            ForkedClientError: This process is a fork of the one that made the client.
            ClientClosedError: The client is closed, or was never connected.
        """
        if os.getpid() != self._pid:
            raise ForkedClientError(
                f"the client of {self.address} was made before a fork, in pid {self._pid}",
                hint="make a new client in this process",
            )
        if self._channel is None:
            raise ClientClosedError(
                f"the client of {self.address} is not connected or was closed",
                hint="call connect() first, or make a new client",
            )


def backoff_s(options: ClientOptions, attempt: int) -> float:
    """The pause before retry number ``attempt``, from 0: doubling, jittered by half."""
    pause_s = min(options.backoff_s_max, options.backoff_s_min * 2.0 ** min(attempt, 20))
    return float(pause_s * random.uniform(0.5, 1.0))


def _may_retry(error: GcsError) -> bool:
    return isinstance(error, GcsUnavailableError | GcsOverloadedError)


def _make_stub(channel: grpc.aio.Channel) -> object:
    make: Callable[[grpc.aio.Channel], object] = gcs_pb2_grpc.GcsStub
    return make(channel)
