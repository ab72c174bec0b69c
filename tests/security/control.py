"""The control socket as an attacker of the same user speaks it: bytes, and not our client."""

from __future__ import annotations

import socket
import struct
import time
from types import TracebackType
from typing import Any, Self

import msgspec

from rostral_objectstore.control import MAGIC, PROTOCOL_VERSION

GREETING = struct.pack("<8sII", MAGIC, PROTOCOL_VERSION, 0)
TIMEOUT_S = 20.0


def frame(payload: bytes) -> bytes:
    """The payload with its length."""
    return struct.pack("<I", len(payload)) + payload


def _connect(connection: socket.socket, path: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return connection.connect(path)
        except BlockingIOError:  # So many wait already.
            assert time.monotonic() < deadline, f"{path} takes nobody in"
            time.sleep(0.001)


class Peer:
    """A connection to a daemon's control socket."""

    def __init__(self, path: str, *, greeting: bytes = GREETING) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        _connect(self.socket, path)
        self.send(greeting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Whether the daemon still took it."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def call(self, method: object, body: object) -> Any:
        """What the daemon answers to a request; None if it closes the connection instead."""
        if not self.send(frame(msgspec.msgpack.encode([1, method, body]))):
            return None
        while (answer := self.receive()) is not None:
            if answer[0] == 1:
                return answer
        return None

    def receive(self) -> Any:
        """The next message; None at the end."""
        head = self._exactly(4)
        if head is None:
            return None
        data = self._exactly(int.from_bytes(head, "little"))
        return None if data is None else msgspec.msgpack.decode(data)

    def is_closed(self) -> bool:
        """Whether the daemon ends the connection without a word."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                part = self.socket.recv(size - len(data))
            except ConnectionResetError:
                return None
            if not part:
                return None
            data += part
        return data
