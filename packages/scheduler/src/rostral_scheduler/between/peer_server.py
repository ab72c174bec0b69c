"""Where other nodes' schedulers reach this one: the listening side of their streams.

This file owns the port and who may use it: with TLS, whoever shows a certificate of the cluster's
CA, and in any case the cluster token. What is said on a stream is `hosted.py`'s affair.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from rostral_gcs.credentials import split_address
from rostral_gcs.errors import PortInUseError
from rostral_gcs.tls import TlsContexts
from rostral_gcs.tokens import Tokens
from rostral_scheduler.between.handshake import (
    HELLO_BYTES_MAX,
    Verdict,
    encode_answer,
    judge,
    parse_hello,
)
from rostral_scheduler.between.messages import Message
from rostral_scheduler.between.stream import FrameReader, Outbox, tune
from rostral_scheduler.errors import RequestError

__all__ = ["Host", "PeerServer"]

logger = logging.getLogger("rostral.scheduler.between")

HANDSHAKE_S = 5.0
STRANGERS_MAX = 128
"""Connections that have not shown a token yet."""
_BACKLOG = 128
# A stranger must not be able to fill the disk with our log.
_LOG_INTERVAL_S = 1.0


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
        own_id: This node's id.
        tokens: The cluster's; every caller must show one that is good for a node.
        tls: With certificates, every caller must show one too.
        host: Does what they ask for.

    Attributes:
        refused: Connections that were refused so far.
    """

    def __init__(
        self, address: str, own_id: bytes, tokens: Tokens, tls: TlsContexts, host: Host
    ) -> None:
        self.host, self.own_id, self.tokens, self.tls = host, own_id, tokens, tls
        self._wanted = address
        self.address = ""
        self.connections: set[_Connection] = set()
        self.strangers: set[_Connection] = set()
        self.refused = 0
        self._logged_at_s = -_LOG_INTERVAL_S
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens. Raises PortInUseError, ConfigError."""
        name, port = split_address(self._wanted)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Connection(self), name, port, backlog=_BACKLOG
            )
        except OSError as error:
            raise PortInUseError(
                f"cannot listen for other nodes at {self._wanted}: {error}",
                hint="choose another address, or stop who listens there",
            ) from error
        bound = self._server.sockets[0].getsockname()[1]
        self.address = f"{self._wanted.rpartition(':')[0]}:{bound}"

    async def stop(self) -> None:
        """Ends all streams. May be called twice."""
        if self._server is not None:
            self._server.close()
            for connection in list(self.connections):
                connection.abort()
            await self._server.wait_closed()

    def refuse(self, peer: object, why: str) -> None:
        """Counts, and says so once in a while."""
        self.refused += 1
        now_s = time.monotonic()
        if now_s - self._logged_at_s >= _LOG_INTERVAL_S:
            self._logged_at_s = now_s
            logger.warning(
                "refused a stream of another node peer=%s refused=%s: %s", peer, self.refused, why
            )


class _Connection(asyncio.Protocol):
    """One connection, from its first byte on."""

    def __init__(self, server: PeerServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._securing: asyncio.Task[None] | None = None
        self._late: asyncio.TimerHandle | None = None
        self._origin: bytes | None = None
        """None: it has not shown yet that it may speak."""
        self._hello = bytearray()
        self._reader = FrameReader()
        self._outbox = Outbox()

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        server = self._server
        server.connections.add(self)
        if len(server.strangers) >= STRANGERS_MAX:
            server.refuse(self._peer(), "too many have not said who they are")
            self.abort()
            return
        server.strangers.add(self)
        self._late = asyncio.get_running_loop().call_later(HANDSHAKE_S, self.abort)
        tune(transport)
        if (context := server.tls.server()) is not None:
            # Before a byte is read: the first ones are TLS's.
            transport.pause_reading()
            self._securing = asyncio.create_task(self._secure(transport, context))

    async def _secure(self, transport: asyncio.Transport, context: object) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                transport,
                self,
                context,  # type: ignore[arg-type]
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except (OSError, TimeoutError) as error:
            self._server.refuse(self._peer(), f"TLS: {error}")
            self.abort()
            return
        self._transport = secured
        self._read_hello()

    def connection_lost(self, exc: Exception | None) -> None:
        server = self._server
        server.connections.discard(self)
        server.strangers.discard(self)
        if self._late is not None:
            self._late.cancel()
        self._outbox.close()
        if self._origin is not None:
            server.host.disconnected(self._origin, self._outbox)

    def abort(self) -> None:
        """Ends it at once."""
        if self._transport is not None:
            self._transport.abort()

    def _peer(self) -> object:
        return None if self._transport is None else self._transport.get_extra_info("peername")

    # ---- what comes

    def data_received(self, data: bytes) -> None:
        try:
            if self._origin is None:
                self._hello += data
                if self._securing is None or self._securing.done():
                    self._read_hello()
                return
            for message in self._reader.feed(data):
                self._server.host.handle(self._origin, message)
        except RequestError as error:
            logger.warning("a stream of another node ends peer=%s: %s", self._peer(), error)
            self.abort()

    def _read_hello(self) -> None:
        try:
            parsed = parse_hello(self._hello)
        except RequestError as error:
            self._server.refuse(self._peer(), error.message)
            self.abort()
            return
        if parsed is None:
            if len(self._hello) > HELLO_BYTES_MAX:
                self.abort()
            return
        hello, size = parsed
        verdict = judge(hello, self._server.tokens, self._server.own_id)
        assert self._transport is not None
        self._transport.write(encode_answer(verdict))
        if verdict is not Verdict.WELCOME:
            self._server.refuse(self._peer(), verdict.name)
            self._transport.close()
            return
        self._server.strangers.discard(self)
        assert self._late is not None
        self._late.cancel()
        self._origin = hello.origin
        self._outbox.open(self._transport)
        self._server.host.connected(hello.origin, self._outbox)
        rest = bytes(self._hello[size:])
        self._hello.clear()
        if rest:
            self.data_received(rest)

    # ---- what goes

    def pause_writing(self) -> None:
        self._outbox.pause()

    def resume_writing(self) -> None:
        self._outbox.resume()
