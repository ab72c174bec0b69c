"""Gives objects of this node's store to other nodes, by Arrow Flight.

Owns the listening port, who may ask, how many may at once and how fast they are served. Bytes go
from the store's memory to the socket: nothing is copied here. Only ranges of sealed objects can be
asked for; there is no other method.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rostral_gcs.auth import tokens_match
from rostral_gcs.errors import PortInUseError, RostralError
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore.errors import ChunkInvalidError, SourceBusyError
from rostral_objectstore.transfer.bandwidth import ByteBudget
from rostral_objectstore.transfer.config import TransferServerConfig
from rostral_objectstore.transfer.connections import sever
from rostral_objectstore.transfer.credentials import is_loopback, split_address
from rostral_objectstore.transfer.digests import Digests
from rostral_objectstore.transfer.extra import flight, pa
from rostral_objectstore.transfer.messages import (
    CHUNK_BYTES,
    SCHEMA,
    ChunkHeader,
    Ticket,
    decode_ticket,
    digest_of,
    hex_of,
)
from rostral_objectstore.transfer.storage import Storage, StoredObject
from rostral_objectstore.transfer.wire_errors import to_flight

logger = logging.getLogger("rostral.objectstore.transfer")

_SCHEME = "Bearer "


class TransferServer:
    """Serves from its making until `close`. Works in threads of its own.

    Args:
        table: the store whose sealed objects may be fetched.
        clock, sleep: the time, for tests; `sleep` is only called under a bandwidth limit.

    Raises: ConfigError, TokenFileError, PortInUseError.
    """

    def __init__(
        self,
        table: ObjectTable,
        config: TransferServerConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        config.validate()
        self.config = config
        self._gate = _Gate(config.credentials.load().token)
        self._streams = _Streams(config, clock, sleep)
        self._flight = _listen(config, self._gate, _Service(Storage(table), self._streams))
        self.port: int = self._flight.port
        self._watch = threading.Thread(
            target=self._cut_off_stalled, name="rostral-transfer-watch", daemon=True
        )
        self._watch.start()

    @property
    def address(self) -> str:
        """Where it listens, with the port that it got."""
        host = self.config.address.rpartition(":")[0]
        return f"{host}:{self.port}"

    def stats(self) -> Mapping[str, int]:
        """Since the start, and how many streams run now.

        bytes_sent and chunks_sent are handed to the network; refused are calls without the token;
        cut_off are streams whose peer took nothing.
        """
        return {**self._streams.stats(), "refused": self._gate.refused}

    def close(self, timeout_s: float = 2.0) -> None:
        """Stops serving; streams under way end early. Idempotent."""
        if self._streams.stopping.is_set():
            return
        self._streams.stopping.set()
        # It waits for all calls to end, and a stopped peer's would not before it goes on.
        closing = threading.Thread(target=self._flight.shutdown, name="rostral-transfer-close")
        closing.start()
        closing.join(timeout_s)
        while closing.is_alive():
            sever(self.port)
            closing.join(0.05)
        self._watch.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _cut_off_stalled(self) -> None:
        while not self._streams.stopping.wait(min(1.0, self.config.stall_timeout_s / 4)):
            for peer in self._streams.stalled_peers():
                cut = sever(self.port, peer)
                logger.warning("peer takes nothing, cut off peer=%s connections=%s", peer, cut)


def _listen(config: TransferServerConfig, gate: _Gate, service: _Service) -> Any:
    host, port = split_address(config.address)
    secrets = config.credentials.load()
    tls: dict[str, Any] = {}
    if secrets.certificate is not None:
        tls["tls_certificates"] = [flight.CertKeyPair(secrets.certificate, secrets.key)]
        if secrets.ca is not None:
            tls.update(verify_client=True, root_certificates=secrets.ca)
    make = flight.Location.for_grpc_tls if tls else flight.Location.for_grpc_tcp
    # The config was checked; this is the last line that could open the door all the same.
    assert tls or is_loopback(host)
    middleware = {"token": _as_middleware(gate)}
    try:
        return _flight_server(service, make(host, port), middleware, tls)
    except (pa.ArrowException, OSError) as error:
        raise PortInUseError(
            f"cannot listen for transfers at {config.address}: {error}",
            hint="choose another address, or stop who listens there",
        ) from error


class _Gate:
    """Lets nobody in who does not show the token, before anything else of a call is looked at."""

    def __init__(self, token: str) -> None:
        self._token = token
        self.refused = 0

    def check(self, headers: Mapping[str, Sequence[str | bytes]]) -> bool:
        values = headers.get("authorization", ())
        shown = values[0] if len(values) == 1 else ""
        if isinstance(shown, bytes):
            shown = shown.decode("ascii", errors="replace")
        right = tokens_match(shown, _SCHEME + self._token)
        if not right:
            self.refused += 1
        return right


def _as_middleware(gate: _Gate) -> Any:
    class Gatekeeper(flight.ServerMiddlewareFactory):  # type: ignore[misc]
        def start_call(self, info: object, headers: Mapping[str, Sequence[str | bytes]]) -> None:
            if not gate.check(headers):
                logger.warning("a call without the cluster's token was refused")
                raise flight.FlightUnauthenticatedError("the cluster's token was not shown")

    return Gatekeeper()


class _Stream:
    """One range on its way to a peer."""

    __slots__ = ("peer", "progress_at_s")

    def __init__(self, peer: str, now_s: float) -> None:
        self.peer = peer
        self.progress_at_s = now_s


class _Streams:
    """The ranges being sent: how many, how fast, and which of them have stopped moving."""

    def __init__(
        self,
        config: TransferServerConfig,
        clock: Callable[[], float],
        sleep: Callable[[float], None] | None,
    ) -> None:
        self.stopping = threading.Event()
        self._config, self._clock = config, clock
        self._sleep = sleep if sleep is not None else self.stopping.wait
        self._lock = threading.Lock()
        self._running: set[_Stream] = set()
        self._counts = {"bytes_sent": 0, "chunks_sent": 0, "cut_off": 0}
        self._budget: ByteBudget | None = None
        if config.bandwidth_bytes_s is not None:
            self._budget = ByteBudget(
                rate_bytes_s=config.bandwidth_bytes_s,
                burst_bytes=config.burst_bytes,
                now_s=clock(),
            )

    def begin(self, peer: str) -> _Stream:
        """A place for one more. Raises SourceBusyError."""
        stream = _Stream(peer, self._clock())
        with self._lock:
            if len(self._running) >= self._config.streams_max or self.stopping.is_set():
                raise SourceBusyError(
                    f"{len(self._running)} ranges are being sent already",
                    hint="ask again, or ask another holder",
                )
            self._running.add(stream)
        return stream

    def end(self, stream: _Stream) -> None:
        with self._lock:
            self._running.discard(stream)

    def send(self, stream: _Stream, size: int) -> None:
        """Waits until the bytes may go."""
        with self._lock:
            now_s = self._clock()
            self._counts["bytes_sent"] += size
            self._counts["chunks_sent"] += 1
            delay_s = 0.0 if self._budget is None else self._budget.spend(size, now_s)
            # While it waits here it is we who are slow, not the peer.
            stream.progress_at_s = now_s + delay_s
        if delay_s > 0:
            self._sleep(delay_s)

    def stalled_peers(self) -> set[str]:
        """Peers that have taken nothing for too long; their streams count as ended."""
        with self._lock:
            oldest_s = self._clock() - self._config.stall_timeout_s
            stalled = {stream for stream in self._running if stream.progress_at_s < oldest_s}
            self._running -= stalled
            self._counts["cut_off"] += len(stalled)
        return {stream.peer for stream in stalled}

    def stats(self) -> dict[str, int]:
        with self._lock:
            return {**self._counts, "streams": len(self._running)}


class _Service:
    """What the one method does."""

    def __init__(self, storage: Storage, streams: _Streams) -> None:
        self._storage, self._streams = storage, streams
        self._digests = Digests()

    def answer(self, ticket: bytes, peer: str) -> Iterator[tuple[Any, bytes]]:
        """The chunks of the range that the ticket asks for.

        Raises: ChunkInvalidError, NotHolderError, ObjectNotTransferableError, SourceBusyError.
        """
        asked = decode_ticket(ticket)
        found = self._storage.read(asked.id)
        stop = _checked_stop(asked, found.facts.size)
        chunks = self._chunks(found, asked.offset, stop, self._streams.begin(peer))
        # Into its try block: it ends the stream even if nobody ever takes the first chunk.
        next(chunks)
        return chunks

    def _chunks(
        self, found: StoredObject, offset: int, stop: int, stream: _Stream
    ) -> Iterator[tuple[Any, bytes]]:
        try:
            yield None, b""
            data = pa.py_buffer(found.data)
            for start in itertools.chain([offset], range(offset + CHUNK_BYTES, stop, CHUNK_BYTES)):
                size = min(CHUNK_BYTES, stop - start)
                chunk = data.slice(start, size)
                self._streams.send(stream, size)
                if self._streams.stopping.is_set():
                    raise flight.FlightUnavailableError("the node is stopping")
                header = ChunkHeader(found.facts, start, self._digest(found, chunk, start))
                column = pa.Array.from_buffers(pa.uint8(), size, [None, chunk])
                yield pa.record_batch([column], schema=SCHEMA), header.encode()
        finally:
            self._streams.end(stream)

    def _digest(self, found: StoredObject, chunk: Any, offset: int) -> int:
        digest = self._digests.get(found.life, offset)
        if digest is None:
            digest = digest_of(chunk, offset)
            self._digests.keep(found.life, offset, digest)
        return digest


def _checked_stop(asked: Ticket, size: int) -> int:
    """Where the range ends. Nothing is assumed of the numbers: the peer chose them."""
    if asked.length == 0 and asked.offset == 0:
        return min(size, CHUNK_BYTES)
    if asked.length == 0 or asked.offset > size or asked.length > size - asked.offset:
        raise ChunkInvalidError(
            f"bytes {asked.offset} to {asked.offset + asked.length} do not lie in object "
            f"{hex_of(asked.id)} of {size} bytes"
        )
    if asked.offset % CHUNK_BYTES:
        raise ChunkInvalidError(f"offset {asked.offset} is not where a chunk begins")
    return asked.offset + asked.length


def _flight_server(service: _Service, location: Any, middleware: Any, tls: dict[str, Any]) -> Any:
    class Server(flight.FlightServerBase):  # type: ignore[misc]
        def do_get(self, context: Any, ticket: Any) -> Any:
            try:
                # gRPC writes ipv4:127.0.0.1:40000, with the brackets of an IPv6 host escaped.
                peer = context.peer().partition(":")[2]
                peer = peer.replace("%5B", "[").replace("%5D", "]")
                return flight.GeneratorStream(SCHEMA, service.answer(ticket.ticket, peer))
            except RostralError as error:
                raise to_flight(error) from error

    return Server(location, middleware=middleware, **tls)
