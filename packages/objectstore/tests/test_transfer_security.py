"""Who is let in, what may be asked, and what a holder that lies can do: nothing."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import trustme
from pyarrow import flight

from rostral_gcs.auth import write_token
from rostral_gcs.errors import ConfigError, TokenFileError
from rostral_gcs.ids import ObjectID
from rostral_objectstore.errors import ObjectFetchError
from rostral_objectstore.transfer import Credentials, TransferServer, TransferServerConfig
from rostral_objectstore.transfer.chunk_plan import STRETCH_CHUNKS_MIN
from rostral_objectstore.transfer.messages import (
    CHUNK_BYTES,
    SCHEMA,
    ChunkHeader,
    ObjectFacts,
    Ticket,
    digest_of,
)

from .nodes import Liar, Node, new_id, nodes, noise
from .store import Nursery

DATA = noise(3 * CHUNK_BYTES + 7)


@pytest.fixture
def pair(folder: Path, nursery: Nursery) -> Iterator[list[Node]]:
    """Two nodes."""
    with nodes(folder, nursery, 2, 32 << 20) as made:
        yield made


# ---- the token

REFUSED = "the cluster's token was not shown"
METHODS: dict[str, Callable[[Any, Any], object]] = {
    "do_get": lambda client, options: client.do_get(flight.Ticket(bytes(48)), options),
    "do_put": lambda client, options: client.do_put(
        flight.FlightDescriptor.for_path("x"), SCHEMA, options
    )[0].close(),
    "do_exchange": lambda client, options: client.do_exchange(
        flight.FlightDescriptor.for_path("x"), options
    )[1].read_all(),
    "do_action": lambda client, options: list(client.do_action("x", options)),
    "list_actions": lambda client, options: list(client.list_actions(options)),
    "list_flights": lambda client, options: list(client.list_flights(b"", options)),
    "get_flight_info": lambda client, options: client.get_flight_info(
        flight.FlightDescriptor.for_path("x"), options
    ),
    "get_schema": lambda client, options: client.get_schema(
        flight.FlightDescriptor.for_path("x"), options
    ),
}


def headers_for(token: str) -> dict[str, list[tuple[bytes, bytes]]]:
    """Everything that is not exactly one header with the right token."""
    right = f"Bearer {token}".encode()
    return {
        "none": [],
        "empty": [(b"authorization", b"")],
        "no token": [(b"authorization", b"Bearer ")],
        "short": [(b"authorization", right[:-1])],
        "long": [(b"authorization", right + b"x")],
        "other": [(b"authorization", b"Bearer " + b"x" * len(token))],
        "other scheme": [(b"authorization", b"Basic " + token.encode())],
        "elsewhere": [(b"token", token.encode())],
        "twice": [(b"authorization", right), (b"authorization", right)],
    }


@pytest.mark.parametrize("method", METHODS)
def test_nobody_gets_past_the_door_without_the_token(
    pair: list[Node], method: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = pair[1].serve()
    token = Path(pair[1].credentials.token_file).read_text().strip()
    with flight.FlightClient(f"grpc+tcp://{server.address}") as client:
        for count, headers in enumerate(headers_for(token).values(), 1):
            # Of get_schema PyArrow makes an OSError, whatever the status.
            with pytest.raises(
                (flight.FlightUnauthenticatedError, OSError), match=REFUSED
            ) as caught:
                METHODS[method](client, flight.FlightCallOptions(headers=headers, timeout=20))
            assert server.stats()["refused"] == count
            assert token not in str(caught.value)
    assert token not in caplog.text


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"do_get"}))
def test_with_the_token_there_is_nothing_but_ranges(pair: list[Node], method: str) -> None:
    server = pair[1].serve()
    with (
        flight.FlightClient(f"grpc+tcp://{server.address}") as client,
        contextlib.suppress(NotImplementedError, pa.ArrowNotImplementedError),
    ):
        assert METHODS[method](client, options_of(pair[1])) in ([], None)


def test_a_fetch_with_another_clusters_token_says_so(pair: list[Node], folder: Path) -> None:
    here, there = pair
    other = str(folder / "other")
    write_token(other)
    kept = there.keep(b"x")
    server = there.serve()
    with pytest.raises(ObjectFetchError, match="it refused our token"):
        here.fetcher(credentials=Credentials(token_file=other)).fetch(kept.id, [server.address])


def test_a_token_file_that_others_may_read_is_not_used(pair: list[Node], folder: Path) -> None:
    token_file = folder / "token"
    token_file.chmod(0o644)
    with pytest.raises(TokenFileError, match="0644"):
        pair[0].serve()
    with pytest.raises(TokenFileError, match="0644"):
        pair[0].fetcher()
    token_file.chmod(0o600)
    link = folder / "link"
    link.symlink_to(token_file)
    with pytest.raises(TokenFileError):
        pair[0].serve(credentials=Credentials(token_file=str(link)))


def test_settings_do_not_show_the_token(pair: list[Node]) -> None:
    token = Path(pair[0].credentials.token_file).read_text().strip()
    assert token not in repr(pair[0].credentials.load())
    assert token not in repr(TransferServerConfig(credentials=pair[0].credentials))


# ---- TLS


def options_of(node: Node) -> Any:
    token = Path(node.credentials.token_file).read_bytes().strip()
    return flight.FlightCallOptions(headers=[(b"authorization", b"Bearer " + token)], timeout=20)


class Authority:
    """A CA, and the files of those that it vouches for."""

    def __init__(self, folder: Path, token_file: str) -> None:
        self._folder, self._token_file = folder, token_file
        self._ca = trustme.CA()
        self.file = str(folder / f"ca-{id(self)}.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def credentials(
        self,
        name: str = "127.0.0.1",
        *,
        trusted: Authority | None = None,
        expired: bool = False,
        certificate: bool = True,
    ) -> Credentials:
        """A node's identity with a certificate of that name; it trusts this CA, or `trusted`."""
        ca_file = (trusted or self).file
        if not certificate:
            return Credentials(token_file=self._token_file, tls_ca_file=ca_file)
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        leaf = self._ca.issue_cert(name, not_after=yesterday if expired else None)
        base = self._folder / os.urandom(4).hex()
        chain, key = f"{base}.pem", f"{base}.key"
        for index, part in enumerate(leaf.cert_chain_pems):
            part.write_to_path(chain, append=index > 0)
        Path(key).touch(mode=0o600)
        leaf.private_key_pem.write_to_path(key, append=True)
        return Credentials(
            token_file=self._token_file,
            tls_certificate_file=chain,
            tls_key_file=key,
            tls_ca_file=ca_file,
        )


