"""The control socket: how the processes of one node ask their daemons for something.

Owns the framing, the check of who is calling, and both ends of the conversation. It carries
decisions and not data: what is exchanged between processes in numbers lies in the shared segment.
The store daemon and the local scheduler each listen on one such socket.

On connecting, the client sends 16 bytes (magic, protocol version, zero); a peer of another user,
another protocol or no protocol is turned away before anything of it is decoded. Then both sides
send frames: a length of 4 bytes and a MessagePack array, ``[request, method, body]`` upwards,
``[request, ok, body]`` downwards; request 0 is one-way. Errors of ours travel by class name and are
raised as the same class on the other side; nothing is ever unpickled here.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import msgspec

from rostral_gcs.errors import RostralError
from rostral_objectstore.errors import ProtocolError, StoreUnavailableError

logger = logging.getLogger("rostral.objectstore.control")

Body = dict[str, Any]

PREAMBLE = struct.Struct("<8sII")
MAGIC = b"ROSTRAL\0"
PROTOCOL_VERSION = 1
LENGTH = struct.Struct("<I")
FRAME_BYTES_MAX = 64 << 20
_QUEUE_FULL_PAUSE_S = 0.002


def encode_error(error: Exception) -> Body:
    """An error as it travels: class, attributes, text."""
    if not isinstance(error, RostralError):
        return {"module": "", "name": type(error).__name__, "message": str(error), "state": {}}
    state = {
        k: v
        for k, v in vars(error).items()
        if isinstance(v, str | bytes | int | float | bool | None)
    }
    return {
        "module": type(error).__module__,
        "name": type(error).__qualname__,
        "message": getattr(error, "message", str(error)),
        "state": state,
    }


def decode_error(body: Body) -> Exception:
    """The error that the other side raised; of an unknown class, a ProtocolError that says so."""
    module, name = str(body["module"]), str(body["name"])
    if module.startswith("rostral"):
        with contextlib.suppress(ImportError, AttributeError):
            cls = getattr(importlib.import_module(module), name)
            if isinstance(cls, type) and issubclass(cls, RostralError):
                error = cls.__new__(cls)
                error.args = (body["message"],)
                vars(error).update(body["state"])
                return error
    return ProtocolError(
        f"the daemon failed with {name}: {body['message']}", hint="its log says more"
    )


def frame(message: list[Any]) -> bytes:
    """A message as it travels. Raises ProtocolError for one that is too large."""
    payload = msgspec.msgpack.encode(message)
    if len(payload) > FRAME_BYTES_MAX:
        raise ProtocolError(
            f"a message of {len(payload)} bytes is over the limit of {FRAME_BYTES_MAX}"
        )
    return LENGTH.pack(len(payload)) + payload


_clients: weakref.WeakSet[ControlClient] = weakref.WeakSet()


def _forget_in_child() -> None:
    # The child must not speak for its parent, nor keep the connection open when the parent dies.
    for client in list(_clients):
        client._closed = True
        client._connection.close()


os.register_at_fork(after_in_child=_forget_in_child)


class ControlClient:
    """The calling side. Thread-safe; one thread of its own reads what comes in.

    Args:
        path: the daemon's socket.
        timeout_s: how long connecting and, by default, a call may take.
        on_push: called on the reading thread with (topic, body) of each one-way message.
        on_close: called on the reading thread once the daemon is gone, not after ``close``.

    Raises:
        StoreUnavailableError: nothing listens there.
    """

    def __init__(
        self,
        path: str,
        *,
        timeout_s: float = 10.0,
        on_push: Callable[[str, Body], None] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self._on_push, self._on_close = on_push, on_close
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: dict[int, _Call] = {}
        self._last_request = 0
        self._closed = False
        self._pid = os.getpid()
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._connection.settimeout(timeout_s)
        try:
            self._connect(path)
            self._connection.sendall(PREAMBLE.pack(MAGIC, PROTOCOL_VERSION, 0))
        except OSError as error:
            self._connection.close()
            raise StoreUnavailableError(
                f"nothing answers at {path}: {error.strerror or error}",
                hint="is the daemon running, and ours?",
            ) from error
        self._connection.settimeout(None)
        self._reader = threading.Thread(target=self._read, name="rostral-control", daemon=True)
        self._reader.start()
        _clients.add(self)

    def _connect(self, path: str) -> None:
        deadline_s = time.monotonic() + self.timeout_s
        while True:
            try:
                return self._connection.connect(path)
            except BlockingIOError:
                # As many as may wait do so already: others came at once, or somebody attacks.
                if time.monotonic() >= deadline_s:
                    raise
                time.sleep(_QUEUE_FULL_PAUSE_S)

    def call(self, method: str, body: Body, timeout_s: float | None = None) -> Body:
        """Asks, waits for the answer. Raises what the daemon did, or StoreUnavailableError."""
        return self.call_with_fds(method, body, timeout_s)[0]

    def call_with_fds(
        self, method: str, body: Body, timeout_s: float | None = None
    ) -> tuple[Body, list[int]]:
        """``call`` for an answer that brings file descriptors; the caller owns them."""
        call = _Call()
        with self._lock:
            self._check_open()
            self._last_request += 1
            request = self._last_request
            self._waiting[request] = call
        try:
            self._write(frame([request, method, body]))
        except StoreUnavailableError:
            # Our reader meets the same end: after that, `closed` says what the error does.
            call.done.wait(self.timeout_s)
            raise
        if not call.done.wait(self.timeout_s if timeout_s is None else timeout_s):
            with self._lock:
                self._waiting.pop(request, None)
            raise StoreUnavailableError(
                f"{self.path} did not answer {method} in time",
                hint="the daemon hangs or is stopped",
            )
        if call.body is None:
            raise self._gone()
        if not call.ok:
            raise decode_error(call.body)
        return call.body, call.fds

    def send(self, method: str, body: Body) -> None:
        """Tells, and waits for nothing."""
        self._check_open()
        self._write(frame([0, method, body]))

    def close(self) -> None:
        """Ends the conversation. Idempotent; calls under way fail. Nothing in a forked child."""
        self._closed = True
        if self._pid != os.getpid():
            return
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout=5.0)
        self._connection.close()

    @property
    def closed(self) -> bool:
        """Whether the conversation is over, whichever side ended it."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed or self._pid != os.getpid():
            raise self._gone()

    def _gone(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"the connection to {self.path} is closed", hint="the daemon has stopped"
        )

    def _write(self, frame: bytes) -> None:
        try:
            with self._send_lock:
                self._connection.sendall(frame)
        except OSError as error:
            raise self._gone() from error

    def _read(self) -> None:
        fds: list[int] = []
        try:
            while True:
                (length,) = LENGTH.unpack(self._receive(LENGTH.size, fds))
                request, ok, body = msgspec.msgpack.decode(self._receive(length, fds))
                if request == 0:
                    if self._on_push is not None:
                        self._on_push(ok, body)
                    continue
                with self._lock:
                    call = self._waiting.pop(request, None)
                if call is not None:
                    call.ok, call.body, call.fds = ok, body, fds
                    fds = []
                    call.done.set()
        except (EOFError, OSError, ValueError):
            pass
        finally:
            closed_by_us, self._closed = self._closed, True
            with self._lock:
                waiting, self._waiting = self._waiting, {}
            for call in waiting.values():
                call.done.set()
            for fd in fds:
                os.close(fd)
            if not closed_by_us and self._on_close is not None:
                self._on_close()

    def _receive(self, size: int, fds: list[int]) -> bytes:
        received = bytearray()
        while len(received) < size:
            # Never more than asked for: descriptors stay with the frame that brought them.
            part, new, _, _ = socket.recv_fds(
                self._connection, size - len(received), 4, socket.MSG_CMSG_CLOEXEC
            )
            fds += new
            if not part:
                raise EOFError
            received += part
        return bytes(received)


class _Call:
    """A request under way."""

    __slots__ = ("body", "done", "fds", "ok")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.ok = False
        self.body: Body | None = None
        self.fds: list[int] = []
