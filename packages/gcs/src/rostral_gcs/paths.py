"""The two ways by which a client's calls reach one service: frames, and gRPC.

This file owns making a call of a message and an answer of what comes, typed errors included. Which
way is taken, and what is tried again, is ``connection.py``'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from rostral_gcs._proto import gcs_pb2, gcs_pb2_grpc
from rostral_gcs.auth import bearer_metadata, tokens_match
from rostral_gcs.client_options import ClientOptions
from rostral_gcs.credentials import split_address
from rostral_gcs.error_wire import error_from_rpc
from rostral_gcs.frames.client import FrameChannel, open_frames
from rostral_gcs.protocol import FRAME_METHODS, SERVICE

__all__ = ["FramedPath", "GrpcPath", "Path", "Watching"]

_T = TypeVar("_T")


class Watching(Protocol):
    """A watch under way, as far as it must be ended from outside."""

    def cancel(self) -> object:
        """Ends it."""
        ...


class Path(Protocol):
    """A way to one service. Its methods raise GcsError, typed, and try nothing twice."""

    @property
    def is_usable(self) -> bool:
        """Whether the next call may go this way; else a new one is to be made."""
        ...

    async def call(
        self, method: str, request: Message, reply_type: type[_T], timeout_s: float
    ) -> _T:
        """Makes one call."""
        ...

    def watch(
        self, request: gcs_pb2.WatchRequest, begun: Callable[[Watching], object]
    ) -> AsyncGenerator[gcs_pb2.WatchReply, None]:
        """The replies of a watch; ``begun`` is told what ends it. The caller must close it."""
        ...

    def retire(self) -> None:
        """Nothing new is begun; what is under way goes on."""
        ...

    def close(self) -> None:
        """What is under way fails."""
        ...


class GrpcPath:
    """By gRPC.

    Args:
        address: The service's, for errors.
        channel: Open; whoever made it closes it.
        show: The token to show, asked for at each call.
    """

    is_usable = True

    def __init__(self, address: str, channel: grpc.aio.Channel, show: Callable[[], str]) -> None:
        make: Callable[[grpc.aio.Channel], Any] = gcs_pb2_grpc.GcsStub
        self._stub = make(channel)
        self._address = address
        self._show = show

    async def call(
        self, method: str, request: object, reply_type: type[_T], timeout_s: float
    ) -> _T:
        """Makes one call."""
        try:
            reply = await getattr(self._stub, method)(
                request, metadata=bearer_metadata(self._show()), timeout=timeout_s
            )
        except grpc.aio.AioRpcError as failure:
            raise error_from_rpc(failure, self._address) from failure
        assert isinstance(reply, reply_type)
        return reply

    async def watch(
        self, request: gcs_pb2.WatchRequest, begun: Callable[[Watching], object]
    ) -> AsyncGenerator[gcs_pb2.WatchReply, None]:
        """The replies of a watch."""
        call = self._stub.Watch(request, metadata=bearer_metadata(self._show()))
        begun(call)
        try:
            async for reply in call:
                yield reply
        except grpc.aio.AioRpcError as failure:
            raise error_from_rpc(failure, self._address) from failure
        finally:
            call.cancel()

    def retire(self) -> None:
        """Does nothing: it is usable as long as its channel is open."""

    def close(self) -> None:
        """Does nothing: whoever made the channel closes it."""


class FramedPath:
    """By frames: one connection for all calls, and one for each watch, whose reader may be slow.

    Args:
        channel: Open; the path closes it.
        show: The token to show. A connection is made with one; with another, a new path is needed.
        options: Bounds.
    """

    def __init__(
        self, channel: FrameChannel, show: Callable[[], str], options: ClientOptions
    ) -> None:
        self._channel = channel
        self._show = show
        self._options = options

    @classmethod
    async def open(
        cls,
        address: str,
        port: int,
        show: Callable[[], str],
        options: ClientOptions,
        timeout_s: float,
    ) -> FramedPath:
        """Connects to the port, on the host of the address. Raises GcsError."""
        host, _ = split_address(address)
        channel = await _open(host, port, show(), options, timeout_s)
        return cls(channel, show, options)

    @property
    def is_usable(self) -> bool:
        """Whether it is connected, with the token of now."""
        return self._channel.is_open and tokens_match(self._channel.token, self._show())

    async def call(
        self, method: str, request: Message, reply_type: type[_T], timeout_s: float
    ) -> _T:
        """Makes one call."""
        body = await self._channel.call(
            FRAME_METHODS[method], request.SerializeToString(), timeout_s=timeout_s
        )
        # Generated messages have FromString; that reply_type is one the stubs do not say.
        kind: Any = reply_type
        reply: _T = kind.FromString(body)
        return reply

    async def watch(
        self, request: gcs_pb2.WatchRequest, begun: Callable[[Watching], object]
    ) -> AsyncGenerator[gcs_pb2.WatchReply, None]:
        """The replies of a watch."""
        host, _, port = self._channel.address.rpartition(":")
        timeout_s = self._options.attempt_timeout_s
        channel = await _open(host, int(port), self._show(), self._options, timeout_s)
        begun(_Closing(channel))
        try:
            bodies = channel.stream(FRAME_METHODS["Watch"], request.SerializeToString())
            async with contextlib.aclosing(bodies):
                async for body in bodies:
                    yield gcs_pb2.WatchReply.FromString(body)
        finally:
            channel.close()

    def retire(self) -> None:
        """Closes the connection once all calls under way have been answered."""
        self._channel.retire()

    def close(self) -> None:
        """Closes the connection; calls under way fail."""
        self._channel.close()


class _Closing:
    """Ends a watch by closing its connection."""

    def __init__(self, channel: FrameChannel) -> None:
        self._channel = channel

    def cancel(self) -> None:
        """Closes it."""
        self._channel.close()


async def _open(
    host: str, port: int, token: str, options: ClientOptions, timeout_s: float
) -> FrameChannel:
    return await open_frames(
        host,
        port,
        service=SERVICE,
        token=token,
        tls=options.tls,
        timeout_s=timeout_s,
        size_max=options.message_size_max,
    )