@pytest.fixture
def authority(folder: Path) -> Authority:
    return Authority(folder, str(folder / "token"))


def test_objects_travel_under_mutual_tls(pair: list[Node], authority: Authority) -> None:
    here, there = pair
    kept = there.keep(DATA)
    server = there.serve(credentials=authority.credentials())
    fetched = here.fetcher(credentials=authority.credentials()).fetch(kept.id, [server.address])
    assert here.bytes_of(fetched) == DATA


def test_a_peer_of_another_ca_an_old_one_or_with_another_name_is_refused(
    pair: list[Node], authority: Authority, folder: Path
) -> None:
    here, there = pair
    kept = there.keep(b"x")
    other = Authority(folder, there.credentials.token_file)
    good = authority.credentials()
    for server, client in (
        (other.credentials(), good),  # the server's CA is not ours
        (good, other.credentials(trusted=authority)),  # nor is the client's the server's
        (authority.credentials(expired=True), good),
        (good, authority.credentials(expired=True)),
        (authority.credentials("some.other.host"), good),
        (good, authority.credentials(certificate=False)),  # mutual: a token alone is not enough
    ):
        serving = there.serve(credentials=server)
        with pytest.raises(ObjectFetchError, match=r"127\.0\.0\.1:\d+: "):
            here.fetcher(credentials=client, stall_timeout_s=2.0).fetch(kept.id, [serving.address])
        assert serving.stats()["chunks_sent"] == 0


def test_neither_side_falls_back_to_plain_text(pair: list[Node], authority: Authority) -> None:
    here, there = pair
    kept = there.keep(b"x")
    for server, client in (
        (authority.credentials(), here.credentials),
        (there.credentials, authority.credentials()),
    ):
        serving = there.serve(credentials=server)
        with pytest.raises(ObjectFetchError):
            here.fetcher(credentials=client, stall_timeout_s=2.0).fetch(kept.id, [serving.address])


def test_a_key_that_others_may_read_is_not_used(pair: list[Node], authority: Authority) -> None:
    credentials = authority.credentials()
    assert credentials.tls_key_file is not None
    Path(credentials.tls_key_file).chmod(0o640)
    with pytest.raises(TokenFileError, match="key file"):
        pair[0].serve(credentials=credentials)


