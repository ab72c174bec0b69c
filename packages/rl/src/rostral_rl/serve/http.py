"""The policy server over HTTP: a Starlette application around one batcher, run by Uvicorn.

    POST /v1/act      JSON or raw tensor, one observation or a batch; see `rostral_rl.serve.wire`
    GET  /v1/policy   spaces, provenance and the batcher's present state
    GET  /livez       the process answers
    GET  /readyz      the policy is loaded and the queue has room

Listens on loopback unless told otherwise, and elsewhere only with a token. A body must name its
content type: no web page can then make a browser post here without being asked first.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType, TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from rostral_rl import spaces
from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import (
    DeadlineError,
    InvalidSettingError,
    MissingExtraError,
    OverloadedError,
    PortUnavailableError,
    ServerError,
    ShapeError,
)
from rostral_rl.policy import Policy
from rostral_rl.serve import wire
from rostral_rl.serve.batcher import BatchConfig, Batcher

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise MissingExtraError(
        f"serving over HTTP needs {error.name}", hint="pip install 'rostral-rl[serve]'"
    ) from error


START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of one policy server.

    Attributes:
        host: Address to listen on.
        port: 0 takes a free one.
        token: Where given, every call but the two probes must carry `Authorization: Bearer
            <token>`.
        body_bytes_max: A longer body is refused before it is read.
        connections_max: Requests under way at once; one beyond is answered 503 by Uvicorn.
        batch: Limits of the batcher.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = field(default=None, repr=False)
    body_bytes_max: int = 8 << 20
    connections_max: int = 4096
    batch: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise InvalidSettingError(f"port must lie in 0..65535, got {self.port!r}")
        if self.token is None and not _is_loopback(self.host):
            raise InvalidSettingError(
                f"refusing to listen on {self.host} without a token",
                hint="listen on 127.0.0.1, or give a token",
            )


class _RefusalError(Exception):
    """An answer that is not an action: status and text. Never leaves this file."""

    def __init__(self, status: int, text: str, hint: str | None = None) -> None:
        super().__init__(text)
        self.response = JSONResponse({"error": text, "hint": hint}, status)


class _Handlers:
    """The application's endpoints around one policy and one batcher."""

    def __init__(self, policy: Policy, config: ServeConfig) -> None:
        self._policy = policy
        self._config = config
        self.batcher = Batcher(self._act, config.batch)

    def _act(self, obs: SpaceArray) -> SpaceArray:
        return self._policy(obs)

    async def act(self, request: Request) -> Response:
        try:
            self._authorise(request)
            body = await self._body(request)
            return await self._answer(request, body)
        except _RefusalError as refusal:
            return refusal.response
        except ShapeError as error:
            return JSONResponse({"error": error.args[0], "hint": error.hint}, 400)
        except OverloadedError as error:
            return JSONResponse(
                {"error": error.args[0], "hint": error.hint}, 429, {"retry-after": "1"}
            )
        except DeadlineError as error:
            return JSONResponse({"error": error.args[0], "hint": error.hint}, 504)
        except ClientDisconnect:
            return Response(status_code=499)

    async def policy(self, request: Request) -> Response:
        try:
            self._authorise(request)
        except _RefusalError as refusal:
            return refusal.response
        return JSONResponse(
            {
                "observation_space": spaces.to_json(self._policy.observation_space),
                "action_space": spaces.to_json(self._policy.action_space),
                "info": asdict(self._policy.info),
                "batch_limit": self.batcher.limit_rows,
                "batches": self.batcher.batches,
                "observations": self.batcher.rows_served,
            }
        )

    async def alive(self, request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    def _authorise(self, request: Request) -> None:
        token = self._config.token
        if token is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise _RefusalError(
                401, "the token is missing or wrong", "Authorization: Bearer <token>"
            )

    async def _body(self, request: Request) -> bytes:
        """Reads the body, never more than is allowed: an announced length may be a lie."""
        limit = self._config.body_bytes_max
        chunks: list[bytes] = []
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _RefusalError(413, f"the body is longer than {limit} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    async def _answer(self, request: Request, body: bytes) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == wire.RAW:
            obs: npt.ArrayLike = wire.decode_raw(body, request.headers)
        elif kind == wire.JSON:
            obs = wire.decode_json(body)
        else:
            raise _RefusalError(415, f"content-type is {kind!r}", f"{wire.JSON} or {wire.RAW}")
        batch, single = spaces.as_batch(self._policy.observation_space, obs)
        if len(batch) == 0:
            raise ShapeError("the batch is empty")
        actions = await self.batcher.submit(batch, deadline_s=_deadline_s(request))
        chosen = np.asarray(actions[0]) if single else actions
        version = self._policy.info.version
        if kind == wire.JSON:
            return JSONResponse({"action": chosen.tolist(), "version": version})
        content, headers = wire.encode_raw(chosen)
        return Response(content, headers={**headers, wire.VERSION_HEADER: str(version)})


def make_app(policy: Policy, config: ServeConfig) -> Starlette:
    """Makes the ASGI application; any ASGI server may run it."""
    handlers = _Handlers(policy, config)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await handlers.batcher.close()

    return Starlette(
        routes=[
            Route("/v1/act", handlers.act, methods=["POST"]),
            Route("/v1/policy", handlers.policy, methods=["GET"]),
            Route("/livez", handlers.alive, methods=["GET"]),
            Route("/readyz", handlers.alive, methods=["GET"]),
        ],
        lifespan=lifespan,
    )


class _Server(uvicorn.Server):
    """Uvicorn's server, saying when it accepts, and leaving signals to whoever owns the process."""

    on_started: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.on_started is not None:
            self.on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Uvicorn raises a captured SIGTERM again at its end: a clean stop would look like death.
        yield


class PolicyServer:
    """One policy on one socket. As a context manager it serves from a thread of this process.

    The socket is bound at once, so that a port in use is an error here and not a log line later.

    Args:
        policy: What to serve.
        config: Settings.

    Raises:
        PortUnavailableError: The address is taken or not this machine's.
    """

    def __init__(self, policy: Policy, config: ServeConfig) -> None:
        self._socket = _bind(config.host, config.port)
        self.host = config.host
        self.port = int(self._socket.getsockname()[1])
        self._server = _Server(
            uvicorn.Config(
                make_app(policy, config),
                log_config=None,
                access_log=False,
                lifespan="on",
                ws="none",
                limit_concurrency=config.connections_max,
                # Requests under way get this long after SIGTERM; then their connections are cut.
                timeout_graceful_shutdown=int(STOP_TIMEOUT_S),
            )
        )
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def run(self, *, started: Callable[[], None] | None = None) -> None:
        """Serves until SIGTERM or SIGINT, finishes the requests under way, and returns.

        Call it in the main thread, which alone may handle signals.

        Args:
            started: Called once, when connections are accepted.
        """

        def stop(number: int, frame: FrameType | None) -> None:
            self._server.should_exit = True

        previous = {
            number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            asyncio.run(self._serve(started))
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready.set)), name="rostral-rl-serve", daemon=True
        )
        self._thread.start()
        if not ready.wait(START_TIMEOUT_S):
            self.close()
            raise ServerError(
                f"the server at {self.url} did not start within {START_TIMEOUT_S:g} s"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops serving; waits for the requests under way. May be called twice."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S + 5.0)
            self._thread = None
        self._socket.close()

    async def _serve(self, started: Callable[[], None] | None) -> None:
        self._server.on_started = started
        await self._server.serve([self._socket])


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PortUnavailableError(f"cannot listen on {host}: {error}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise PortUnavailableError(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}",
            hint="port 0 takes a free one",
        ) from error
    return sock


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _deadline_s(request: Request) -> float | None:
    text = request.headers.get("x-deadline-ms")
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1e6:
        raise _RefusalError(400, f"x-deadline-ms is {text!r}", "milliseconds, > 0")
    return value / 1e3
