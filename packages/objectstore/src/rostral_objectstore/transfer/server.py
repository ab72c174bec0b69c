"""Gives objects of this node's store to other nodes.

Owns the Arrow Flight service: who may ask, what there is to ask for, and small objects whole. The
bytes of large ones go over the connections of byte_server.py, whose place and key it tells; a peer
that does not ask for them gets any range here as well. There is no other method.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rostral_gcs.errors import PortInUseError, RostralError
from rostral_gcs.tokens import Scope, Tokens
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore.transfer.byte_frames import DOOR_ACTION, Door
from rostral_objectstore.transfer.byte_server import ByteServer
from rostral_objectstore.transfer.config import TransferServerConfig
from rostral_objectstore.transfer.connections import sever
from rostral_objectstore.transfer.credentials import is_loopback, split_address
from rostral_objectstore.transfer.extra import flight, pa
from rostral_objectstore.transfer.messages import SCHEMA, ChunkHeader
from rostral_objectstore.transfer.outgoing import Streams
from rostral_objectstore.transfer.ranges import Ranges
from rostral_objectstore.transfer.storage import Storage
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
        self._gate = _Gate(Tokens(config.credentials.token_file))
        self._streams = Streams(config, clock, sleep)
        ranges = Ranges(Storage(table), self._streams)
        self._bytes = ByteServer(ranges, config)
        try:
            self._flight = _listen(config, self._gate, ranges, self._bytes.door)
        except BaseException:
            self._bytes.close()
            raise
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
        """Since the start, and how many streams and byte_connections there are now.

        bytes_sent and chunks_sent are handed to the network; refused are calls without the token
        and connections without the key; cut_off are streams whose peer took nothing.
        """
        return {
            **self._streams.stats(),
            "refused": self._gate.refused + self._bytes.refused,
            "byte_connections": self._bytes.connection_count,
        }

    def close(self, timeout_s: float = 2.0) -> None:
        """Stops serving; streams under way end early. Idempotent."""
        if self._streams.stopping.is_set():
            return
        self._streams.stopping.set()
        self._bytes.close()
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
            for stream in self._streams.take_stalled():
                stream.cut()
                logger.warning("peer takes nothing, cut off peer=%s", stream.peer)


def _listen(config: TransferServerConfig, gate: _Gate, ranges: Ranges, door: Door) -> Any:
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
        return _flight_server(ranges, door, make(host, port), middleware, tls)
    except (pa.ArrowException, OSError) as error:
        raise PortInUseError(
            f"cannot listen for transfers at {config.address}: {error}",
            hint="choose another address, or stop who listens there",
        ) from error


class _Gate:
    """Lets nobody in who does not show the token, before anything else of a call is looked at."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self.refused = 0

    def check(self, headers: Mapping[str, Sequence[str | bytes]]) -> bool:
        values = headers.get("authorization", ())
        shown = values[0] if len(values) == 1 else ""
        if isinstance(shown, bytes):
            shown = shown.decode("ascii", errors="replace")
        given = shown.removeprefix(_SCHEME) if shown.startswith(_SCHEME) else ""
        grant = self._tokens.find(given)
        right = grant is not None and grant.scope is Scope.NODE
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


def _flight_server(
    ranges: Ranges, door: Door, location: Any, middleware: Any, tls: dict[str, Any]
) -> Any:
    class Server(flight.FlightServerBase):  # type: ignore[misc]
        def do_get(self, context: Any, ticket: Any) -> Any:
            # gRPC writes ipv4:127.0.0.1:40000, with the brackets of an IPv6 host escaped.
            peer = context.peer().partition(":")[2]
            peer = peer.replace("%5B", "[").replace("%5D", "]")
            try:
                chunks = ranges.answer(ticket.ticket, peer, lambda: sever(self.port, peer))
            except RostralError as error:
                raise to_flight(error) from error
            return flight.GeneratorStream(SCHEMA, map(_as_batch, chunks))

        def do_action(self, context: Any, action: Any) -> Any:
            del context
            if action.type != DOOR_ACTION:
                raise NotImplementedError(f"there is no action {action.type[:80]!r}")
            return [door.encode()]

    return Server(location, middleware=middleware, **tls)


def _as_batch(chunk: tuple[ChunkHeader, Any]) -> tuple[Any, bytes]:
    header, data = chunk
    column = pa.Array.from_buffers(pa.uint8(), data.size, [None, data])
    return pa.record_batch([column], schema=SCHEMA), header.encode()