def test_a_file_that_is_no_certificate_is_refused(pair: list[Node], folder: Path) -> None:
    (folder / "ca").write_text("nothing of the kind")
    credentials = Credentials(
        token_file=pair[0].credentials.token_file, tls_ca_file=str(folder / "ca")
    )
    with pytest.raises(ConfigError, match="PEM"):
        pair[0].fetcher(credentials=credentials)


# ---- what may be asked


def test_a_range_outside_of_the_object_is_refused_and_the_server_goes_on(
    pair: list[Node],
) -> None:
    here, there = pair
    kept = there.keep(DATA)
    server = there.serve()
    id, size, huge = kept.id.binary(), len(DATA), (1 << 64) - 1
    tickets = [
        Ticket(id, offset, length).encode()
        for offset, length in (
            *((0, size + 1), (CHUNK_BYTES, size), (size, 1), (size + 1, 1), (huge, 1), (1, huge)),
            *((huge, huge), (CHUNK_BYTES, 0), (1, 1), (CHUNK_BYTES - 1, 5), (0, huge)),
        )
    ]
    tickets += [b"", b"x", bytes(48), os.urandom(48), Ticket(id).encode() + b"x", b"x" * 100_000]
    with flight.FlightClient(f"grpc+tcp://{server.address}") as client:
        for ticket in tickets:
            with pytest.raises(flight.FlightServerError) as caught:
                client.do_get(flight.Ticket(ticket), options_of(there)).read_all()
            assert caught.value.extra_info == b"CHUNK_INVALID"
    fetched = here.fetcher().fetch(kept.id, [server.address])
    assert here.bytes_of(fetched) == DATA
    assert server.stats()["streams"] == 0


# ---- holders that lie


def batch_of(data: bytes) -> Any:
    column = pa.Array.from_buffers(pa.uint8(), len(data), [None, pa.py_buffer(data)])
    return pa.record_batch([column], schema=SCHEMA)


def chunks_of(ticket: bytes, data: bytes = DATA) -> list[tuple[Any, bytes]]:
    """What an honest holder answers."""
    _, _, id, _, offset, length = struct.unpack("<4sI20sIQQ", ticket)
    facts = ObjectFacts(id, 3, 0, len(data))
    stop = min(len(data), CHUNK_BYTES) if length == 0 else offset + length
    answer = []
    for start in range(offset, stop, CHUNK_BYTES):
        part = data[start : min(start + CHUNK_BYTES, stop)]
        answer.append((batch_of(part), ChunkHeader(facts, start, digest_of(part, start)).encode()))
    return answer


def streamed(chunks: Sequence[Any], schema: Any = SCHEMA) -> Any:
    return flight.GeneratorStream(schema, iter(chunks))


