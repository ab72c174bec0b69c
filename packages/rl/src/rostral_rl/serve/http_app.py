"""The ASGI application around one engine: routes, who may ask, and errors as answers.

    POST   /v1/act                             JSON or raw tensor; see `rostral_rl.serve.wire`
    POST   /v1/models/{model}/act              likewise
    POST   /v1/models/{model}/versions/{n}/act likewise
    DELETE /v1/models/{model}/sessions/{id}    forgets a session
    GET    /v1/policy, /v1/models              spaces, provenance and the batchers' present state
    GET    /metrics                            Prometheus' text, with the `metrics` extra
    GET    /livez, /readyz                     the process answers; it has models, and room

Written on ASGI itself: a router and request objects cost as much as all the rest of a request.
Against pages in the operator's browser, a body must name its content type, `Host` must be ours, and
`Origin`, where there is one, too.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import unquote

import numpy.typing as npt

from rostral.exceptions import RostralError
from rostral_rl.errors import (
    DeadlineError,
    MissingExtraError,
    NotServedError,
    OverloadedError,
    PermissionDeniedError,
    RequestError,
    ShapeError,
    TooLargeError,
    UnauthenticatedError,
    UnsupportedMediaError,
)
from rostral_rl.serve import wire
from rostral_rl.serve.access import Access
from rostral_rl.serve.access import Scope as Need
from rostral_rl.serve.engine import Engine
from rostral_rl.serve.known_head import KnownHead, content_type, known_head
from rostral_rl.serve.names import DEFAULT_MODEL

logger = logging.getLogger("rostral.rl.serve")

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

URL_BYTES_MAX = 8192
STATUS: tuple[tuple[type[RostralError], int], ...] = (
    (UnauthenticatedError, 401),
    (PermissionDeniedError, 403),
    (NotServedError, 404),
    (TooLargeError, 413),
    (UnsupportedMediaError, 415),
    (ShapeError, 400),
    (RequestError, 400),
    (OverloadedError, 429),
    (MissingExtraError, 501),
    (DeadlineError, 504),
)
"""First match counts; an error of no such class is our bug, 500, and its text stays in the log."""

_ACT = re.compile(r"/v1/models/([^/]+)(?:/versions/(\d{1,18}))?/act")
_SESSION = re.compile(r"/v1/models/([^/]+)/sessions/([^/]+)")
_TEXT = "text/plain; charset=utf-8"
_JSON_HEADER = (b"content-type", wire.JSON.encode())


class _Refused(Exception):  # noqa: N818 - an answer and no error; never leaves this file.
    """An answer that no class of error stands for."""

    def __init__(
        self, status: int, code: str, text: str, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.headers = list(headers)


class _Gone(Exception):  # noqa: N818 - as above.
    """The client has hung up."""


class Answer:
    """Status, headers and body of one response."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (_JSON_HEADER,)
    ) -> None:
        self.status = status
        self.body = body
        self.headers = [*headers, (b"content-length", b"%d" % len(body))]

    def lines(self) -> tuple[bytes, bytes]:
        """The status line, and the rest of a response: headers, the empty line, the body."""
        status = b"HTTP/1.1 %d %b\r\n" % (self.status, HTTPStatus(self.status).phrase.encode())
        return status, b"".join((*(b"%b: %b\r\n" % h for h in self.headers), b"\r\n", self.body))


