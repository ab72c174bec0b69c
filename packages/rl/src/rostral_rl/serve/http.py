"""The policy server: one engine behind a socket, run by Uvicorn, from its start to its end.

Listens on loopback unless told otherwise, and elsewhere only with a token and TLS. What it answers
is in `rostral_rl.serve.http_app`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from rostral.services import ConfigError, following_context, is_loopback
from rostral_rl.errors import (
    MissingExtraError,
    PortUnavailableError,
    ServerError,
)
from rostral_rl.serve.access import Access
from rostral_rl.serve.config import ServeConfig
from rostral_rl.serve.engine import Engine
from rostral_rl.serve.http_app import PolicyApp
from rostral_rl.serve.metrics import exposition
from rostral_rl.serve.names import DEFAULT_MODEL
from rostral_rl.serve.servable import AnyServable

try:
    import uvicorn

    from rostral_rl.serve.http_protocol import PolicyProtocol
except ImportError as error:
    raise MissingExtraError(
        f"serving over HTTP needs {error.name}", hint="pip install 'rostral-rl[serve]'"
    ) from error


logger = logging.getLogger("rostral.rl.serve")

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


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
    """Policies on one socket. As a context manager it serves from a thread of this process.

    The socket is bound at once, so that a port in use is an error here and not a log line later;
    but nobody is answered before all policies have acted once.

    Args:
        policies: What to serve: one, or several by name.
        config: Settings.
        listener: Listens at the address of the settings already, and is the server's from here on;
            by default it binds one itself. Who else holds it keeps clients waiting between servers.

    Raises:
        ModelRejectedError: A policy failed at its first observation.
        PortUnavailableError: The address is taken or not this machine's.
        ConfigError, TokenFileError: Of `rostral.exceptions`: the TLS files cannot be used, or the
            listener is at another address.
    """

    def __init__(
        self,
        policies: AnyServable | Mapping[str, AnyServable],
        config: ServeConfig,
        *,
        listener: socket.socket | None = None,
    ) -> None:
        if listener is not None:
            _check_listener(listener, config)
        encrypted = following_context(config.tls)
        self._scheme = "http" if encrypted is None else "https"
        models = policies if isinstance(policies, Mapping) else {DEFAULT_MODEL: policies}
        #: What answers; `engine.swap` replaces weights while it does.
        self.engine = Engine(models, config.engine)
        if encrypted is None and not is_loopback(config.host):
            logger.warning("listening at %s without TLS, as --insecure asks", config.host)
        self._socket = _bind(config.host, config.port) if listener is None else listener
        self.host = config.host
        self.port = int(self._socket.getsockname()[1])
        self._config = config
        #: Port of gRPC; -1 where there is none.
        try:
            self.grpc_port = _free_port(config.host, config.grpc_port)
        except Exception:
            self._socket.close()
            raise
        self._access = Access(config.token)
        app = PolicyApp(
            self.engine,
            access=self._access,
            hosts=_hosts(config),
            body_bytes_max=config.body_bytes_max,
            metrics=exposition(self.engine, self._access),
        )
        self._server = _Server(_of_uvicorn(app, config, encrypted))
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

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
            _settle()
            self._run(started)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    async def serve_until(
        self, stopping: asyncio.Event, *, started: Callable[[], None] | None = None
    ) -> None:
        """Serves on the running event loop until the event is set, and leaves signals alone.

        Args:
            stopping: Once it is set, requests under way are finished.
            started: Called once, when connections are accepted.
        """
        _settle()
        serving = asyncio.create_task(self._serve(started))
        told = asyncio.create_task(stopping.wait())
        await asyncio.wait({serving, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        self._server.should_exit = True
        await serving

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: self._run(ready.set), name="rostral-rl-serve", daemon=True
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

    def swap(
        self, policy: AnyServable, *, model: str = DEFAULT_MODEL, version: int | None = None
    ) -> int:
        """Serves other weights from the next batch on, from any thread; see `Engine.swap`."""
        return self.engine.swap(policy, model=model, version=version)

    def _run(self, started: Callable[[], None] | None) -> None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(self._serve(started))

    async def _serve(self, started: Callable[[], None] | None) -> None:
        self._server.on_started = started
        if self.grpc_port < 0:
            await self._server.serve([self._socket])
            return
        from rostral_rl.serve.grpc import GrpcFront

        front = GrpcFront(
            self.engine,
            host=self.host,
            port=self.grpc_port,
            access=self._access,
            tls=self._config.tls,
            body_bytes_max=self._config.body_bytes_max,
        )
        await front.start()
        try:
            await self._server.serve([self._socket])
        finally:
            await front.stop(STOP_TIMEOUT_S)


def _of_uvicorn(
    app: PolicyApp, config: ServeConfig, encrypted: ssl.SSLContext | None
) -> uvicorn.Config:
    made = uvicorn.Config(
        app,
        http=PolicyProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        limit_concurrency=config.connections_max,
        # Requests under way get this long after SIGTERM; then their connections are cut.
        timeout_graceful_shutdown=int(STOP_TIMEOUT_S),
    )
    # Uvicorn would make a context of its own, of files that it reads once.
    made.load()
    made.ssl = encrypted
    return made


def _free_port(host: str, port: int) -> int:
    """The port that gRPC shall bind by itself; -1 for none.

    Raises:
        PortUnavailableError: It is taken.
        MissingExtraError: The `grpc` extra is not installed.
    """
    if port < 0:
        return port
    try:
        import rostral_rl.serve.grpc  # noqa: F401 - whether it is there
    except ImportError as error:
        raise MissingExtraError(
            f"serving over gRPC needs {error.name}", hint="pip install 'rostral-rl[grpc]'"
        ) from error
    with _bind(host, port) as probe:
        return int(probe.getsockname()[1])


def _settle() -> None:
    # Modules and weights are here to stay: looking through them again and again made the slowest
    # hundredth of requests twice as slow.
    gc.collect()
    gc.freeze()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed: it answers a sixth more requests from the same core."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _hosts(config: ServeConfig) -> tuple[str, ...]:
    if config.hosts or not is_loopback(config.host):
        return config.hosts
    return ("127.0.0.1", "localhost", "[::1]", config.host)


def _check_listener(listener: socket.socket, config: ServeConfig) -> None:
    """The settings say what may be asked at their address, and so it must be that.

    Raises:
        ConfigError: It is another.
    """
    found = listener.getsockname()[:2] if listener.family != socket.AF_UNIX else ()
    if found == (config.host, config.port):
        return
    at = "{}:{}".format(*found) if found else "a Unix socket"
    problem = f"port is {config.port} and host {config.host}, but the socket unit listens at {at}"
    raise ConfigError(problem, hint="make host and port those of ListenStream=", problems=[problem])


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
