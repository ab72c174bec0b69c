"""The side that listens: who may connect, and whose calls go to which method.

This file owns the listening socket and the bounds on who connects. What one connection does is in
``session.py``. A service is a table of methods, each a function of what its caller sent::

    server = FrameServer(
        "my.service.v1",
        {1: Method(name="Add", parse=Sum.decode, run=add, pack=bytes, need=Need(Scope.DRIVER))},
        tokens=tokens,
        tls=TlsFiles(),
    )
    port = await server.start("127.0.0.1", 0)

Methods raise ``GcsError`` for what they refuse; their caller gets the same error. A token that is
taken out of its file is refused on open connections too, within a second or two.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rostral_gcs.credentials import TlsFiles, check_bind
from rostral_gcs.errors import ConfigError, PortInUseError
from rostral_gcs.frames.session import Session
from rostral_gcs.needs import Need
from rostral_gcs.tls import TlsContexts
from rostral_gcs.tokens import Scope, Tokens

__all__ = ["FrameLimits", "FrameServer", "Method"]

logger = logging.getLogger("rostral.gcs.frames")

_BACKLOG: Final = 512
_ACCEPT_PAUSE_S: Final = 0.05
# A stranger must not be able to fill the disk with our log.
_LOG_INTERVAL_S: Final = 1.0

_NODE: Final = Need(Scope.NODE)

Observe = Callable[[str, float, bool], None]
"""Told of each call that was answered once: the method, how many seconds, whether it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of a service; it has ``run``, or ``stream``.

    Attributes:
        name: For messages and counts.
        parse: Makes a request of a call's body; may raise ValueError, or a GcsError.
        pack: Makes a body of a reply.
        run: Answers a request once. It may be cancelled, when its caller gives up.
        stream: Answers with any number of replies, until the caller wants no more.
        need: What a token must be good for. A node's by default: closed until it is thought of.
    """

    name: str
    parse: Callable[[bytes], Any]
    pack: Callable[[Any], bytes]
    run: Callable[[Any], Awaitable[Any]] | None = None
    stream: Callable[[Any], AsyncGenerator[Any, None]] | None = None
    need: Need = _NODE


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLimits:
    """Bounds of one server.

    Attributes:
        size_max: Longest body in bytes, either way.
        connections_max: Open at once; beyond it, new ones are closed.
        calls_max: Under way at once on one connection; beyond it, RESOURCE_EXHAUSTED.
        greeting_timeout_s: How long TLS, and then the greeting, may take.
        idle_timeout_s: A connection from which nothing came for so long is closed, in the middle of
            a frame or not. Well above the interval at which callers say that they are there.
    """

    size_max: int = 64 * 1024 * 1024
    connections_max: int = 20_000
    calls_max: int = 4096
    greeting_timeout_s: float = 5.0
    idle_timeout_s: float = 30.0


class FrameServer:
    """A service at a port. Started, used and stopped on one event loop.

    Args:
        service: Its name; callers that want another are refused.
        methods: By number.
        tokens: The cluster's.
        tls: With its CA, every caller must show a certificate.
        limits: Bounds.
        observe: Told of each call.

    Attributes:
        refused: Connections and calls that were refused for their token so far.
    """

    def __init__(
        self,
        service: str,
        methods: Mapping[int, Method],
        *,
        tokens: str | Tokens,
        tls: TlsFiles,
        limits: FrameLimits | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.service = service
        self.methods = methods
        self.tokens = Tokens.of(tokens)
        self.limits = limits or FrameLimits()
        self.observe = observe
        self.refused = 0
        self.sessions: set[Session] = set()
        self._files = tls
        self._tls: TlsContexts | None = None
        self._joining: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None
        self._logged_at_s = -_LOG_INTERVAL_S

    async def start(self, host: str, port: int, *, insecure: bool = False) -> int:
        """Listens, and returns the bound port.

        Args:
            host: An address of this machine.
            port: 0: any free one.
            insecure: Allows more than loopback without TLS.

        Raises:
            InsecureBindError: More than loopback without TLS, and not asked for outright.
            PortInUseError: Another process listens there.
            ConfigError: The address is not ours, or the TLS files cannot be used.
            TokenFileError: The key's file is not ours alone.
        """
        check_bind(host, self._files, insecure=insecure)
        self._tls = TlsContexts(self._files)
        self._listener = _listen(host, port)
        self._accepting = asyncio.create_task(self._accept(self._listener), name="frames-accept")
        return int(self._listener.getsockname()[1])

    async def stop(self, grace_s: float = 0.0) -> None:
        """Stops listening, ends streams, lets calls end, closes. May be called twice."""
        if self._accepting is None:
            return
        self._accepting.cancel()
        for task in self._joining:
            task.cancel()
        await asyncio.gather(self._accepting, *self._joining, return_exceptions=True)
        self._accepting = None
        assert self._listener is not None
        self._listener.close()
        sessions = list(self.sessions)
        for session in sessions:
            session.end_streams()
        under_way = [task for session in sessions for task in session.tasks]
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=grace_s or None)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        for session in sessions:
            session.close()

    def count_refusal(self, peer: str) -> None:
        """Notes that somebody was refused for the token."""
        self.refused += 1
        now_s = time.monotonic()
        if now_s - self._logged_at_s >= _LOG_INTERVAL_S:
            self._logged_at_s = now_s
            logger.warning("refused for its token peer=%s refused=%s", peer, self.refused)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors, or the peer has gone: the next one may fare better.
                logger.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            if len(self.sessions) + len(self._joining) >= self.limits.connections_max:
                accepted.close()
                continue
            task = loop.create_task(self._join(accepted, f"{address[0]}:{address[1]}"))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)

    async def _join(self, accepted: socket.socket, peer: str) -> None:
        """Makes a session of a connection, once TLS is through."""
        assert self._tls is not None
        context = self._tls.server()
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: Session(self, peer),
                accepted,
                ssl=context,
                ssl_handshake_timeout=None if context is None else self.limits.greeting_timeout_s,
            )
        except OSError as error:
            # Certificates that are not the cluster's end here, and so do callers without TLS.
            accepted.close()
            logger.debug("a connection came to nothing peer=%s error=%s", peer, error)
        except BaseException:
            accepted.close()
            raise


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(
                    f"port {port} on {host} is in use by another process",
                    hint="stop that process, or choose another port; 0 takes any free one",
                    port=port,
                ) from error
            raise ConfigError(
                f"cannot listen on {host}, port {port}: {error.strerror}",
                hint="bind to an address of this machine and a port you may use",
            ) from error
        listener.setblocking(False)
        undo.pop_all()
    return listener
