"""S1, S17, S28: the port for frames, to who does not know the token or repeats what it saw."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from rostral_gcs.auth import load_token
from rostral_gcs.frames.wire import (
    NONCE_SIZE,
    Frame,
    FrameReader,
    Kind,
    Role,
    encode,
    encode_hello,
    prove,
)
from rostral_gcs.protocol import FRAME_METHODS, SERVICE

from .services import Service, family_of, listening
from .wrong_tokens import wrong_headers

TIMEOUT_S = 20.0
NONCE = bytes(NONCE_SIZE)


@pytest.fixture
def port(gcs_with_token: tuple[Service, Path]) -> int:
    """Of the GCS, for frames."""
    running, _ = gcs_with_token
    ((_, found),) = listening(family_of(running.process.pid)) - {running.target}
    return found


class Caller:
    """A caller of our own making."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self._reader = FrameReader(1 << 20)
        self._frames: list[Frame] = []

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def next(self) -> Frame:
        """The next frame of the service."""
        while not self._frames:
            data = self.socket.recv(1 << 16)
            assert data, "the service has closed the connection without a word"
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def greet(self, proof_of: Callable[[bytes], bytes]) -> Frame:
        """What the service answers to a proof, which is made of its challenge."""
        self.socket.sendall(encode(Kind.HELLO, body=encode_hello(SERVICE, NONCE)))
        self.socket.sendall(encode(Kind.PROOF, body=proof_of(self.next().body)))
        return self.next()


def prove_with(token: str) -> Callable[[bytes], bytes]:
    return lambda challenge: prove(token, Role.CALLER, SERVICE, NONCE, challenge)


def test_every_wrong_token_is_refused_and_opens_no_call(
    gcs_with_token: tuple[Service, Path], port: int
) -> None:
    gcs, token_file = gcs_with_token
    token = load_token(token_file)
    shown = {(header or "").removeprefix("Bearer ") for header in wrong_headers(token).values()}
    for wrong in shown - {token}:
        with Caller(port) as caller:
            answer = caller.greet(prove_with(wrong))
            assert answer.kind is Kind.ERROR, wrong
            assert b"UNAUTHENTICATED" in answer.body
            assert token.encode() not in answer.body
    with Caller(port) as caller:
        assert caller.greet(prove_with(token)).kind is Kind.WELCOME
    assert token not in gcs.said()


@pytest.mark.parametrize("method", sorted(FRAME_METHODS.values()))
def test_no_call_is_taken_before_the_greeting(port: int, method: int) -> None:
    with Caller(port) as caller:
        caller.socket.sendall(encode(Kind.CALL, id=1, method=method))
        answer = caller.next()
        assert (answer.kind, answer.id) == (Kind.ERROR, 0)
        assert caller.socket.recv(1) == b""


def test_a_proof_that_was_seen_is_good_for_no_second_connection(
    gcs_with_token: tuple[Service, Path], port: int
) -> None:
    token, seen = load_token(gcs_with_token[1]), []

    def recorded(challenge: bytes) -> bytes:
        seen.append(prove_with(token)(challenge))
        return seen[0]

    for expected in (Kind.WELCOME, Kind.ERROR):
        with Caller(port) as caller:
            assert caller.greet(recorded).kind is expected
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00" * 9]
)
def test_another_protocol_is_turned_away(port: int, said: bytes) -> None:
    with Caller(port) as caller:
        caller.socket.sendall(said)
        assert caller.next().kind is Kind.ERROR
        assert caller.socket.recv(1) == b""