def flip(ticket: bytes) -> Any:
    """One byte of the last chunk is another."""
    chunks = chunks_of(ticket)
    batch, header = chunks[-1]
    data = bytearray(batch.column(0).buffers()[1].to_pybytes()[: batch.num_rows])
    data[len(data) // 2] ^= 1
    return streamed([*chunks[:-1], (batch_of(bytes(data)), header)])


def other_schema(ticket: bytes) -> Any:
    schema = pa.schema([("x", pa.int64())])
    return streamed([pa.record_batch([pa.array([1, 2])], schema=schema)], schema)


def nulls(ticket: bytes) -> Any:
    (batch, header), *rest = chunks_of(ticket)
    data = batch.column(0).buffers()[1]
    holes = pa.py_buffer(bytes(batch.num_rows // 8 + 1))
    column = pa.Array.from_buffers(pa.uint8(), batch.num_rows, [holes, data])
    return streamed([(pa.record_batch([column], schema=SCHEMA), header), *rest])


LIES: dict[str, Callable[[bytes], Any]] = {
    "a flipped bit": flip,
    "nothing": lambda ticket: streamed([]),
    "no header": lambda ticket: streamed([batch for batch, _ in chunks_of(ticket)]),
    "half a header": lambda ticket: streamed([(b, h[:-1]) for b, h in chunks_of(ticket)]),
    "another object": lambda ticket: streamed(
        chunks_of(ticket[:8] + bytes(20) + ticket[28:])  # the id lies at 8
    ),
    "a shorter chunk": lambda ticket: streamed(
        [(b.slice(0, b.num_rows - 1), h) for b, h in chunks_of(ticket)]
    ),
    "an early end": lambda ticket: streamed(chunks_of(ticket)[:-1]),
    "more than asked": lambda ticket: streamed(chunks_of(ticket) * 2),
    "a huge chunk": lambda ticket: streamed([(batch_of(bytes(64 << 20)), b"x")]),
    "other columns": other_schema,
    "nulls": nulls,
    "another size": lambda ticket: streamed(chunks_of(ticket, DATA + DATA)),
    "chunks out of order": lambda ticket: streamed(chunks_of(ticket)[::-1]),
    "an error of its own": lambda ticket: (_ for _ in ()).throw(RuntimeError("boom")),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_a_holder_that_lies_is_left_for_the_next(pair: list[Node], lie: str, *, late: bool) -> None:
    """It lies in its first answer, or is honest there and lies about the rest."""
    here, there = pair
    id = new_id()
    honest = there.serve()
    kept = there.keep(DATA, id)

    def answer(ticket: bytes) -> Any:
        first = ticket == Ticket(id.binary()).encode()
        return streamed(chunks_of(ticket)) if late and first else LIES[lie](ticket)

    with Liar(answer) as liar:
        fetcher = here.fetcher(holders_at_once=1)
        if lie in ("another size", "chunks out of order") and not late:
            # In a first answer these are no lies: one chunk is in order, and what the size is the
            # asker has to know.
            fetched = fetcher.fetch(id, [liar.address, honest.address], size_bytes=len(DATA))
        else:
            fetched = fetcher.fetch(id, [liar.address, honest.address])
        assert here.bytes_of(fetched) == DATA
        assert liar.asked >= 1
    del kept


def test_a_holder_that_says_it_is_huge_is_refused_before_anything_is_taken(
    pair: list[Node],
) -> None:
    here, _ = pair
    used = here.client.stats().used_bytes

    def answer(ticket: bytes) -> Any:
        part = DATA[:CHUNK_BYTES]
        facts = ObjectFacts(ObjectID(ticket[8:28]).binary(), 3, 0, 1 << 62)
        return streamed([(batch_of(part), ChunkHeader(facts, 0, digest_of(part, 0)).encode())])

    with Liar(answer) as liar, pytest.raises(ObjectFetchError, match="bytes by this id"):
        here.fetcher().fetch(new_id(), [liar.address], size_bytes=1 << 20)
    assert here.client.stats().used_bytes <= used + (1 << 20)


@pytest.mark.parametrize("flags", [2, 4, 1 << 31], ids=["inline", "compound", "unknown"])
def test_bytes_that_are_no_value_are_not_sealed(pair: list[Node], flags: int) -> None:
    """Flags say that it lies elsewhere or has parts; the bytes are not laid out like that."""
    here, _ = pair
    id = new_id()

    def answer(ticket: bytes) -> Any:
        data = b"\xff" * 1000
        facts = ObjectFacts(ticket[8:28], 1, flags, len(data))
        return streamed([(batch_of(data), ChunkHeader(facts, 0, digest_of(data, 0)).encode())])

    with Liar(answer) as liar, pytest.raises(ObjectFetchError, match="came whole, but is none"):
        here.fetcher().fetch(id, [liar.address])
    assert not here.client.contains(id)


def test_the_last_holder_stalls_while_other_streams_have_nothing_to_do(pair: list[Node]) -> None:
    """Of two streams one is done when the other stalls, and there is nobody else to ask."""
    here, _ = pair
    going_on = threading.Event()
    data = noise((1 + 2 * STRETCH_CHUNKS_MIN) * CHUNK_BYTES)

    def answer(ticket: bytes) -> Any:
        if struct.unpack("<4sI20sIQQ", ticket)[4] == (1 + STRETCH_CHUNKS_MIN) * CHUNK_BYTES:
            going_on.wait(20)
        return streamed(chunks_of(ticket, data))

    with Liar(answer) as liar:
        fetcher = here.fetcher(stall_timeout_s=0.5, timeout_s=15.0, call_timeout_s=5.0)
        with pytest.raises(ObjectFetchError, match=r"sent no chunk for 0\.5 s"):
            fetcher.fetch(new_id(), [liar.address])
        going_on.set()


def test_a_stopped_server_does_not_answer(pair: list[Node]) -> None:
    kept = pair[1].keep(b"x")
    config = TransferServerConfig(credentials=pair[1].credentials)
    server = TransferServer(pair[1].client.table, config)
    server.close()
    server.close()
    with pytest.raises(ObjectFetchError, match=server.address):
        pair[0].fetcher().fetch(kept.id, [server.address])
