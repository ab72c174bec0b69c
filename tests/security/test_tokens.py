"""S1: without the cluster's token, nothing of any service answers but that one is refused."""

from __future__ import annotations

import ast
import contextlib
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from rostral_gcs._proto import gcs_pb2
from rostral_gcs.auth import load_token
from rostral_objectstore.transfer import extra
from rostral_objectstore.transfer.byte_frames import HELLO_BYTES, KEY_BYTES, Door
from rostral_scheduler._proto import scheduler_pb2

from .raw_calls import channel, outcome
from .services import Service
from .wrong_tokens import wrong_headers

TIMEOUT_S = 20.0
pa: Any = extra.pa
flight: Any = extra.flight
ROOT = Path(__file__).parents[2]
GCS_METHODS = [
    f"/{gcs_pb2.DESCRIPTOR.services_by_name['Gcs'].full_name}/{method.name}"
    for method in gcs_pb2.DESCRIPTOR.services_by_name["Gcs"].methods
]
SCHEDULER = scheduler_pb2.DESCRIPTOR.services_by_name["GlobalScheduler"]
SCHEDULER_METHODS = [f"/{SCHEDULER.full_name}/{method.name}" for method in SCHEDULER.methods]
UNKNOWN = ["/rostral.Nothing/AtAll", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]


def codes(
    address: str, methods: Sequence[str], header: str | None, body: bytes = b""
) -> dict[str, grpc.StatusCode]:
    """How each call ends that shows the header."""
    found = {}
    with channel(address) as opened:
        for method in methods:
            found[method], text = outcome(opened, method, body, header)
            shown = (header or "").removeprefix("Bearer ")
            assert not shown or shown not in text, "the refusal repeats the token"
    return found


def test_every_call_of_the_gcs_refuses_every_wrong_token(
    gcs_with_token: tuple[Service, Path],
) -> None:
    gcs, token_file = gcs_with_token
    token = load_token(token_file)
    for wrong, header in wrong_headers(token).items():
        found = codes(gcs.address, [*GCS_METHODS, *UNKNOWN], header)
        assert set(found.values()) == {grpc.StatusCode.UNAUTHENTICATED}, (wrong, found)
    hello = gcs_pb2.HelloRequest(protocol_version=1).SerializeToString()
    right = codes(gcs.address, GCS_METHODS[:1], f"Bearer {token}", hello)
    assert right != {GCS_METHODS[0]: grpc.StatusCode.UNAUTHENTICATED}
    assert token not in gcs.said()


def test_refusals_are_logged_with_the_peer_and_bounded_in_number(
    gcs_with_token: tuple[Service, Path],
) -> None:
    gcs, _ = gcs_with_token
    before = len(gcs.said().splitlines())
    for _ in range(30):
        codes(gcs.address, GCS_METHODS[:10], None)
    lines = gcs.said().splitlines()[before:]
    assert len(lines) < 30, "whoever may not in could fill the disk with our log"
    said = [line for line in gcs.said().splitlines() if "refused" in line]
    assert said and "127.0.0.1" in said[0]


def test_every_call_of_the_global_scheduler_refuses_every_wrong_token(
    gcs_with_token: tuple[Service, Path], global_scheduler: Service
) -> None:
    token = load_token(gcs_with_token[1])
    for wrong, header in wrong_headers(token).items():
        found = codes(global_scheduler.address, [*SCHEDULER_METHODS, *UNKNOWN], header)
        assert set(found.values()) == {grpc.StatusCode.UNAUTHENTICATED}, (wrong, found)
    right = codes(global_scheduler.address, SCHEDULER_METHODS, f"Bearer {token}")
    assert set(right.values()) == {grpc.StatusCode.OK}
    assert token not in global_scheduler.said()


def flight_calls(client: Any, options: Any) -> dict[str, Callable[[], object]]:
    """Every method that Flight has, by name."""
    descriptor, schema = flight.FlightDescriptor.for_path("x"), pa.schema([])
    return {
        "do_get": lambda: client.do_get(flight.Ticket(b"x"), options).read_all(),
        "do_action": lambda: list(client.do_action("rostral.bytes", options)),
        "list_actions": lambda: client.list_actions(options),
        "list_flights": lambda: list(client.list_flights(options=options)),
        "get_flight_info": lambda: client.get_flight_info(descriptor, options),
        "get_schema": lambda: client.get_schema(descriptor, options),
        "do_put": lambda: client.do_put(descriptor, schema, options)[0].close(),
        "do_exchange": lambda: client.do_exchange(descriptor, options)[0].close(),
    }


def test_every_call_of_the_transfer_server_refuses_every_wrong_token(
    gcs_with_token: tuple[Service, Path], store: Service
) -> None:
    token = load_token(gcs_with_token[1])
    with flight.connect(f"grpc://{store.address}") as client:
        for wrong, header in wrong_headers(token).items():
            headers = [] if header is None else [(b"authorization", header.encode())]
            options: Any = flight.FlightCallOptions(headers=headers, timeout=TIMEOUT_S)
            for name, call in flight_calls(client, options).items():
                # Of one of its calls Arrow raises the same refusal as a plain OSError.
                with pytest.raises((flight.FlightUnauthenticatedError, OSError), match="not shown"):
                    call()
                    pytest.fail(f"{name} answered a token that is wrong: {wrong}")
    assert token not in store.said()


@pytest.mark.parametrize("key", [b"", b"\0" * KEY_BYTES, b"\xff" * KEY_BYTES])
def test_a_byte_stream_without_the_key_is_closed_without_an_answer(
    gcs_with_token: tuple[Service, Path], store: Service, key: bytes
) -> None:
    token = load_token(gcs_with_token[1])
    options: Any = flight.FlightCallOptions(
        headers=[(b"authorization", f"Bearer {token}".encode())], timeout=TIMEOUT_S
    )
    with flight.connect(f"grpc://{store.address}") as client:
        (answer,) = client.do_action("rostral.bytes", options)
    port = int.from_bytes(answer.body.to_pybytes()[8:10], "little")
    hello = Door(port, key.ljust(KEY_BYTES, b"k")).hello()
    assert len(hello) == HELLO_BYTES
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(hello + b"\0" * 200)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_no_file_of_ours_compares_a_token_but_in_constant_time() -> None:
    found = []
    for file in ROOT.glob("packages/*/src/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Compare):
                continue
            if not isinstance(node.ops[0], ast.Eq | ast.NotEq | ast.In | ast.NotIn):
                continue
            sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
            if any(re.search(r"(^|[._])(token|secret|shown|_key)$", side) for side in sides):
                found.append(f"{file.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert found == []
