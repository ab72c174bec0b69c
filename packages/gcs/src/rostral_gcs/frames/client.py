"""The side that calls: one connection to a frame server, for any number of calls at a time.

This file owns the connection and what is under way on it. It tries nothing twice and knows no
second server: whoever uses it decides what to do when it is lost::

    channel = await open_frames("10.0.0.1", 7001, service="my.service.v1", token=token, tls=files)
    body = await channel.call(1, request, timeout_s=5.0)
    async with contextlib.aclosing(channel.stream(2, request)) as items:
        async for body in items:
            ...

A stream whose reader is slow stops the reading of its connection, so give it one of its own.
"""

from __future__ import annotations

import asyncio
import copy
import hmac
import secrets
import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final, cast

from rostral_gcs._proto import gcs_pb2
from rostral_gcs.credentials import TlsFiles
from rostral_gcs.error_wire import error_from_detail
from rostral_gcs.errors import (
    GcsError,
    GcsUnavailableError,
    InvalidArgumentError,
    TooLargeError,
    UnauthenticatedError,
)
from rostral_gcs.frames.wire import (
    GREETING_SIZE_MAX,
    NONCE_SIZE,
    Frame,
    FrameReader,
    Kind,
    Role,
    decode_welcome,
    encode,
    encode_hello,
    prove,
)
from rostral_gcs.tls import client_context

__all__ = ["PING_INTERVAL_S", "FrameChannel", "open_frames"]

PING_INTERVAL_S: Final = 5.0
"""How often a caller says that it is there; who has not answered when the next is due is gone."""

# A stream's items that wait for their reader; beyond either, the connection is not read.
_ITEMS_SIZE_MAX: Final = 1 << 20
_ITEMS_COUNT_MAX: Final = 256


async def open_frames(
    host: str,
    port: int,
    *,
    service: str,
    token: str,
    tls: TlsFiles,
    timeout_s: float,
    size_max: int = 64 * 1024 * 1024,
    ping_interval_s: float = PING_INTERVAL_S,
) -> FrameChannel:
    """Connects, greets, and makes sure that the other side knows the token too.

    Args:
        host: With TLS, a name or address that is in the service's certificate.
        port: The service's.
        service: Its name.
        token: The cluster's; it is proved, not sent.
        tls: With its CA the connection is encrypted; its certificate is shown.
        timeout_s: For all of it.
        size_max: Longest body that is taken or sent.
        ping_interval_s: See ``PING_INTERVAL_S``.

    Raises:
        GcsUnavailableError: Nothing answers, TLS came to nothing, or it took too long.
        UnauthenticatedError: One of the two sides does not know the other's token.
        VersionMismatchError: The service speaks another version.
        ConfigError, TokenFileError: The TLS files cannot be used.
    """
    context = client_context(tls)
    address = f"{host}:{port}"
    loop = asyncio.get_running_loop()
    channel = FrameChannel(address, service, token, size_max, ping_interval_s)
    try:
        async with asyncio.timeout(timeout_s):
            await loop.create_connection(
                lambda: channel, host, port, ssl=context, server_hostname=host if context else None
            )
            await channel.greet()
    except TimeoutError as error:
        channel.close()
        raise GcsUnavailableError(
            f"{service} at {address} does not answer within {timeout_s:g} s",
            hint="check the address, and that the service runs there",
            address=address,
        ) from error
    except ssl.SSLError as error:
        channel.close()
        raise GcsUnavailableError(
            f"no TLS with {service} at {address}: {error}",
            hint="check that both sides have a certificate that the cluster's CA has signed",
            address=address,
        ) from error
    except OSError as error:
        channel.close()
        if isinstance(error, GcsError):
            raise
        raise GcsUnavailableError(
            f"{service} at {address} cannot be reached: {error}",
            hint="check the address, and that the service runs there",
            address=address,
        ) from error
    except BaseException:
        channel.close()
        raise
    return channel


