"""The origin's end of its stream to one host: connects, comes back, and says when the host is dead.

This file owns the connection and the verdict. A connection that is refused means that the process
is gone: its port was its own. One that is silent may be a cut, so it is given time. A host that
lives and does not let us in is neither: that is said at once, and tried again now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from rostral_gcs.credentials import split_address
from rostral_gcs.errors import RostralError, UnauthenticatedError
from rostral_gcs.tls import TlsContexts
from rostral_gcs.tokens import Tokens
from rostral_scheduler.between.handshake import (
    ANSWER_BYTES,
    Verdict,
    decode_answer,
    encode_hello,
    error_of,
)
from rostral_scheduler.between.messages import Beat, Message
from rostral_scheduler.between.stream import BEAT_INTERVAL_S, FrameReader, Outbox, tune
from rostral_scheduler.errors import NodeDiedError, RequestError

__all__ = ["PeerIdentity", "PeerLink"]

logger = logging.getLogger("rostral.scheduler.between")

_PAUSE_S = 0.05
_REFUSED_PAUSE_S = 1.0
_SILENCE_S = 4 * BEAT_INTERVAL_S
"""After this a stream is given up, and another one tried."""
_WORDLESS_MAX = 20
"""Connections that were closed without an answer, after which the host is one that refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """By what this node is known to others.

    Attributes:
        node_id: Its id.
        tokens: The cluster's: the current one is shown.
        tls: Its certificate, if the cluster has TLS.
    """

    node_id: bytes
    tokens: Tokens
    tls: TlsContexts


