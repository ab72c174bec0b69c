"""One connection of a frame server, from its greeting to its end.

This file owns the order of the greeting, the check of each call's token, and the calls under way.
It is the shell around ``wire.py``: an asyncio protocol, all of whose methods run on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from typing import TYPE_CHECKING, Final, cast

from rostral_gcs.error_wire import error_to_detail
from rostral_gcs.errors import (
    GcsError,
    GcsInternalError,
    GcsOverloadedError,
    InvalidArgumentError,
    TooLargeError,
)
from rostral_gcs.frames.wire import (
    GREETING_SIZE_MAX,
    NONCE_SIZE,
    Frame,
    FrameReader,
    Kind,
    Role,
    decode_hello,
    encode,
    encode_welcome,
    prove,
    wrong_token,
)
from rostral_gcs.needs import denied
from rostral_gcs.tokens import Grant

if TYPE_CHECKING:
    from rostral_gcs.frames.server import FrameServer, Method

__all__ = ["Session"]

logger = logging.getLogger("rostral.gcs.frames")

# How old the knowledge may be that a connection's token is still valid.
_TOKEN_AGE_S_MAX: Final = 1.0
# How long a caller that was refused may take to read why.
_LINGER_S: Final = 1.0


class Session(asyncio.Protocol):
    """A connection.

    Args:
        server: Whose; it says who may call what.
        peer: Its address, for messages.
    """

    def __init__(self, server: FrameServer, peer: str) -> None:
        self._server = server
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(GREETING_SIZE_MAX)
        self._service_nonce = secrets.token_bytes(NONCE_SIZE)
        self._caller_nonce: bytes | None = None
        self._grant: Grant | None = None
        self._checked_at_s = 0.0
        self._heard_at_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._streams: set[int] = set()
        self._room = asyncio.Event()
        self._room.set()
        # Refused, and only waiting for the caller to read why: nothing more is looked at.
        self._is_over = False

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The calls under way."""
        return list(self._calls.values())

    # --- What asyncio tells ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to wait for the greeting."""
        self._transport = cast("asyncio.Transport", transport)
        found = transport.get_extra_info("socket")
        if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.sessions.add(self)
        self._timer = self._loop.call_later(
            self._server.limits.greeting_timeout_s, self._end_if_silent
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends what it had asked for."""
        self._server.sessions.discard(self)
        self._transport = None
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._room.set()
        for task in self._calls.values():
            task.cancel()

    def data_received(self, data: bytes) -> None:
        """Takes frames in."""
        self._heard_at_s = self._loop.time()
        try:
            # What follows a refusal is dropped unread.
            for frame in [] if self._is_over else self._reader.feed(data):
                self._handle(frame)
        except GcsError as error:
            self._refuse(error)

    def pause_writing(self) -> None:
        """The caller does not read: answers wait."""
        self._room.clear()

    def resume_writing(self) -> None:
        """It reads again."""
        self._room.set()

    # --- Ending ----------------------------------------------------------------------------

    def end_streams(self) -> None:
        """Ends the streams; other calls go on."""
        for id in list(self._streams):
            self._calls[id].cancel()

    def close(self) -> None:
        """Closes once what was answered has been sent."""
        if self._transport is not None:
            self._transport.close()

    def _end_if_silent(self) -> None:
        if self._transport is None:
            return
        limits = self._server.limits
        limit_s = limits.idle_timeout_s
        if self._grant is None:
            limit_s = 0.0  # This is called when the time for the greeting is over.
        left_s = self._heard_at_s + limit_s - self._loop.time()
        if left_s <= 0:
            logger.debug("nothing came in time peer=%s", self._peer)
            self._transport.abort()
            return
        self._timer = self._loop.call_later(left_s, self._end_if_silent)

    def _refuse(self, error: GcsError) -> None:
        """Answers with the error and ends the connection."""
        logger.debug("peer=%s refused: %s", self._peer, error)
        self._send_error(0, error)
        self._is_over = True
        for task in self._calls.values():
            task.cancel()
        if self._transport is not None:
            # What it has sent already is read and dropped: closing now would reset the connection
            # and take the answer from it.
            with contextlib.suppress(RuntimeError, OSError, NotImplementedError):
                self._transport.write_eof()
            self._loop.call_later(_LINGER_S, self._abort)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- The greeting ----------------------------------------------------------------------

    def _handle(self, frame: Frame) -> None:
        if self._grant is None:
            self._greet(frame)
        elif frame.kind is Kind.CALL:
            self._begin(frame, self._grant)
        elif frame.kind is Kind.PING:
            # One that reads nothing just now waits for no answer either.
            if self._room.is_set():
                self._send(encode(Kind.PONG))
        elif frame.kind is Kind.CANCEL:
            task = self._calls.get(frame.id)
            if task is not None:
                task.cancel()
        else:
            raise InvalidArgumentError(
                f"a frame {frame.kind.name} is not for a service", hint="send CALL, CANCEL or PING"
            )

    def _greet(self, frame: Frame) -> None:
        server = self._server
        if frame.kind is Kind.HELLO and self._caller_nonce is None:
            self._caller_nonce = decode_hello(frame.body, server.service)
            self._send(encode(Kind.CHALLENGE, body=self._service_nonce))
            return
        nonces = self._caller_nonce, self._service_nonce
        if frame.kind is not Kind.PROOF or nonces[0] is None:
            raise InvalidArgumentError(
                "a connection must begin with a greeting", hint="connect with this version's client"
            )
        caller, ours = nonces[0], nonces[1]
        self._grant = server.tokens.find_proof(
            frame.body, lambda token: prove(token, Role.CALLER, server.service, caller, ours)
        )
        if self._grant is None:
            server.count_refusal(self._peer)
            raise wrong_token()
        self._checked_at_s = time.monotonic()
        proof = prove(self._grant.token, Role.SERVICE, server.service, caller, ours)
        size_max = server.limits.size_max
        self._reader.size_max = size_max
        self._send(encode(Kind.WELCOME, body=encode_welcome(size_max, proof)))

    # --- Calls -----------------------------------------------------------------------------

    def _begin(self, frame: Frame, grant: Grant) -> None:
        now_s = time.monotonic()
        if now_s - self._checked_at_s > _TOKEN_AGE_S_MAX:
            found = self._server.tokens.find(grant.token)
            if found is None:
                self._server.count_refusal(self._peer)
                raise wrong_token()
            self._grant = grant = found
            self._checked_at_s = now_s
        if frame.id in self._calls:
            raise InvalidArgumentError(
                f"call {frame.id} is under way already", hint="give each call an id of its own"
            )
        method = self._server.methods.get(frame.method)
        if method is None:
            self._send_error(
                frame.id,
                InvalidArgumentError(
                    f"{self._server.service} has no method number {frame.method}",
                    hint="run the same rostral version on both sides",
                ),
            )
            return
        if grant.scope < method.need.scope:
            self._server.count_refusal(self._peer)
            self._send_error(frame.id, denied(method.name, method.need.scope, grant))
            return
        if len(self._calls) >= self._server.limits.calls_max:
            self._refuse_one_more(frame.id)
            return
        task = self._calls[frame.id] = self._loop.create_task(self._run(frame, method, grant))
        # Not at its end: one that is cancelled before it begins has none.
        task.add_done_callback(lambda _: self._finish(frame.id))
        if method.stream is not None:
            self._streams.add(frame.id)

    def _refuse_one_more(self, id: int) -> None:
        error = GcsOverloadedError(
            f"{len(self._calls)} calls are under way on one connection, the limit",
            hint="try again after a pause, with larger batches",
        )
        if not self._room.is_set():
            raise error  # Whoever asks on and reads no answers would fill our memory with them.
        self._send_error(id, error)

    async def _run(self, frame: Frame, method: Method, grant: Grant) -> None:
        began_s = time.perf_counter()
        has_failed = True
        try:
            request = self._parse(frame, method, grant)
            if method.stream is not None:
                async with contextlib.aclosing(method.stream(request)) as items:
                    async for item in items:
                        await self._answer(Kind.ITEM, frame.id, method.pack(item))
                self._send(encode(Kind.END, id=frame.id))
            else:
                assert method.run is not None
                await self._answer(Kind.REPLY, frame.id, method.pack(await method.run(request)))
            has_failed = False
        except GcsError as error:
            self._send_error(frame.id, error)
        except asyncio.CancelledError:
            # The caller gave up and knows no such call any more, or the service stops.
            self._send(encode(Kind.END, id=frame.id))
            raise
        except Exception as error:
            logger.exception("call=%s failed", method.name)
            self._send_error(frame.id, GcsInternalError(f"{method.name} failed: {error!r}"))
        finally:
            if self._server.observe is not None and method.run is not None:
                self._server.observe(method.name, time.perf_counter() - began_s, has_failed)

    def _parse(self, frame: Frame, method: Method, grant: Grant) -> object:
        try:
            request: object = method.parse(frame.body)
        except GcsError:
            raise
        except Exception as error:  # Each codec has errors of its own.
            raise InvalidArgumentError(
                f"the body of a call of {method.name} cannot be read: {str(error)[:200]}",
                hint="run the same rostral version on both sides",
            ) from error
        if method.need.of_request is not None:
            needed = method.need.of_request(request)
            if grant.scope < needed:
                self._server.count_refusal(self._peer)
                raise denied(method.name, needed, grant)
        return request

    def _finish(self, id: int) -> None:
        del self._calls[id]
        self._streams.discard(id)

    async def _answer(self, kind: Kind, id: int, body: bytes) -> None:
        limit = self._server.limits.size_max
        if len(body) > limit:
            raise TooLargeError(
                f"the answer has {len(body)} bytes; the limit is {limit}",
                hint="ask for less in one call",
                limit_bytes=limit,
            )
        if not self._room.is_set():
            await self._room.wait()
        self._send(encode(kind, id=id, body=body))

    def _send_error(self, id: int, error: GcsError) -> None:
        body = error_to_detail(error).SerializeToString()
        if self._grant is None and len(body) > GREETING_SIZE_MAX:
            body = error_to_detail(type(error)(error.message[:80])).SerializeToString()
        self._send(encode(Kind.ERROR, id=id, body=body))

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._is_over:
            self._transport.write(data)
