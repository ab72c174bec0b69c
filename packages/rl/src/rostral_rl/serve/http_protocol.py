"""One HTTP connection: Uvicorn's, with a short cut for the request that comes again and again.

A head that the application has understood on this connection is recognised by its bytes. Its
observation then goes from the socket to the batcher, and its action from the batch to the socket,
without a parser, a task or an event: that is a sixth of what an ASGI request costs. Whatever is
unusual, the first request, one in odd pieces, one sent ahead of an answer, goes Uvicorn's way.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rostral_rl.serve.batcher import Answer
from rostral_rl.serve.http_app import PolicyApp
from rostral_rl.serve.known_head import KnownHead

__all__ = ["PolicyProtocol"]

LESSONS_MAX = 32
"""Heads that a connection learns: nearly as many as bodies of JSON have lengths. One whose heads
all differ gains nothing by it."""
HEAD_BYTES_MAX = 2048
WHOLE_BYTES_MAX = 1 << 18
"""A longer request comes in pieces, and what is saved is nothing beside what its body costs."""
LEAVE_S = 0.1
"""How long a stopping server waits for what its clients had already sent."""


class PolicyProtocol(HttpToolsProtocol):
    """A connection of the policy server. It is its own `Asker`: one request at a time.

    Invariant: a request that took the short cut is under way only while none is on Uvicorn's way.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        app = self.config.app
        assert isinstance(app, PolicyApp)
        self._app = app
        # By their bytes.
        self._heads: dict[bytes, KnownHead] = {}
        self._lessons = 0
        # What came of the message that the parser is in the middle of; None once that is too long.
        self._seen: bytes | None = b""
        # Messages that the parser has begun, and ended.
        self._begun = self._ended = self._first = 0
        # Under way: a request that took the short cut, and whether it is one observation alone.
        self._asked: KnownHead | None = None
        self._single = False
        # A known head has come, and its body has not.
        self._headed = b""
        self._early: list[bytes] = []
        self._lost = self._leaving = False
        self._answered_s = 0.0

    def data_received(self, data: bytes) -> None:
        """Takes the short cut where this is the known request, whole, and nothing else goes on.

        Many clients send head and body one by one: the known head alone waits for its body.
        """
        if self._asked is not None:
            # Ahead of the answer: read no further, so that no more than this is kept.
            self._early.append(data)
            self.flow.pause_reading()
            return
        if self._headed:
            data, self._headed = self._headed + data, b""
        end = data.find(b"\r\n\r\n") + 4
        known = self._heads.get(data[:end])
        if known is not None and self._is_free():
            if len(data) == end + known.body_bytes:
                self._ask(known, data[end:])
                return
            if len(data) == end:
                self._headed = data
                return
        if self._begun == self._ended:
            self._seen, self._first = b"", self._begun
        super().data_received(data)
        if self._seen is not None:
            short = len(self._seen) + len(data) <= WHOLE_BYTES_MAX
            self._seen = self._seen + data if short else None
        if self._seen and self._begun == self._ended == self._first + 1:
            self._learn(self._seen)

    def on_message_begin(self) -> None:
        """Counts, so that it is known whether a request is whole."""
        self._begun += 1
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """As above."""
        self._ended += 1
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits any more."""
        self._lost = True
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """Tells a client that is answered while the server stops to ask elsewhere."""
        super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Closes the connection, after the answer that is under way, or that is about to be asked.

        Where an idle connection were closed at once, a request that had left its client already
        would be lost, and hardly any client sends a POST again.
        """
        self._leaving = True
        if getattr(self.cycle, "response_complete", True):
            self.loop.call_later(LEAVE_S, self._leave)
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that was idle for so long; one timer serves many short cuts."""
        self.timeout_keep_alive_task = None
        rest_s = self._answered_s + self.timeout_keep_alive - self.loop.time()
        if self._asked is not None or self._headed or rest_s > 0.0:
            self._expect(max(rest_s, 1.0))
        else:
            super().timeout_keep_alive_handler()

    def cancelled(self) -> bool:
        """Whether the client has hung up."""
        return self._lost

    def set_result(self, answer: Answer, /) -> None:
        """Writes an answer."""
        assert self._asked is not None
        try:
            rest = self._asked.respond(answer, single=self._single)
        except Exception as error:
            self.set_exception(error)
        else:
            self._write(b"HTTP/1.1 200 OK\r\n", rest)

    def set_exception(self, error: Exception, /) -> None:
        """Writes a refusal."""
        status, rest = self._app.refusal_of(error, path="/v1/act").lines()
        self._write(status, rest)

    def _is_free(self) -> bool:
        """Whether nothing goes on, and there is room, for one more answer and for this client."""
        return (
            self._begun == self._ended
            and self.cycle.response_complete
            and not self.flow.write_paused
            and (self.limit_concurrency is None or len(self.connections) < self.limit_concurrency)
        )

    def _ask(self, known: KnownHead, body: bytes) -> None:
        self._asked = known
        try:
            self._single = known.ask(body, self)
        except Exception as error:
            self.set_exception(error)

    def _learn(self, request: bytes) -> None:
        """Remembers the head of a whole request, if it is a plain one."""
        end = request.find(b"\r\n\r\n") + 4
        head, body_bytes = request[:end], len(request) - end
        announced = dict(self.headers).get(b"content-length", b"")
        if (
            self._lessons >= LESSONS_MAX
            or not 4 <= end <= HEAD_BYTES_MAX
            or not (announced.isdigit() and int(announced) == body_bytes)
        ):
            return
        self._lessons += 1
        known = self._app.known_head({**self.scope}, body_bytes=body_bytes)
        if known is not None and self.cycle.keep_alive:
            self._heads[head] = known

    def _leave(self) -> None:
        if self._asked is None:  # Else the answer closes.
            super().shutdown()

    def _write(self, status: bytes, rest: bytes) -> None:
        self._asked = None
        state = self.server_state
        state.total_requests += 1
        if not self.transport.is_closing():
            lines = [b"%b: %b\r\n" % line for line in state.default_headers]
            if self._leaving:
                lines.append(b"connection: close\r\n")
            self.transport.write(b"".join((status, *lines, rest)))
        if self._leaving:
            self.transport.close()
            return
        self._answered_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._expect(self.timeout_keep_alive)
        if self._early:
            early, self._early = b"".join(self._early), []
            self.flow.resume_reading()
            self.data_received(early)

    def _expect(self, seconds: float) -> None:
        """Looks after so long whether the client is still there."""
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )
