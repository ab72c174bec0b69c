"""Byte streams: large objects over sockets of their own, who may open one, and what is believed."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import flight

from rostral_gcs.errors import RostralError
from rostral_objectstore.errors import (
    ChunkInvalidError,
    NotHolderError,
    SourceUnavailableError,
)
from rostral_objectstore.transfer import TransferServer
from rostral_objectstore.transfer.byte_frames import (
    DOOR_ACTION,
    HELLO_BYTES,
    KEY_BYTES,
    Door,
    decode_door,
    decode_refusal,
    encode_refusal,
    key_of,
    refused_text_bytes,
)
from rostral_objectstore.transfer.byte_stream import ByteConnection
from rostral_objectstore.transfer.messages import (
    CHUNK_BYTES,
    HEADER_BYTES,
    TICKET_BYTES,
    ChunkHeader,
    ObjectFacts,
    Ticket,
    digest_of,
)

from .nodes import Liar, Node, new_id, nodes, noise
from .store import Nursery, until
from .test_transfer_security import Authority, chunks_of, options_of, streamed

DATA = noise(5 * CHUNK_BYTES + 123)
TIMEOUT_S = 20


@pytest.fixture
def pair(folder: Path, nursery: Nursery) -> Iterator[list[Node]]:
    """Two nodes."""
    with nodes(folder, nursery, 2, 64 << 20) as made:
        yield made


def door_of(node: Node, server: TransferServer) -> Door:
    with flight.FlightClient(f"grpc+tcp://{server.address}") as client:
        (answer,) = client.do_action(DOOR_ACTION, options_of(node))
    return decode_door(answer.body.to_pybytes())


def connect(door: Door) -> ByteConnection:
    return ByteConnection("127.0.0.1", door, None, timeout_s=TIMEOUT_S)


def is_ended(connection: socket.socket) -> bool:
    """Whether the other side has ended the connection; waits for it."""
    connection.settimeout(TIMEOUT_S)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


# ---- frames


def test_a_door_and_its_key_arrive_and_the_key_is_not_shown() -> None:
    door = Door(4711, os.urandom(KEY_BYTES))
    assert decode_door(door.encode()) == door
    assert key_of(door.hello()) == door.key
    assert repr(door) == "Door(port=4711)"


@pytest.mark.parametrize(
    "data", [b"", b"x" * 44, Door(1, bytes(32)).encode()[:-1], Door(0, bytes(32)).encode()]
)
def test_what_is_no_door_is_refused(data: bytes) -> None:
    with pytest.raises(ChunkInvalidError):
        decode_door(data)


@pytest.mark.parametrize(
    ("error", "arrives_as"),
    [(NotHolderError("no"), NotHolderError), (RostralError("odd"), SourceUnavailableError)],
)
def test_a_refusal_arrives_as_one_of_the_closed_list(
    error: RostralError, arrives_as: type[RostralError]
) -> None:
    sent = encode_refusal(error)
    assert refused_text_bytes(sent[:HEADER_BYTES]) == len(sent) - HEADER_BYTES
    came = decode_refusal(sent[:HEADER_BYTES], sent[HEADER_BYTES:])
    assert (type(came), came.message) == (arrives_as, error.message)


# ---- what goes over them


def test_a_large_object_comes_over_connections_that_the_next_one_uses_again(
    pair: list[Node],
) -> None:
    here, there = pair
    server, fetcher = there.serve(), here.fetcher()
    for seed in range(3):
        kept = there.keep(noise(len(DATA), seed))
        fetched = fetcher.fetch(kept.id, [server.address])
        assert here.bytes_of(fetched) == noise(len(DATA), seed)
        until(lambda: server.stats()["streams"] == 0, "the end of the streams")
        # An unused connection holds no object.
        assert len(there.client.table.holder_slots(kept)) == 1
    assert 1 <= server.stats()["byte_connections"] <= 2


def test_large_objects_travel_under_mutual_tls(pair: list[Node], folder: Path) -> None:
    here, there = pair
    authority = Authority(folder, pair[0].credentials.token_file)
    server = there.serve(credentials=authority.credentials())
    kept = there.keep(DATA)
    fetcher = here.fetcher(credentials=authority.credentials())
    for _ in range(2):
        fetched = fetcher.fetch(kept.id, [server.address])
        assert here.bytes_of(fetched) == DATA
        del fetched
        here.client.delete(kept.id)
    assert server.stats()["byte_connections"] >= 1
    with socket.create_connection(("127.0.0.1", server._bytes.door.port)) as plain:
        plain.sendall(server._bytes.door.hello() + Ticket(kept.id.binary(), 0, 1).encode())
        came = b""
        with contextlib.suppress(ConnectionResetError):
            came = plain.recv(HEADER_BYTES)
        assert not came.startswith(b"RST")


def test_a_connection_that_was_closed_while_unused_is_no_failure(pair: list[Node]) -> None:
    here, there = pair
    server, fetcher = there.serve(idle_timeout_s=0.2), here.fetcher()
    for seed in range(2):
        kept = there.keep(noise(len(DATA), seed))
        assert here.bytes_of(fetcher.fetch(kept.id, [server.address])) == noise(len(DATA), seed)
        until(lambda: server.stats()["byte_connections"] == 0, "the end of unused connections")


def test_a_holder_that_has_begun_a_new_life_tells_its_new_door(pair: list[Node]) -> None:
    here, there = pair
    fetcher = here.fetcher()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for seed in range(2):
        kept = there.keep(noise(len(DATA), seed))
        with contextlib.closing(there.serve(address=address)):
            assert here.bytes_of(fetcher.fetch(kept.id, [address])) == noise(len(DATA), seed)


def test_where_no_byte_stream_can_be_had_flight_carries_all(pair: list[Node]) -> None:
    here, there = pair
    server = there.serve()
    server._bytes.close()
    kept = there.keep(DATA)
    assert here.bytes_of(here.fetcher().fetch(kept.id, [server.address])) == DATA


# ---- who may open one, and what may be asked


def test_nobody_gets_a_byte_without_the_key(
    pair: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    there = pair[1]
    server = there.serve()
    kept = there.keep(DATA)
    door = door_of(there, server)
    ticket = Ticket(kept.id.binary(), 0, len(DATA)).encode()
    hellos = [
        Door(door.port, bytes(KEY_BYTES)).hello(),
        Door(door.port, door.key[:-1] + bytes([door.key[-1] ^ 1])).hello(),
        b"\0" * HELLO_BYTES,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".ljust(HELLO_BYTES),
        door.hello()[:4] + struct.pack("<I", 99) + door.key,
    ]
    for count, hello in enumerate(hellos, 1):
        with socket.create_connection(("127.0.0.1", door.port)) as connection:
            connection.sendall(hello + ticket)
            assert is_ended(connection)
        assert server.stats()["refused"] == count
    assert server.stats()["chunks_sent"] == 0
    assert door.key.hex() not in caplog.text


def test_who_shows_nothing_is_closed(pair: list[Node]) -> None:
    there = pair[1]
    server = there.serve(handshake_timeout_s=0.2, connections_max=2)
    door = door_of(there, server)
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", door.port)))
            for _ in range(4)
        ]
        assert all(is_ended(connection) for connection in silent)
    until(lambda: server.stats()["byte_connections"] == 0, "the end of the connections")


def test_a_range_outside_of_the_object_is_refused_and_the_connection_goes_on(
    pair: list[Node],
) -> None:
    there = pair[1]
    server = there.serve()
    kept = there.keep(DATA)
    id, size, huge = kept.id.binary(), len(DATA), (1 << 64) - 1
    with contextlib.closing(connect(door_of(there, server))) as connection:
        for offset, length in ((0, size + 1), (size, 1), (1, 1), (huge, huge), (CHUNK_BYTES, size)):
            with pytest.raises(ChunkInvalidError):
                list(connection.ask(Ticket(id, offset, length)).chunks())
        with pytest.raises(NotHolderError):
            list(connection.ask(Ticket(new_id().binary(), 0, 1)).chunks())
        connection.socket.sendall(os.urandom(TICKET_BYTES))
        assert connection.socket.recv(HEADER_BYTES, socket.MSG_WAITALL).startswith(b"RSTE")
        text = connection.socket.recv(1 << 12)
        assert b"does not begin like one" in text
        came = b"".join(bytes(chunk.data) for chunk in connection.ask(Ticket(id, 0, size)).chunks())
    assert came == DATA


# ---- holders that lie


class ByteLiar(Liar):
    """Honest by Flight, where it tells a door behind which it answers what the test wants."""

    def __init__(self, answer: Callable[[Ticket], bytes]) -> None:
        super().__init__(lambda ticket: streamed(chunks_of(ticket, DATA)))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._bytes_answer = answer
        self.lied = 0
        threading.Thread(target=self._lie, daemon=True).start()

    def do_action(self, context: Any, action: Any) -> Any:
        """Flight's own name."""
        return [Door(self._listener.getsockname()[1], bytes(KEY_BYTES)).encode()]

    def _lie(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(HELLO_BYTES, socket.MSG_WAITALL)
                ticket = connection.recv(TICKET_BYTES, socket.MSG_WAITALL)
                _, _, id, _, offset, length = struct.unpack("<4sI20sIQQ", ticket)
                self.lied += 1
                connection.sendall(self._bytes_answer(Ticket(id, offset, length)))

    def shutdown(self) -> None:
        """Flight's own name."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        super().shutdown()


def framed(
    ticket: Ticket, *, id: bytes | None = None, size: int = len(DATA), shift: int = 0
) -> bytes:
    """What an honest holder sends, or nearly."""
    facts = ObjectFacts(ticket.id if id is None else id, 3, 0, size)
    frames = []
    for start in range(ticket.offset, ticket.offset + ticket.length, CHUNK_BYTES):
        part = DATA[start : min(start + CHUNK_BYTES, ticket.offset + ticket.length)]
        header = ChunkHeader(facts, start + shift, digest_of(part, start + shift))
        frames.append(header.encode() + part)
    return b"".join(frames)


def flipped(ticket: Ticket) -> bytes:
    data = bytearray(framed(ticket))
    data[-1] ^= 1
    return bytes(data)


LIES: dict[str, Callable[[Ticket], bytes]] = {
    "nothing": lambda ticket: b"",
    "half a header": lambda ticket: framed(ticket)[: HEADER_BYTES // 2],
    "half a chunk": lambda ticket: framed(ticket)[:1000],
    "a flipped bit": flipped,
    "noise": lambda ticket: noise(1 << 16),
    "another object": lambda ticket: framed(ticket, id=bytes(20)),
    "another size": lambda ticket: framed(ticket, size=1 << 62),
    "another place": lambda ticket: framed(ticket, shift=CHUNK_BYTES),
    "a refusal of its own": lambda ticket: b"RSTE" + b"\xff" * (1 << 16),
    "a refusal without a text": lambda ticket: encode_refusal(NotHolderError("x" * 99))[:-50],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_holder_that_lies_over_a_byte_stream_is_left_for_the_next(
    pair: list[Node], lie: str
) -> None:
    here, there = pair
    id = new_id()
    honest = there.serve()
    kept = there.keep(DATA, id)
    with ByteLiar(LIES[lie]) as liar:
        fetched = here.fetcher(holders_at_once=1).fetch(id, [liar.address, honest.address])
        assert liar.lied >= 1
    assert here.bytes_of(fetched) == DATA
    del kept
