"""A connection of a frame server without a socket: what is fed to it, and what it writes."""

from __future__ import annotations

import asyncio
from typing import Any

from rostral_gcs.credentials import TlsFiles
from rostral_gcs.frames.server import FrameServer, Method
from rostral_gcs.frames.session import Session
from rostral_gcs.frames.wire import (
    HEAD_SIZE,
    NONCE_SIZE,
    Kind,
    Role,
    encode,
    encode_hello,
    prove,
)

SERVICE = "fuzz.v1"
TOKEN = "t" * 40
NONCE = bytes(NONCE_SIZE)


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self._is_closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def pause_reading(self) -> None:
        """All is read that there is."""

    def resume_reading(self) -> None:
        """As above."""

    def write_eof(self) -> None:
        """Nobody reads it."""

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    def abort(self) -> None:
        self._is_closing = True


async def _echo(body: bytes) -> bytes:
    return body


async def play(data: bytes, *, greeted: bool) -> None:
    """Feeds the data to a connection, after a right greeting or as its first bytes."""
    server = FrameServer(
        SERVICE,
        {1: Method(name="Echo", parse=bytes, pack=bytes, run=_echo)},
        tokens=TOKEN,
        tls=TlsFiles(),
    )
    session, wire = Session(server, "fuzz"), Wire()
    session.connection_made(wire)
    if greeted:
        session.data_received(encode(Kind.HELLO, body=encode_hello(SERVICE, NONCE)))
        challenge = bytes(wire.written[HEAD_SIZE:])
        proof = prove(TOKEN, Role.CALLER, SERVICE, NONCE, challenge)
        session.data_received(encode(Kind.PROOF, body=proof))
    half = len(data) // 2
    session.data_received(data[:half])
    session.data_received(data[half:])
    tasks = session.tasks
    session.connection_lost(None)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not session.tasks