class FrameChannel(asyncio.Protocol):
    """An open connection; ``open_frames`` makes it. Used on one event loop.

    Attributes:
        address: ``host:port`` of the service.
        token: That it was made with.
    """

    def __init__(
        self, address: str, service: str, token: str, size_max: int, ping_interval_s: float
    ) -> None:
        self.address = address
        self.token = token
        self._service = service
        self._size_max = size_max
        self._ping_interval_s = ping_interval_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(GREETING_SIZE_MAX)
        self._greeting: asyncio.Future[Frame] = self._loop.create_future()
        self._failure: GcsError | None = None
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._streams: dict[int, _Items] = {}
        self._last_id = 0
        self._room = asyncio.Event()
        self._room.set()
        self._heard_at_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._is_retired = False

    @property
    def is_open(self) -> bool:
        """Whether it can be used; a connection that broke unseen shows at its next use."""
        return self._transport is not None and not self._transport.is_closing()

    # --- Its life --------------------------------------------------------------------------

    async def greet(self) -> None:
        """Says who we are, and checks who answers; ``open_frames`` does it."""
        nonce = secrets.token_bytes(NONCE_SIZE)
        challenge = await self._ask_greeting(
            Kind.HELLO, encode_hello(self._service, nonce), Kind.CHALLENGE
        )

        def proof(role: Role) -> bytes:
            return prove(self.token, role, self._service, nonce, challenge.body)

        welcome = await self._ask_greeting(Kind.PROOF, proof(Role.CALLER), Kind.WELCOME)
        size_max, shown = decode_welcome(welcome.body)
        if not hmac.compare_digest(shown, proof(Role.SERVICE)):
            raise UnauthenticatedError(
                f"what answers at {self.address} does not know the cluster's token",
                hint="check the address: it may be another cluster's",
            )
        self._reader.size_max = self._size_max
        self._size_max = min(self._size_max, size_max)
        self._timer = self._loop.call_later(self._ping_interval_s, self._ping)

    async def _ask_greeting(self, kind: Kind, body: bytes, wanted: Kind) -> Frame:
        self._greeting = self._loop.create_future()
        self._send(encode(kind, body=body))
        frame = await self._greeting
        if frame.kind is not wanted:
            raise InvalidArgumentError(
                f"{self.address} answers the greeting with {frame.kind.name}",
                hint="check the address and the port",
            )
        return frame

    def close(self) -> None:
        """Closes; calls and streams under way fail. May be called twice."""
        self._lose(self._unavailable("the connection was closed"))

    def retire(self) -> None:
        """Closes when nothing is under way any more; nothing new may begin."""
        self._is_retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_retired and not self._calls and not self._streams:
            self.close()

    def _lose(self, error: GcsError) -> None:
        """Ends everything with the error."""
        if self._failure is None:
            self._failure = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._room.set()
        calls, self._calls = self._calls, {}
        _fail(self._greeting, self._failure)
        for future in calls.values():
            _fail(future, self._failure)
        for items in self._streams.values():
            items.end(self._failure)

    def _ping(self) -> None:
        transport = self._transport
        if transport is None:
            return
        now_s = self._loop.time()
        # What is not read, since a stream's reader is slow, cannot be heard.
        if transport.is_reading() and now_s - self._heard_at_s >= self._ping_interval_s:
            self._lose(self._unavailable(f"it was silent for {now_s - self._heard_at_s:.1f} s"))
            return
        self._send(encode(Kind.PING))
        self._timer = self._loop.call_later(self._ping_interval_s, self._ping)

    def _unavailable(self, text: str) -> GcsUnavailableError:
        return GcsUnavailableError(
            f"{self._service} at {self.address} does not answer: {text}",
            hint="check the address, and that the service runs there",
            address=self.address,
        )

    # --- What asyncio tells ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the connection."""
        self._transport = cast("asyncio.Transport", transport)
        found = transport.get_extra_info("socket")
        if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends what is under way."""
        self._lose(self._unavailable(str(exc) if exc else "it closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Takes frames in."""
        self._heard_at_s = self._loop.time()
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except GcsError as error:
            self._lose(error)

    def pause_writing(self) -> None:
        """The service does not read: calls wait."""
        self._room.clear()

    def resume_writing(self) -> None:
        """It reads again."""
        self._room.set()

    def _take(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.REPLY:
                future = self._calls.pop(frame.id, None)
                if future is not None and not future.done():
                    future.set_result(frame.body)
            case Kind.ITEM:
                items = self._streams.get(frame.id)
                if items is not None and not items.add(frame.body):
                    self._pause_reading()
            case Kind.END:
                self._end_call(frame.id, None)
            case Kind.ERROR:
                error = error_from_detail(_detail(frame.body))
                if frame.id:
                    self._end_call(frame.id, error)
                else:
                    self._lose(error)
            case Kind.CHALLENGE | Kind.WELCOME:
                if not self._greeting.done():
                    self._greeting.set_result(frame)
            case Kind.PONG:
                pass
            case _:
                raise InvalidArgumentError(
                    f"a frame {frame.kind.name} is not for a caller", hint="check the address"
                )

    def _end_call(self, id: int, error: GcsError | None) -> None:
        items = self._streams.get(id)
        if items is not None:
            items.end(error)
            return
        future = self._calls.pop(id, None)
        if future is not None:
            _fail(future, error or self._unavailable("it is stopping"))

    # --- Calls and streams -----------------------------------------------------------------

    async def call(self, method: int, body: bytes, *, timeout_s: float) -> bytes:
        """Makes one call and returns the body of its answer.

        Raises:
            GcsUnavailableError: The connection broke, or no answer came in time; the call may have
                been done.
            TooLargeError: The body is longer than the service takes; nothing was sent.
            GcsError: What the service refused.
        """
        id = self._begin(body)
        if not self._room.is_set():
            await self._room.wait()
            self._check()
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._calls[id] = future
        timer = self._loop.call_later(timeout_s, self._expire, future, timeout_s)
        self._send(encode(Kind.CALL, id=id, method=method, body=body))
        try:
            return await future
        finally:
            timer.cancel()
            # Still there: out of time, or nobody waits for it any more.
            if self._calls.pop(id, None) is not None:
                self._send(encode(Kind.CANCEL, id=id))
            if self._is_retired:
                self._close_if_done()

    async def stream(self, method: int, body: bytes) -> AsyncGenerator[bytes, None]:
        """Makes one call and yields the bodies of its answers. The caller must close it.

        Raises:
            GcsUnavailableError: The connection broke.
            TooLargeError: The body is longer than the service takes; nothing was sent.
            GcsError: What the service refused.
        """
        id = self._begin(body)
        items = self._streams[id] = _Items(self._loop)
        self._send(encode(Kind.CALL, id=id, method=method, body=body))
        try:
            while True:
                item = await items.take()
                if item is None:
                    return
                self._resume_reading()
                yield item
        finally:
            del self._streams[id]
            self._send(encode(Kind.CANCEL, id=id))
            self._resume_reading()
            self._close_if_done()

    def _begin(self, body: bytes) -> int:
        self._check()
        if len(body) > self._size_max:
            raise TooLargeError(
                f"a message of {len(body)} bytes to {self.address}; the limit is {self._size_max}",
                hint="send or ask for less in one call",
                limit_bytes=self._size_max,
            )
        self._last_id = self._last_id % 0xFFFFFFFF + 1
        return self._last_id

    def _check(self) -> None:
        if self._failure is not None:
            raise self._unavailable(self._failure.message)

    def _expire(self, future: asyncio.Future[bytes], timeout_s: float) -> None:
        _fail(future, self._unavailable(f"no answer within {timeout_s:g} s"))

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _pause_reading(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        transport = self._transport
        if transport is None or transport.is_reading() or transport.is_closing():
            return
        if not any(items.is_full for items in self._streams.values()):
            self._heard_at_s = self._loop.time()
            transport.resume_reading()


class _Items:
    """What has come of a stream and waits for its reader."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[bytes] = deque()
        self._size = 0
        self._is_over = False
        self._error: GcsError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether no more should come just now."""
        return self._size > _ITEMS_SIZE_MAX or len(self._items) > _ITEMS_COUNT_MAX

    def add(self, item: bytes) -> bool:
        """Keeps one; whether more may come."""
        self._items.append(item)
        self._size += len(item)
        self._wake()
        return not self.is_full

    def end(self, error: GcsError | None) -> None:
        """No more comes."""
        if not self._is_over:
            self._is_over, self._error = True, error
            self._wake()

    async def take(self) -> bytes | None:
        """The next one, once it is there; None after the last. Raises the error that ended it."""
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._is_over:
                return None
            self._waiter = self._loop.create_future()
            await self._waiter
        item = self._items.popleft()
        self._size -= len(item)
        return item

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _detail(body: bytes) -> gcs_pb2.ErrorDetail:
    try:
        return gcs_pb2.ErrorDetail.FromString(body)
    except Exception as error:  # protobuf's own class differs between its implementations.
        raise InvalidArgumentError(
            "an error that came cannot be read", hint="check the address and the port"
        ) from error


def _fail(future: asyncio.Future[bytes] | asyncio.Future[Frame], error: GcsError) -> None:
    if not future.done():
        # Each waits for an error of its own: those who catch them add to what they say.
        future.set_exception(copy.copy(error))
        # Who gave up waiting will not ask for it.
        future.exception()
