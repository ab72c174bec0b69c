"""The holder's side of byte streams: sends ranges over connections of its own.

Owns the listening socket and a thread for each connection. Who may connect was decided by Flight,
which told the key; what may be asked for is decided by ranges.py. Bytes go from the store's memory
to the socket.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import secrets
import socket
import ssl
import threading
from typing import Any

from rostral_gcs.errors import PortInUseError, RostralError
from rostral_gcs.tls import server_context
from rostral_objectstore.transfer.byte_frames import (
    HELLO_BYTES,
    KEY_BYTES,
    Door,
    encode_refusal,
    key_of,
)
from rostral_objectstore.transfer.config import TransferServerConfig
from rostral_objectstore.transfer.credentials import split_address
from rostral_objectstore.transfer.messages import TICKET_BYTES
from rostral_objectstore.transfer.ranges import Ranges

logger = logging.getLogger("rostral.objectstore.transfer")

_BACKLOG = 128


class ByteServer:
    """Serves from its making until `close`, at a port of its own beside Flight's.

    Raises: ConfigError, TokenFileError, PortInUseError.
    """

    def __init__(self, ranges: Ranges, config: TransferServerConfig) -> None:
        self._ranges, self._config = ranges, config
        self._tls = server_context(config.credentials)
        self._key = secrets.token_bytes(KEY_BYTES)
        host, _ = split_address(config.address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server(
                (host, config.bytes_port), family=family, backlog=_BACKLOG
            )
        except OSError as error:
            raise PortInUseError(
                f"cannot listen for byte streams at {host}, port {config.bytes_port}: {error}",
                hint="choose another bytes_port, or stop who listens there",
            ) from error
        self.door = Door(self._listener.getsockname()[1], self._key)
        self.refused = 0
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._closed = False
        self._accepting = threading.Thread(
            target=self._accept, name="rostral-bytes-accept", daemon=True
        )
        self._accepting.start()

    @property
    def connection_count(self) -> int:
        """Connections of now, used or not."""
        with self._lock:
            return len(self._connections)

    def close(self) -> None:
        """Stops listening and ends every connection. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            connections = dict(self._connections)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for connection, thread in connections.items():
            _cut(connection)
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError as error:
                if self._closed:
                    return
                # Out of descriptors, or the peer has gone: the next one may fare better.
                logger.warning("a connection could not be accepted: %s", error)
                threading.Event().wait(0.05)
                continue
            thread = threading.Thread(
                target=self._serve, args=(connection, peer), name="rostral-bytes", daemon=True
            )
            with self._lock:
                if self._closed or len(self._connections) >= self._config.connections_max:
                    connection.close()
                    continue
                self._connections[connection] = thread
            thread.start()

    def _serve(self, accepted: socket.socket, peer: tuple[Any, ...]) -> None:
        connection = accepted
        try:
            connection.settimeout(self._config.handshake_timeout_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(
                    accepted, server_side=True, do_handshake_on_connect=False
                )
                with self._lock:
                    # Its file descriptor is the new one's from here on.
                    self._connections[connection] = self._connections.pop(accepted)
                    if self._closed:
                        return
                connection.do_handshake()
            if self._is_welcome(connection, peer):
                self._answer_all(connection, f"{peer[0]}:{peer[1]}")
        except OSError as error:
            logger.debug("a byte stream ended peer=%s error=%s", peer[0], error)
        except Exception:
            logger.exception("a byte stream failed peer=%s", peer[0])
        finally:
            connection.close()
            with self._lock:
                self._connections.pop(connection, None)

    def _is_welcome(self, connection: socket.socket, peer: tuple[Any, ...]) -> bool:
        hello = _receive(connection, HELLO_BYTES)
        shown = key_of(hello) if hello is not None else None
        if shown is not None and hmac.compare_digest(shown, self._key):
            return True
        with self._lock:
            self.refused += 1
        logger.warning("a byte stream without the key was refused peer=%s", peer[0])
        return False

    def _answer_all(self, connection: socket.socket, peer: str) -> None:
        while True:
            connection.settimeout(self._config.idle_timeout_s)
            ticket = _receive(connection, TICKET_BYTES)
            if ticket is None:
                return
            # Who takes nothing is found by the streams' watch, which cuts the connection.
            connection.settimeout(None)
            self._answer(connection, ticket, peer)

    def _answer(self, connection: socket.socket, ticket: bytes, peer: str) -> None:
        # Nothing of it outlives the call: a view of an object keeps it in memory.
        try:
            for header, data in self._ranges.answer(ticket, peer, lambda: _cut(connection)):
                _send(connection, header.encode(), memoryview(data))
        except RostralError as error:
            connection.sendall(encode_refusal(error))


def _receive(connection: socket.socket, size: int) -> bytes | None:
    """So many bytes; None if the peer has ended the connection."""
    received = bytearray()
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            return None
        received += part
    return bytes(received)


def _send(connection: socket.socket, header: bytes, data: memoryview) -> None:
    if isinstance(connection, ssl.SSLSocket):
        connection.sendall(header)
        connection.sendall(data)
        return
    sent = connection.sendmsg([header, data]) - len(header)
    if sent < 0:
        connection.sendall(header[sent:])
    connection.sendall(data[max(0, sent) :])


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