class PeerLink:
    """One host, on the running event loop, from construction to `close`.

    Args:
        address: ``host:port`` of its scheduler.
        host_id: Its node id.
        identity: Ours.
        silence_s: How long it may be silent before it is taken for dead.
        handle: Called with what it says.
        connected: Called each time the stream is open; what was sent before is not sent again.
        refused: Called with the reason, each time that it lives and does not let us in.
        lost: Called once, with the reason, when it is dead.
    """

    def __init__(
        self,
        address: str,
        host_id: bytes,
        identity: PeerIdentity,
        *,
        silence_s: float,
        handle: Callable[[Message], None],
        connected: Callable[[], None],
        refused: Callable[[RostralError], None],
        lost: Callable[[str], None],
    ) -> None:
        self.address = address
        self._host_id, self._identity, self._silence_s = host_id, identity, silence_s
        self._handle, self._connected = handle, connected
        self._refused, self._lost = refused, lost
        self._outbox = Outbox()
        self._heard_at_s = 0.0
        self._wordless = 0
        self._task = asyncio.create_task(self._run(), name=f"peer {address}")

    def send(self, message: Message) -> None:
        """Sends it, in order, if the stream is open; `connected` is where to say the rest."""
        self._outbox.send(message)

    async def close(self) -> None:
        """Ends the stream. May be called twice."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._heard_at_s = loop.time()
        while True:
            try:
                await self._exchange()
            except ConnectionRefusedError:
                self._lost(f"nothing listens at {self.address} any more")
                return
            except NodeDiedError as error:
                self._lost(error.message)
                return
            except RostralError as error:
                logger.warning("no stream to %s: %s", self.address, error)
                self._refused(error)
                self._heard_at_s = loop.time()
                await asyncio.sleep(_REFUSED_PAUSE_S)
                continue
            except (OSError, TimeoutError) as error:
                logger.info("stream to %s ended: %r", self.address, error)
            silent_s = loop.time() - self._heard_at_s
            if silent_s > self._silence_s:
                self._lost(f"{self.address} has said nothing for {silent_s:.1f} s")
                return
            await asyncio.sleep(_PAUSE_S)

    async def _exchange(self) -> None:
        """One stream from its beginning to its end.

        Raises:
            ConnectionRefusedError: Nobody listens there.
            NodeDiedError: Another node does.
            RostralError: It does not let us in.
            OSError, TimeoutError: It says nothing, or cannot be reached.
        """
        loop = asyncio.get_running_loop()
        left_s = max(_PAUSE_S, self._heard_at_s + self._silence_s - loop.time())
        async with asyncio.timeout(min(_SILENCE_S, left_s)):
            stream = await self._open()
        try:
            self._heard_at_s = loop.time()
            self._outbox.open(stream.transport)
            stream.begin(self._outbox, self._hear)
            self._connected()
            await self._watch(stream)
        finally:
            self._outbox.close()
            stream.transport.abort()

    async def _open(self) -> _Stream:
        """A connection on which the host has bidden us welcome."""
        name, port = split_address(self.address)
        context = self._identity.tls.client()
        loop = asyncio.get_running_loop()
        try:
            transport, stream = await loop.create_connection(
                _Stream, name, port, ssl=context, server_hostname=name if context else None
            )
        except ssl.SSLCertVerificationError as error:
            raise UnauthenticatedError(
                f"the certificate of the node at {self.address} is not good: {error}",
                hint="rostral certs issue makes one with the name by which others reach the node",
            ) from error
        except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError) as error:
            self._count_wordless(error)
            raise
        try:
            tokens = self._identity.tokens
            transport.write(encode_hello(self._identity.node_id, self._host_id, tokens.current()))
            verdict = decode_answer(await stream.answer)
        except (ConnectionError, ssl.SSLError) as error:
            transport.abort()
            self._count_wordless(error)
            raise
        except BaseException:
            transport.abort()
            raise
        self._wordless = 0
        if verdict is not Verdict.WELCOME:
            transport.abort()
            raise error_of(verdict, self.address)
        return stream

    def _count_wordless(self, error: Exception) -> None:
        """Raises UnauthenticatedError for a host that closes every connection without an answer.

        One that is about to end does so too: the next connection will be refused.
        """
        self._wordless += 1
        is_alert = isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)
        if self._wordless >= _WORDLESS_MAX or is_alert:
            raise UnauthenticatedError(
                f"the node at {self.address} closes every stream of this one without a word: "
                f"{error}",
                hint="give both TLS certificates of the same authority, or neither",
            ) from error

    async def _watch(self, stream: _Stream) -> None:
        """Returns when the stream has ended. Raises what ended it; TimeoutError for silence."""
        loop = asyncio.get_running_loop()
        while not stream.ended.done():
            looked_at_s = loop.time()
            left_s = self._heard_at_s + _SILENCE_S - looked_at_s
            if left_s <= 0:
                raise TimeoutError(f"nothing was heard for {_SILENCE_S} s")
            await asyncio.wait([stream.ended], timeout=min(left_s, BEAT_INTERVAL_S))
            # While we did not run ourselves, we could not hear: that is no silence of the host's.
            asleep_s = loop.time() - looked_at_s - BEAT_INTERVAL_S
            self._heard_at_s += max(0.0, asleep_s)
        stream.ended.result()

    def _hear(self, message: Message) -> None:
        self._heard_at_s = asyncio.get_running_loop().time()
        if isinstance(message, Beat):
            return
        try:
            self._handle(message)
        except Exception:
            # What one message does wrong must not end the stream, which would bring it again.
            logger.exception("cannot take in what a host says: %s", type(message).__name__)


class _Stream(asyncio.Protocol):
    """One connection to a host: its answer to our hello, then messages."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport
        self._early = bytearray()
        self._reader = FrameReader()
        self._outbox: Outbox | None = None
        self._hear: Callable[[Message], None] | None = None

    def begin(self, outbox: Outbox, hear: Callable[[Message], None]) -> None:
        """From here on messages are told of."""
        self._outbox, self._hear = outbox, hear
        early, self._early = self._early, bytearray()
        if early:
            self.data_received(early)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        tune(transport)

    def data_received(self, data: bytes | bytearray) -> None:
        if self._hear is None:
            self._early += data
            if len(self._early) >= ANSWER_BYTES and not self.answer.done():
                self.answer.set_result(bytes(self._early[:ANSWER_BYTES]))
                del self._early[:ANSWER_BYTES]
            return
        try:
            for message in self._reader.feed(data):
                self._hear(message)
        except RequestError as error:
            logger.warning("a host's stream ends: %s", error)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        reason = exc or ConnectionResetError("the host has closed the stream")
        for future in (self.answer, self.ended):
            if not future.done():
                future.set_exception(reason)
                future.exception()  # Somebody may have given up waiting: that is no error.

    def pause_writing(self) -> None:
        if self._outbox is not None:
            self._outbox.pause()

    def resume_writing(self) -> None:
        if self._outbox is not None:
            self._outbox.resume()
