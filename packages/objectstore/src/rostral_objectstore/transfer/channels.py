"""Connections to other nodes' transfer servers, kept for the next fetch.

One connection carries one range at a time: that is what makes streams parallel. Large ranges come
over byte streams; from a holder that has none that can be reached, by Flight.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from rostral_gcs.auth import bearer_metadata
from rostral_gcs.tls import client_context
from rostral_gcs.tokens import Tokens
from rostral_objectstore.transfer.byte_frames import DOOR_ACTION, Door, decode_door
from rostral_objectstore.transfer.byte_stream import ByteConnection
from rostral_objectstore.transfer.chunk_stream import Chunk, ChunkStream
from rostral_objectstore.transfer.credentials import Credentials, split_address
from rostral_objectstore.transfer.extra import flight, pa
from rostral_objectstore.transfer.messages import CHUNK_BYTES, Ticket

logger = logging.getLogger("rostral.objectstore.transfer")

# A chunk and what Arrow and gRPC wrap around it. A source that sends more is cut off by gRPC before
# the bytes are kept.
_MESSAGE_BYTES_MAX = CHUNK_BYTES + (64 << 10)


class Call(Protocol):
    """A range on its way, whatever carries it."""

    def chunks(self) -> Iterator[Chunk]:
        """Its chunks in order, each valid until the next."""

    def cancel(self) -> None:
        """Ends it, from any thread."""


class Channels:
    """Connections by address. All methods may be called from any thread.

    Raises: TokenFileError, ConfigError.
    """

    def __init__(self, credentials: Credentials, idle_max: int) -> None:
        self._secrets = credentials.load()
        self._tls = client_context(credentials)
        self._idle_max = idle_max
        self._lock = threading.Lock()
        # The longest unused first; of byte streams by address and door.
        self._idle: list[tuple[Any, Any]] = []
        # None: byte streams cannot be had there.
        self._doors: dict[str, Door | None] = {}
        self._tokens = Tokens(credentials.token_file)

    def options(self, timeout_s: float) -> Any:
        """What goes with each call: the token, and how long it may take as a whole."""
        shown = bearer_metadata(self._tokens.current())
        headers = [(name.encode(), value.encode()) for name, value in shown]
        return flight.FlightCallOptions(timeout=timeout_s, headers=headers)

    @contextlib.contextmanager
    def connection(self, address: str) -> Iterator[Any]:
        """A connection for one call; it is kept if the block ends well."""
        client = self._take(address)
        try:
            yield client
        except BaseException:
            _close(client)
            raise
        self._keep(address, client)

    @contextlib.contextmanager
    def call(self, address: str, ticket: Ticket, timeout_s: float) -> Iterator[Call]:
        """Asks for a range of at least 1 byte; the connection is kept if the block ends well.

        Args:
            address: the holder's.
            ticket: the range.
            timeout_s: for connecting, and for the whole of a call by Flight.

        Raises: what Flight raises, OSError, SourceBusyError, ChunkInvalidError.
        """
        bytes_connection = self._byte_connection(address, timeout_s)
        if bytes_connection is None:
            with self.connection(address) as client:
                yield ChunkStream(client, ticket, self.options(timeout_s))
            return
        key, connection = bytes_connection
        try:
            yield connection.ask(ticket)
        except BaseException:
            connection.close()
            raise
        self._keep(key, connection)

    def _byte_connection(self, address: str, timeout_s: float) -> tuple[Any, ByteConnection] | None:
        failure: OSError | None = None
        # The second time with what the holder says now: it may have begun a new life.
        for is_known in (True, False):
            if not is_known or address not in self._doors:
                self._doors[address] = self._ask_door(address, timeout_s)
            door = self._doors[address]
            if door is None:
                return None
            while (connection := self._take_idle((address, door))) is not None:
                if connection.is_open():
                    return (address, door), connection
                connection.close()
            host, _ = split_address(address)
            try:
                return (address, door), ByteConnection(host, door, self._tls, timeout_s=timeout_s)
            except OSError as error:
                failure = error
        logger.warning("no byte stream can be had holder=%s: %s", address, failure)
        self._doors[address] = None
        return None

    def _ask_door(self, address: str, timeout_s: float) -> Door | None:
        with self.connection(address) as client:
            try:
                (answer,) = client.do_action(DOOR_ACTION, self.options(timeout_s))
            except (pa.ArrowNotImplementedError, ValueError):
                return None
        return decode_door(answer.body.to_pybytes())

    def close(self) -> None:
        """Closes those that nobody uses. Idempotent."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, client in idle:
            _close(client)

    def _take(self, address: str) -> Any:
        idle = self._take_idle(address)
        return self._connect(address) if idle is None else idle

    def _take_idle(self, key: Any) -> Any:
        with self._lock:
            for index in reversed(range(len(self._idle))):
                if self._idle[index][0] == key:
                    return self._idle.pop(index)[1]
        return None

    def _keep(self, key: Any, client: Any) -> None:
        with self._lock:
            self._idle.append((key, client))
            surplus = self._idle[: max(0, len(self._idle) - self._idle_max)]
            del self._idle[: len(surplus)]
        for _, old in surplus:
            _close(old)

    def _connect(self, address: str) -> Any:
        secrets = self._secrets
        scheme = "grpc+tcp" if secrets.ca is None else "grpc+tls"
        tls: dict[str, Any] = {}
        if secrets.ca is not None:
            tls["tls_root_certs"] = secrets.ca
            if secrets.certificate is not None:
                tls.update(cert_chain=secrets.certificate, private_key=secrets.key)
        options = [
            # Else clients of one address share one socket, and streams are not parallel.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
            # A proxy from the environment would see the token.
            ("grpc.enable_http_proxy", 0),
        ]
        return flight.FlightClient(f"{scheme}://{address}", generic_options=options, **tls)


def _close(client: Any) -> None:
    with contextlib.suppress(pa.ArrowException):
        client.close()
