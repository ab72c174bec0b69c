"""The daemons' end of the control socket: listens, turns strangers away, answers and pushes.

What travels is described in control.py. Nothing of it is decoded before the peer is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from rostral_gcs.errors import RostralError
from rostral_objectstore.control import (
    FRAME_BYTES_MAX,
    LENGTH,
    MAGIC,
    PREAMBLE,
    PROTOCOL_VERSION,
    Body,
    encode_error,
    frame,
)
from rostral_objectstore.errors import ProtocolError, StoreUnavailableError

logger = logging.getLogger("rostral.objectstore.control")

HANDSHAKE_TIMEOUT_S = 5.0
SOCKET_PATH_BYTES_MAX = 107
PUSHES_QUEUED_MAX = 10_000
# Most requests come whole in one call.
READ_BYTES = 4096
PEER_CREDENTIALS = struct.Struct("3i")


class Handler(Protocol):
    """What a daemon does with the requests that come in on its socket."""

    async def handle(self, session: Session, method: str, body: Body) -> Body:
        """Answers one request. A RostralError goes back to the caller as such."""

    def disconnected(self, session: Session) -> None:
        """The peer is gone: it closed the connection, or died."""


class Session:
    """One connected peer, as the daemon sees it."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.state: dict[str, Any] = {}
        self.pushes_dropped = 0
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[tuple[bytes, tuple[int, ...]]] = asyncio.Queue(
            PUSHES_QUEUED_MAX
        )
        # A frame has left the queue, and not yet all of it this process.
        self._is_sending = False

    def push(self, topic: str, body: Body) -> None:
        """Sends a one-way message. Never blocks: with too many waiting, drops and counts it."""
        try:
            self._outgoing.put_nowait((frame([0, topic, body]), ()))
        except asyncio.QueueFull:
            self.pushes_dropped += 1

    async def reply(self, request: int, body: Body, *, ok: bool) -> None:
        """Answers one request; descriptors in ``_fds`` ride along."""
        fds = tuple(body.pop("_fds", ()))
        data = frame([request, ok, body])
        if not fds and self._outgoing.empty() and not self._is_sending:
            # Nearly always: no turn of the loop is spent on it.
            data = data[self._send_now(data) :]
        if data:
            await self._outgoing.put((data, fds))

    def _send_now(self, data: bytes) -> int:
        """How many bytes the socket takes at once; all if the peer is gone, as reading tells."""
        try:
            return self._connection.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)

    async def send_outgoing(self) -> None:
        """Writes what is queued, until cancelled."""
        while True:
            self._is_sending = False
            frame, fds = await self._outgoing.get()
            self._is_sending = True
            if fds:
                # The descriptors ride on the first byte; the rest follows as usual.
                socket.send_fds(self._connection, [frame[:1]], list(fds))
                frame = frame[1:]
            await self._loop.sock_sendall(self._connection, frame)

    def close(self) -> None:
        """Ends the conversation; ``disconnected`` follows."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


def _listen(path: str, *, for_group: bool) -> socket.socket:
    """A listening socket at the path; one that a dead daemon left there is replaced."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise StoreUnavailableError(
            f"the socket path {path} is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a Unix "
            "socket allows",
            hint="choose a shorter directory",
        )
    if _answers(path):
        raise StoreUnavailableError(
            f"another daemon listens at {path}", hint="stop it, or choose another socket path"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if Path(path).is_socket():
            Path(path).unlink()
        # The mode of the unbound socket becomes that of the file: at no moment is it wider.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        if for_group:
            os.chmod(path, 0o660)
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise StoreUnavailableError(
            f"cannot listen at {path}: {error.strerror}",
            hint="the directory must exist and be ours, and the path must be free",
        ) from error
    return listener


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(path) == 0


class ControlServer:
    """Listens on a Unix socket of mode 0600 and answers the peers of the same user.

    Args:
        path: where the socket lies; a stale one that nobody listens on is replaced.
        handler: answers the requests.
        worker_uid: another user who is answered too, one of our group; the mode is 0660 then.
    """

    def __init__(self, path: str, handler: Handler, *, worker_uid: int | None = None) -> None:
        self.path = path
        self._handler = handler
        self._worker_uid = worker_uid
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens from here on. Raises StoreUnavailableError when the path cannot be used."""
        self._listener = _listen(self.path, for_group=self._worker_uid is not None)
        self._spawn(self._accept(self._listener))

    async def stop(self) -> None:
        """Closes every connection and removes the socket."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            _remove(self.path)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                logger.warning("cannot accept error=%s", error)
                await asyncio.sleep(0.1)
                continue
            self._spawn(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            credentials = connection.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size
            )
            pid, uid, _ = PEER_CREDENTIALS.unpack(credentials)
            if uid not in (0, os.getuid(), self._worker_uid):
                logger.warning("refused a peer of another user pid=%s uid=%s", pid, uid)
                return
            connection.setblocking(False)
            session = Session(connection, pid)
            incoming = _Incoming(connection)
            try:
                async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                    magic, version, _ = PREAMBLE.unpack(await incoming.exactly(PREAMBLE.size))
            except (TimeoutError, EOFError, OSError):
                return
            if magic != MAGIC or version != PROTOCOL_VERSION:
                logger.warning("refused a peer of another protocol pid=%s version=%s", pid, version)
                return
            async with contextlib.AsyncExitStack() as ending:
                ending.callback(self._handler.disconnected, session)
                ending.enter_context(_watch_death(session))
                sender = asyncio.get_running_loop().create_task(session.send_outgoing())
                ending.push_async_callback(_end, sender)
                await self._converse(incoming, session)

    async def _converse(self, incoming: _Incoming, session: Session) -> None:
        """Answers one request after the other: a peer sees the effects of its calls in order."""
        while True:
            try:
                (length,) = LENGTH.unpack(await incoming.exactly(LENGTH.size))
                if length > FRAME_BYTES_MAX:
                    logger.warning("refused a frame of %s bytes pid=%s", length, session.pid)
                    return
                message = msgspec.msgpack.decode(await incoming.exactly(length))
                request, method, body = message
            except (EOFError, OSError):
                return
            except (msgspec.DecodeError, ValueError, TypeError, RecursionError):
                logger.warning("refused a frame that is no message pid=%s", session.pid)
                return
            ok, answer = await self._answer(session, method, body)
            if request:
                await session.reply(request, answer, ok=ok)

    async def _answer(self, session: Session, method: str, body: Body) -> tuple[bool, Body]:
        try:
            return True, await self._handler.handle(session, method, body)
        except RostralError as error:
            return False, encode_error(error)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            logger.exception("request failed method=%s pid=%s", method, session.pid)
            wrong = ProtocolError(
                f"{str(method)[:80]}: the request's body is wrong ({type(error).__name__}: {error})"
            )
            return False, encode_error(wrong)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextlib.contextmanager
def _watch_death(session: Session) -> Iterator[None]:
    """Closes the session when its process ends, whoever has inherited the connection from it."""
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(session.pid)
    except OSError:  # it is gone already, or lives in another pid namespace
        yield
        return
    loop.add_reader(fd, session.close)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        os.close(fd)


class _Incoming:
    """What comes in on a connection, in pieces of the size that is asked for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._loop = connection, asyncio.get_running_loop()
        self._received = bytearray()

    async def exactly(self, size: int) -> bytes:
        """So many bytes, or EOFError."""
        received = self._received
        while len(received) < size:
            part = await self._loop.sock_recv(
                self._connection, min(max(size - len(received), READ_BYTES), 1 << 20)
            )
            if not part:
                raise EOFError
            received += part
        piece = bytes(received[:size])
        del received[:size]
        return piece
