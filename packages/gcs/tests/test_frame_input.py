"""Frames: whoever sends anything else is told what is wrong, at once, and cut off."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from rostral_gcs._proto import gcs_pb2
from rostral_gcs.error_wire import error_from_detail
from rostral_gcs.errors import (
    GcsError,
    GcsOverloadedError,
    GcsUnavailableError,
    InvalidArgumentError,
    TooLargeError,
    UnauthenticatedError,
    VersionMismatchError,
)
from rostral_gcs.frames.server import FrameLimits
from rostral_gcs.frames.wire import (
    GREETING_SIZE_MAX,
    HEAD_SIZE,
    NONCE_SIZE,
    FrameReader,
    Kind,
    Role,
    encode,
    encode_hello,
    prove,
)

from .frame_service import SERVICE, TOKEN, connect, run, serving


async def _greeted(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection by hand, past its greeting."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    nonce = b"n" * NONCE_SIZE
    writer.write(encode(Kind.HELLO, body=encode_hello(SERVICE, nonce)))
    challenge = (await reader.readexactly(HEAD_SIZE + NONCE_SIZE))[HEAD_SIZE:]
    proof = prove(TOKEN, Role.CALLER, SERVICE, nonce, challenge)
    writer.write(encode(Kind.PROOF, body=proof))
    welcome = await reader.readexactly(HEAD_SIZE)
    assert welcome[4] == Kind.WELCOME
    await reader.readexactly(int.from_bytes(welcome[:4], "little"))
    return reader, writer


async def _refusal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> GcsError:
    """What the service says before it ends the connection."""
    (frame,) = FrameReader(GREETING_SIZE_MAX).feed(await reader.read())
    assert (frame.kind, frame.id) == (Kind.ERROR, 0)
    writer.close()
    return error_from_detail(gcs_pb2.ErrorDetail.FromString(frame.body))


HELLO = encode_hello(SERVICE, bytes(NONCE_SIZE))
STRANGERS = {
    "another protocol": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", InvalidArgumentError),
    "TLS where there is none": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", InvalidArgumentError),
    "a greeting too long": (
        encode(Kind.HELLO, body=bytes(GREETING_SIZE_MAX + 1)),
        TooLargeError,
    ),
    "a size beyond all": (b"\xff\xff\xff\xff\x01\0\0\0\0\0\0\0", TooLargeError),
    "a call without a greeting": (encode(Kind.CALL, id=1, method=1), InvalidArgumentError),
    "a proof without a greeting": (encode(Kind.PROOF, body=bytes(32)), InvalidArgumentError),
    "a second greeting": (encode(Kind.HELLO, body=HELLO) * 2, InvalidArgumentError),
    "no magic": (encode(Kind.HELLO, body=b"XXXX" + HELLO[4:]), InvalidArgumentError),
    "half a greeting": (encode(Kind.HELLO, body=HELLO[:20]), InvalidArgumentError),
    "another version": (
        encode(Kind.HELLO, body=HELLO[:4] + b"\x63\0" + HELLO[6:]),
        VersionMismatchError,
    ),
    "another service": (
        encode(Kind.HELLO, body=encode_hello("other.v1", bytes(NONCE_SIZE))),
        InvalidArgumentError,
    ),
    "no proof": (
        encode(Kind.HELLO, body=HELLO) + encode(Kind.PROOF, body=b""),
        UnauthenticatedError,
    ),
    "a wrong proof": (
        encode(Kind.HELLO, body=HELLO) + encode(Kind.PROOF, body=bytes(32)),
        UnauthenticatedError,
    ),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_a_stranger_is_told_what_is_wrong_and_cut_off(what: str) -> None:
    data, error = STRANGERS[what]

    async def scenario() -> None:
        async with serving() as (_, port, _service):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data if len(data) >= HEAD_SIZE else data.ljust(HEAD_SIZE, b"\0"))
            found = bytearray()
            while part := await reader.read(65536):
                found += part
            frames = FrameReader(GREETING_SIZE_MAX).feed(bytes(found))
            assert frames[-1].kind is Kind.ERROR
            told = error_from_detail(gcs_pb2.ErrorDetail.FromString(frames[-1].body))
            assert type(told) is error, told
            assert told.hint
            writer.close()

    run(scenario())


MEMBERS = {
    "a frame beyond the limit": ((100_001).to_bytes(4, "little") + b"\x05\0\1\0\1\0\0\0", "100001"),
    "no frame": (b"\0\0\0\0\xee\0\0\0\0\0\0\0", "is no frame"),
    "a frame that is for callers": (encode(Kind.WELCOME), "not for a service"),
    "one id for two calls": (encode(Kind.CALL, id=7, method=4) * 2, "under way already"),
}


@pytest.mark.parametrize("what", MEMBERS)
def test_a_member_that_breaks_the_rules_is_told_and_cut_off(what: str) -> None:
    data, says = MEMBERS[what]

    async def scenario() -> None:
        async with serving() as (server, port, _service):
            reader, writer = await _greeted(port)
            writer.write(data)
            assert says in str(await _refusal(reader, writer))
            channel = await connect(port)
            assert await channel.call(1, b"well", timeout_s=5.0) == b"well"
            channel.close()
            assert server.refused == 0

    run(scenario())


@pytest.mark.parametrize("data", [b"", b"\x04\0", encode(Kind.HELLO, body=HELLO)])
def test_a_stranger_who_falls_silent_is_cut_off(data: bytes) -> None:
    async def scenario() -> None:
        async with serving() as (server, port, _service):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    pass
            writer.close()
            assert not server.sessions

    run(scenario())


def test_half_a_frame_and_then_silence_ends_the_connection() -> None:
    async def scenario() -> None:
        async with serving() as (server, port, _service):
            reader, writer = await _greeted(port)
            writer.write(encode(Kind.CALL, id=1, method=1, body=bytes(5000))[:3000])
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            assert not server.sessions

    run(scenario())


def test_callers_beyond_the_limits_are_refused() -> None:
    limits = FrameLimits(connections_max=2, calls_max=3)

    async def scenario() -> None:
        async with serving(limits=limits) as (_, port, service):
            channels = [await connect(port), await connect(port)]
            with pytest.raises(GcsUnavailableError):
                await connect(port)
            calls = [
                asyncio.create_task(channels[0].call(4, b"x", timeout_s=5.0)) for _ in range(4)
            ]
            with pytest.raises(GcsOverloadedError, match="3 calls are under way"):
                await calls[3]
            service.release.set()
            assert await asyncio.gather(*calls[:3]) == [b"x"] * 3
            for channel in channels:
                channel.close()

    run(scenario())


def test_a_message_beyond_the_limit_is_not_sent_and_not_answered() -> None:
    async def scenario() -> None:
        async with serving(limits=FrameLimits(size_max=1000)) as (_, port, _service):
            channel = await connect(port)
            with pytest.raises(TooLargeError, match="the limit is 1000"):
                await channel.call(1, bytes(1001), timeout_s=5.0)
            items = channel.stream(5, b"1")
            with pytest.raises(TooLargeError, match="the answer has"):
                await anext(items)
            assert await channel.call(1, bytes(1000), timeout_s=5.0) == bytes(1000)
            channel.close()

    run(scenario())


def test_frames_are_the_same_however_their_bytes_are_cut() -> None:
    sent = [encode(Kind.CALL, id=at + 1, method=at, body=b"b" * at * 7) for at in range(20)]
    whole = b"".join(sent)
    for step in (1, 2, 5, 11, 12, 13, 100, len(whole)):
        reader = FrameReader(1000)
        frames = [
            frame
            for at in range(0, len(whole), step)
            for frame in reader.feed(whole[at : at + step])
        ]
        assert [(f.id, f.method, len(f.body)) for f in frames] == [
            (at + 1, at, at * 7) for at in range(20)
        ]
        assert not reader.is_within_frame
