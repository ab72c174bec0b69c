"""A client's connection: which service is used, by which way, and retries within a deadline.

This file owns the channels and what is tried again; the ways themselves are ``paths.py``. A service
is greeted by gRPC and says where its frames are; where these cannot be reached, gRPC carries all. A
call is repeated only while nothing answers, the server is overloaded or its storage is not there;
every call may be, since writes carry a request id.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import random
from collections.abc import AsyncGenerator
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from rostral_gcs._proto import gcs_pb2
from rostral_gcs.auth import bearer_metadata
from rostral_gcs.channels import open_channel
from rostral_gcs.client_options import ClientOptions
from rostral_gcs.errors import (
    ClientClosedError,
    ClusterMismatchError,
    ForkedClientError,
    GcsError,
    GcsOverloadedError,
    GcsUnavailableError,
    NotReplicatedError,
    StorageFullError,
    StorageUnavailableError,
    UnauthenticatedError,
)
from rostral_gcs.paths import FramedPath, GrpcPath, Path, Watching
from rostral_gcs.protocol import PROTOCOL_VERSION
from rostral_gcs.tokens import Tokens

__all__ = ["Connection", "backoff_s"]

logger = logging.getLogger("rostral.gcs.client")

_T = TypeVar("_T")
# What answers by gRPC answers by frames at once, unless something between drops them.
_FRAMES_TIMEOUT_S: Final = 1.0


class Connection:
    """A channel to one GCS at a time, used on one event loop.

    Of several addresses the first that answers is used, until it does not: then the next. They must
    be services of one store; request ids keep a write that is sent to a second one from being done
    twice.

    Args:
        address: ``host:port``, or several with commas between.
        token: The cluster token.
        options: Bounds.
    """

    def __init__(self, address: str, token: str | Tokens, options: ClientOptions) -> None:
        self.address = address
        self.cluster_id = b""
        self._addresses = [part.strip() for part in address.split(",") if part.strip()] or [address]
        self._at = 0
        self.tokens = Tokens.of(token)
        self._options = options
        self._pid = os.getpid()
        self._channels: dict[str, grpc.aio.Channel] | None = None
        # Those that have said which store they serve.
        self._paths: dict[str, Path] = {}
        self._greetings: dict[str, asyncio.Task[Path]] = {}
        self._watches: set[Watching] = set()

    @property
    def present_address(self) -> str:
        """The one of the addresses that is used now."""
        return self._addresses[self._at]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What shows the token, as it is now."""
        return bearer_metadata(self.tokens.current())

    def _token(self) -> str:
        return self.tokens.current()

    async def open(self) -> None:
        """Connects and greets the server.

        Raises:
            GcsUnavailableError: Nothing answers within ``connect_timeout_s``.
            UnauthenticatedError: The token is not the server's.
            VersionMismatchError: The server speaks another protocol.
            ClusterMismatchError: Two of the addresses serve different stores.
        """
        self._channels = {}
        try:
            await self._call("", None, object, self._options.connect_timeout_s)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends calls under way and closes the channels. May be called twice."""
        if self._channels is not None:
            channels, self._channels = self._channels, None
            # Before the paths: what a greeting ends with is closed below.
            greetings = list(self._greetings.values())
            for greeting in greetings:
                greeting.cancel()
            await asyncio.gather(*greetings, return_exceptions=True)
            for path in self._paths.values():
                path.close()
            self._paths.clear()
            for watching in list(self._watches):
                watching.cancel()
            for channel in channels.values():
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
        limit_s = self._options.call_timeout_s if timeout_s is None else timeout_s
        reply, _ = await self._call(method, request, reply_type, limit_s)
        return reply

    async def call_counted(
        self, method: str, request: object, reply_type: type[_T]
    ) -> tuple[_T, int]:
        """As ``call``, and tells how many attempts it took."""
        return await self._call(method, request, reply_type, self._options.call_timeout_s)

    @property
    def keeps_order(self) -> bool:
        """Whether calls that are made now are begun by the service in the order of their making.

        One that is tried again is out of order.
        """
        path = self._paths.get(self.present_address)
        return isinstance(path, FramedPath) and path.is_usable

    async def _call(
        self, method: str, request: Any, reply_type: type[_T], limit_s: float
    ) -> tuple[_T, int]:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + limit_s
        attempt = 0
        while True:
            self.check_usable()
            at = self._at
            path = self._paths.get(self._addresses[at])
            try:
                if path is None or not path.is_usable:
                    path = await self._greet(self._attempt_s(deadline_s - loop.time()))
                if not method:
                    return reply_type(), attempt + 1
                timeout_s = self._attempt_s(deadline_s - loop.time())
                reply = await path.call(method, request, reply_type, timeout_s)
                return reply, attempt + 1
            except GcsError as error:
                # Closing ends calls under way too; our own caller must hear of that.
                self.check_usable()
                if isinstance(error, UnauthenticatedError) and self.tokens.reread():
                    attempt += 1
                    continue  # It was rotated: once more, with the new one.
                self.move_on(at, error)
                if isinstance(path, GrpcPath) and isinstance(error, GcsUnavailableError):
                    # What comes back may serve frames, or not yet have served them.
                    self._paths.pop(self._addresses[at], None)
                # Only when all addresses have been tried is there something to wait for.
                turn = (attempt + 1) % len(self._addresses)
                pause_s = 0.0 if turn else backoff_s(self._options, attempt)
                if not _may_retry(error) or loop.time() + pause_s >= deadline_s:
                    if isinstance(error, GcsUnavailableError):
                        error.message += f" (tried for {limit_s:g} s)"
                    raise
            except asyncio.CancelledError:
                # Closing the channel cancels the calls under way; tell that from our own caller.
                self.check_usable()
                raise
            await asyncio.sleep(pause_s)
            attempt += 1

    def move_on(self, at: int, error: GcsError) -> None:
        """Goes to the next address, if this error of address number ``at`` asks for it."""
        elsewhere = isinstance(error, GcsUnavailableError | StorageUnavailableError)
        # Calls that failed together move on once.
        if elsewhere and at == self._at:
            self._at = (at + 1) % len(self._addresses)
            if len(self._addresses) > 1:
                # A watch hears nothing from a server that is silent, and would stay.
                for call in self._watches:
                    call.cancel()

    def _attempt_s(self, remaining_s: float) -> float:
        if len(self._addresses) > 1:
            remaining_s = min(remaining_s, self._options.attempt_timeout_s)
        return max(0.001, remaining_s)

    async def _greet(self, timeout_s: float) -> Path:
        """A way to the present address, which has said which store it serves."""
        address = self.present_address
        greeting = self._greetings.get(address)
        if greeting is None:
            # One for all calls that wait for it.
            greeting = asyncio.create_task(self._greet_at(address, timeout_s), name="gcs-greeting")
            self._greetings[address] = greeting
            greeting.add_done_callback(lambda done: self._end_greeting(address, done))
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(greeting)
        except TimeoutError as error:
            raise GcsUnavailableError(
                f"no GCS answers at {address} within {timeout_s:g} s",
                hint="check the address, and that `rostral-gcs serve` runs there",
                address=address,
            ) from error
        except GcsError as error:
            # Others wait for the same one, and each adds to what it says.
            raise copy.copy(error) from error

    def _end_greeting(self, address: str, done: asyncio.Task[Path]) -> None:
        self._greetings.pop(address, None)
        if not done.cancelled():
            done.exception()  # Whoever waited for it has it, or gave up.

    async def _greet_at(self, address: str, timeout_s: float) -> Path:
        assert self._channels is not None
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = self._make_channel(address)
        path: Path = GrpcPath(address, channel, self._token)
        greeting = gcs_pb2.HelloRequest(protocol_version=PROTOCOL_VERSION)
        reply = await path.call("Hello", greeting, gcs_pb2.HelloReply, timeout_s)
        if self.cluster_id and reply.cluster_id != self.cluster_id:
            raise ClusterMismatchError(
                f"the GCS at {address} serves another store than the others of {self.address}",
                hint="give addresses of services of one store",
            )
        self.cluster_id = reply.cluster_id
        if self._options.framed and reply.frames_port:
            framed = await self._frame(address, reply.frames_port, timeout_s)
            if framed is not None:
                path = framed
        earlier = self._paths.get(address)
        if earlier is not None:
            earlier.retire()
        self._paths[address] = path
        if isinstance(path, FramedPath):
            # One that idles would go on saying that it is there.
            self._channels.pop(address, None)
            await channel.close(None)
        return path

    async def _frame(self, address: str, port: int, timeout_s: float) -> FramedPath | None:
        """The way by frames; None where only gRPC can be reached."""
        timeout_s = min(timeout_s, _FRAMES_TIMEOUT_S)
        try:
            return await FramedPath.open(address, port, self._token, self._options, timeout_s)
        except GcsUnavailableError as error:
            logger.warning("calls go by gRPC: %s", error)
            return None

    def _make_channel(self, address: str) -> Any:
        # With another address to go to, a silent server is left sooner.
        several = len(self._addresses) > 1
        return open_channel(
            address,
            self._options.tls,
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
                ("grpc.keepalive_timeout_ms", 2_000 if several else 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
                # Clients of several clusters or tests in one process must not share sockets.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

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
        at = self._at
        begun: list[Watching] = []
        try:
            path = self._paths.get(self._addresses[at])
            if path is None or not path.is_usable:
                path = await self._greet(self._attempt_s(self._options.connect_timeout_s))

            def begin(watching: Watching) -> None:
                begun.append(watching)
                self._watches.add(watching)

            async with contextlib.aclosing(path.watch(request, begin)) as replies:
                async for reply in replies:
                    yield reply
        except GcsError as error:
            self.check_usable()
            self.move_on(at, error)
            raise
        except asyncio.CancelledError as error:
            self.check_usable()
            task = asyncio.current_task()
            if self._at == at or (task is not None and task.cancelling()):
                raise
            raise GcsUnavailableError(
                f"no GCS answers at {self._addresses[at]}", address=self._addresses[at]
            ) from error
        finally:
            self._watches.difference_update(begun)

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
        if self._channels is None:
            raise ClientClosedError(
                f"the client of {self.address} is not connected or was closed",
                hint="call connect() first, or make a new client",
            )


def backoff_s(options: ClientOptions, attempt: int) -> float:
    """The pause before retry number ``attempt``, from 0: doubling, jittered by half."""
    pause_s = min(options.backoff_s_max, options.backoff_s_min * 2.0 ** min(attempt, 20))
    return float(pause_s * random.uniform(0.5, 1.0))


def _may_retry(error: GcsError) -> bool:
    return isinstance(
        error,
        GcsUnavailableError
        | GcsOverloadedError
        | StorageUnavailableError
        | StorageFullError
        | NotReplicatedError,
    )