class PolicyApp:
    """The application; any ASGI server may run it.

    Args:
        engine: Answers; closed when the server's lifespan ends.
        access: Says who may ask for what; the two probes are everybody's.
        hosts: What `Host` may be, without port; empty allows all.
        body_bytes_max: A longer body is refused.
        metrics: Makes what /metrics says; None where the extra is missing.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        access: Access,
        hosts: Iterable[str],
        body_bytes_max: int,
        metrics: Callable[[], bytes] | None,
    ) -> None:
        self._engine = engine
        self._access = access
        self._hosts = frozenset(host.lower() for host in hosts)
        self._body_bytes_max = body_bytes_max
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        try:
            answer = await self._respond(scope, receive)
        except _Gone:
            return
        except Exception as error:
            answer = self.refusal_of(error, path=scope["path"])
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        )
        await send({"type": "http.response.body", "body": answer.body})

    def refusal_of(self, error: Exception, *, path: str) -> Answer:
        """The answer that an error stands for; our own bugs are logged with the path."""
        match error:
            case _Refused():
                answer = _refusal(error.status, error.code, str(error), None)
                answer.headers += error.headers
                return answer
            case RostralError():
                return _of_error(error)
        logger.error("a request failed path=%r", path[:80], exc_info=error)
        return _refusal(500, "INTERNAL", "the policy failed", "see the server's log")

    def known_head(self, scope: Scope, *, body_bytes: int) -> KnownHead | None:
        """What all requests with this head ask for, if they are plain ones; None else.

        Args:
            scope: Of one of them.
            body_bytes: Of each one's body.
        """
        path = scope["path"]
        matched = _ACT.fullmatch(path)
        if scope["method"] != "POST" or not (path == "/v1/act" or (matched and matched[2] is None)):
            return None
        try:
            _check_length(scope)
            headers = self._admit(scope, Need.DRIVER)
        except (_Refused, RostralError):
            return None
        if body_bytes > self._body_bytes_max:
            return None
        model = matched[1] if matched else DEFAULT_MODEL
        # Each time: a token ends before a connection does.
        authorise = functools.partial(self._authorise, scope, headers, Need.DRIVER)
        return known_head(self._engine, model, headers, body_bytes=body_bytes, authorise=authorise)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._engine.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})

    async def _respond(self, scope: Scope, receive: Receive) -> Answer:
        path, method = scope["path"], scope["method"]
        _check_length(scope)
        if path in ("/livez", "/readyz"):
            _allow(method, "GET", "HEAD")
            return self._probe(path)
        headers = self._admit(scope, Need.READ if method in ("GET", "HEAD") else Need.DRIVER)
        if path == "/v1/act":
            _allow(method, "POST")
            return await self._act(headers, receive, DEFAULT_MODEL, None)
        if path.startswith("/v1/models/"):
            if matched := _ACT.fullmatch(path):
                _allow(method, "POST")
                version = None if matched[2] is None else int(matched[2])
                return await self._act(headers, receive, matched[1], version)
            if matched := _SESSION.fullmatch(path):
                _allow(method, "DELETE")
                return self._end_session(matched[1], unquote(matched[2]))
        if path in ("/v1/models", "/v1/policy", "/metrics"):
            _allow(method, "GET")
            return self._describe(path)
        raise NotServedError(f"no such path: {path[:80]!r}")

    def _admit(self, scope: Scope, need: Need) -> dict[bytes, bytes]:
        """The headers of who may ask; others are refused."""
        headers = _headers(scope["headers"])
        self._check_origin(headers)
        self._authorise(scope, headers, need)
        return headers

    def _probe(self, path: str) -> Answer:
        problem = self._engine.problem if path == "/readyz" else None
        text = "ok" if problem is None else problem
        kind = (b"content-type", _TEXT.encode())
        return Answer(200 if problem is None else 503, f"{text}\n".encode(), (kind,))

    def _describe(self, path: str) -> Answer:
        if path == "/metrics":
            if self._metrics is None:
                raise MissingExtraError(
                    "metrics need prometheus_client", hint="pip install 'rostral-rl[metrics]'"
                )
            return Answer(200, self._metrics(), ((b"content-type", _TEXT.encode()),))
        described = self._engine.describe()
        if path == "/v1/models":
            return Answer(200, wire.encode_json({"models": described}))
        if DEFAULT_MODEL not in described:
            raise NotServedError("there is no default model", hint="GET /v1/models")
        return Answer(200, wire.encode_json(described[DEFAULT_MODEL]))

    def _end_session(self, model: str, session: str) -> Answer:
        if not self._engine.end_session(session, model=model):
            raise NotServedError(f"no session {session[:80]!r}")
        return Answer(200, b"{}")

    async def _act(
        self, headers: dict[bytes, bytes], receive: Receive, model: str, version: int | None
    ) -> Answer:
        body = await self._body(headers, receive)
        kind = content_type(headers)
        if kind == wire.RAW:
            obs: npt.ArrayLike = wire.decode_raw(body, wire.tensor_headers(headers))
        elif kind == wire.JSON:
            obs = wire.decode_json(body)
        else:
            raise UnsupportedMediaError(
                f"content-type is {kind[:80]!r}", hint=f"{wire.JSON} or {wire.RAW}"
            )
        if b"x-deadline-ms" in headers or b"x-session" in headers:
            reply = await self._engine.act(
                obs,
                model=model,
                version=version,
                deadline_s=_deadline_s(headers),
                session=_text(headers, wire.SESSION_HEADER),
                reset=_flag(headers, wire.RESET_HEADER),
            )
        else:
            reply = await self._engine.act(obs, model=model, version=version)
        if kind == wire.JSON:
            return Answer(
                200,
                wire.encode_json({"action": reply.actions.tolist(), "version": reply.version}),
            )
        content, named = wire.encode_raw(reply.actions)
        named[wire.VERSION_HEADER] = str(reply.version)
        return Answer(200, content, [(k.encode(), v.encode()) for k, v in named.items()])

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Reads the body, never more than is allowed: an announced length may be a lie."""
        limit = self._body_bytes_max
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced[:20]) > limit:
            raise _too_long(limit)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedMediaError("content-encoding is not identity")
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise _too_long(limit)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunk if len(chunks) == 1 else b"".join(chunks)

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """Refuses what a page of another site made the operator's browser send."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts and host.rpartition(":")[0] not in self._hosts and host not in self._hosts:
            raise _Refused(421, "MISDIRECTED", f"this is not {host[:80]!r}")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() not in (
            f"http://{host}",
            f"https://{host}",
        ):
            raise _Refused(403, "PERMISSION_DENIED", "requests of another origin are refused")
        if headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            raise _Refused(403, "PERMISSION_DENIED", "requests of another site are refused")

    def _authorise(self, scope: Scope, headers: dict[bytes, bytes], need: Need) -> None:
        given = headers.get(b"authorization")
        shown = None if given is None else given.decode("latin-1")
        host, port = scope.get("client") or ("?", 0)
        self._access.check(shown, need, peer=f"{host}:{port}")


def _check_length(scope: Scope) -> None:
    if len(scope["raw_path"]) + len(scope["query_string"]) > URL_BYTES_MAX:
        raise _Refused(414, "TOO_LARGE", f"the URL is longer than {URL_BYTES_MAX} bytes")


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name in headers:
            # Two readers of one request could each believe another one.
            raise _Refused(
                400,
                "INVALID_ARGUMENT",
                f"there are two headers {name[:80].decode('latin-1')!r}",
                ((b"connection", b"close"),),
            )
        headers[name] = value
    return headers


def _too_long(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is longer than {limit} bytes")


def _allow(method: str, *allowed: str) -> None:
    if method not in allowed:
        listed = ", ".join(allowed)
        raise _Refused(
            405, "METHOD_NOT_ALLOWED", f"only {listed} here", ((b"allow", listed.encode()),)
        )


def _text(headers: dict[bytes, bytes], name: str) -> str | None:
    value = headers.get(name.encode())
    return None if value is None else value.decode("latin-1")


def _flag(headers: dict[bytes, bytes], name: str) -> bool:
    value = headers.get(name.encode(), b"0").lower()
    if value not in (b"0", b"1", b"false", b"true"):
        raise RequestError(f"{name} is {value[:80]!r}", hint="1 or 0")
    return value in (b"1", b"true")


def _deadline_s(headers: dict[bytes, bytes]) -> float | None:
    text = _text(headers, wire.DEADLINE_HEADER)
    if text is None:
        return None
    try:
        return float(text) / 1e3
    except ValueError as error:
        raise RequestError(
            f"{wire.DEADLINE_HEADER} is {text[:80]!r}", hint="milliseconds, > 0"
        ) from error


def _of_error(error: RostralError) -> Answer:
    status = next((status for kind, status in STATUS if isinstance(error, kind)), None)
    if status is None:
        logger.error("a request failed", exc_info=error)
        return _refusal(500, "INTERNAL", "the policy failed", "see the server's log")
    more: dict[str, object] = {}
    if isinstance(error, ShapeError):
        more = {"expected": error.expected, "got": error.got}
    if isinstance(error, OverloadedError):
        more = {"retry_after_s": round(error.retry_after_s, 3)}
    answer = _refusal(status, error.code or "INTERNAL", error.message, error.hint, **more)
    if isinstance(error, OverloadedError):
        # The header knows whole seconds only.
        answer.headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
    if isinstance(error, UnauthenticatedError):
        answer.headers.append((b"www-authenticate", b"Bearer"))
    return answer


def _refusal(status: int, code: str, text: str, hint: str | None, **more: object) -> Answer:
    body = {"code": code, "error": text, "hint": hint, **more}
    return Answer(status, wire.encode_json(body))
