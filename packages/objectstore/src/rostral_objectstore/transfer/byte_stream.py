"""The asker's side of byte streams: a connection that brings one range after the other.

Bytes come over a socket of their own, with TLS on it if the cluster has it: measured on two cores,
a range costs half of the processor's time that it takes over gRPC, and the next range on an open
connection needs no new call. Nothing that comes is believed before it is checked (chunk_stream.py).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator

from rostral_objectstore.errors import SourceBusyError, SourceUnavailableError
from rostral_objectstore.transfer.byte_frames import Door, decode_refusal, refused_text_bytes
from rostral_objectstore.transfer.chunk_stream import Chunk
from rostral_objectstore.transfer.messages import (
    CHUNK_BYTES,
    HEADER_BYTES,
    Ticket,
    check_place,
    decode_header,
)


class ByteConnection:
    """One connection to a holder; carries one range at a time.

    Args:
        host: of the holder.
        door: as the holder has told it.
        tls: what to encrypt with; None: plain, which the settings allow on loopback alone.
        timeout_s: for connecting.

    Raises: OSError.
    """

    def __init__(
        self, host: str, door: Door, tls: ssl.SSLContext | None, *, timeout_s: float
    ) -> None:
        self.socket = socket.create_connection((host, door.port), timeout_s)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname=host)
            self.socket.sendall(door.hello())
            # From here on whoever watches the download ends what stalls.
            self.socket.settimeout(None)
        except BaseException:
            self.socket.close()
            raise
        self.buffer = memoryview(bytearray(CHUNK_BYTES))
        self.was_used = False

    def ask(self, ticket: Ticket) -> ByteStream:
        """Begins the next range, of at least 1 byte. Raises OSError."""
        return ByteStream(self, ticket)

    def is_open(self) -> bool:
        """Whether an unused connection can carry a range: a holder that is gone has closed it.

        Under TLS that shows at the next ticket only.
        """
        if isinstance(self.socket, ssl.SSLSocket):
            return True
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # closed, or something came that nobody has asked for

    def close(self) -> None:
        """Ends it. Idempotent."""
        self.socket.close()


class ByteStream:
    """The answer to one ticket. What `chunks` yields lies in a buffer that the next one reuses."""

    def __init__(self, connection: ByteConnection, ticket: Ticket) -> None:
        self._connection, self._ticket = connection, ticket
        self._is_first, connection.was_used = not connection.was_used, True
        try:
            connection.socket.sendall(ticket.encode())
        except OSError as error:
            raise (error if self._is_first else _closed_meanwhile()) from error

    def cancel(self) -> None:
        """Ends it, from any thread; who reads it gets an error."""
        with contextlib.suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)

    def chunks(self) -> Iterator[Chunk]:
        """All chunks that the ticket asked for, in order.

        Raises: ChunkInvalidError, OSError, and what the holder answers.
        """
        offset, stop = self._ticket.offset, self._ticket.offset + self._ticket.length
        header_bytes = memoryview(bytearray(HEADER_BYTES))
        while offset < stop:
            self._receive(header_bytes, began=offset > self._ticket.offset)
            text_bytes = refused_text_bytes(header_bytes)
            if text_bytes is not None:
                text = memoryview(bytearray(text_bytes))
                self._receive(text, began=True)
                raise decode_refusal(bytes(header_bytes), bytes(text))
            header = decode_header(bytes(header_bytes))
            size = min(CHUNK_BYTES, stop - offset)
            check_place(header, self._ticket, offset, stop, size)
            data = self._connection.buffer[:size]
            self._receive(data, began=True)
            yield Chunk(header, data)
            offset += size

    def _receive(self, target: memoryview, *, began: bool) -> None:
        peer = self._connection.socket
        received = 0
        flags = 0 if isinstance(peer, ssl.SSLSocket) else socket.MSG_WAITALL
        while received < len(target):
            try:
                count = peer.recv_into(target[received:], 0, flags)
            except ConnectionResetError:
                count = 0
            if count == 0:
                if not (began or received or self._is_first):
                    raise _closed_meanwhile()
                raise SourceUnavailableError("the connection was closed before its time")
            received += count


def _closed_meanwhile() -> SourceBusyError:
    # A holder closes what was unused for long, which may cross with a ticket: to be asked again.
    return SourceBusyError("it has closed a connection that was to be used again")
