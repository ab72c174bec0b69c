"""Streams between two schedulers: order, bounds, and who is refused, silent or dead."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from rostral_gcs.auth import write_token
from rostral_gcs.errors import PermissionDeniedError, RostralError, UnauthenticatedError
from rostral_gcs.tokens import Scope, Tokens, add_token
from rostral_scheduler.between import handshake, peer_server
from rostral_scheduler.between.messages import Beat, EndJob, Outstanding, Push, Taken, encode_into
from rostral_scheduler.between.stream import FRAME_BYTES_MAX, FrameReader
from rostral_scheduler.errors import RequestError

from .peers import HOST, ORIGIN, TOKEN, OriginEnd, listening, until


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def frame_of(*messages: Any) -> bytes:
    frame = bytearray(4)
    encode_into(messages, frame, 4)
    return (len(frame) - 4).to_bytes(4, "little") + bytes(frame[4:])


def test_messages_arrive_in_order_whatever_their_size() -> None:
    async def work() -> None:
        sizes = [0, 1, 100_000, 3_000_000, 7, 20_000_000, 2]
        async with listening() as (server, host):
            origin = OriginEnd(server.address)
            await until(lambda: origin.times_connected, "the stream is open")
            for size in sizes:
                origin.link.send(Push(b"j" * 16, "log", {"lines": "x" * size}))
            await until(lambda: len(host.heard) == len(sizes), "all have come")
            pushed = [message for message in host.heard if isinstance(message, Push)]
            found = [len(str(message.body["lines"])) for message in pushed]
            assert found == sizes
            for number in range(5000):
                host.outboxes[ORIGIN].send(Taken([number.to_bytes(16)]))
            await until(lambda: len(origin.heard) == 5000, "all have come back")
            assert [m.task_ids[0] for m in origin.heard] == [  # type: ignore[union-attr]
                number.to_bytes(16) for number in range(5000)
            ]
            await origin.link.close()
            await until(lambda: not host.outboxes, "the host knows that the stream has ended")

    run(work())


def test_a_frame_is_read_however_its_bytes_come() -> None:
    messages = [Taken([b"t" * 16]), Beat(), EndJob(b"j" * 16)]
    data = frame_of(*messages) + frame_of(Outstanding([]))
    for step in (1, 2, 5, len(data)):
        reader = FrameReader()
        found = []
        for at in range(0, len(data), step):
            found += reader.feed(data[at : at + step])
        assert found == [*messages, Outstanding([])]


@pytest.mark.parametrize("size", [FRAME_BYTES_MAX + 1, (1 << 32) - 1])
def test_a_frame_that_is_too_long_is_refused_before_it_comes(size: int) -> None:
    with pytest.raises(RequestError, match="frame"):
        FrameReader().feed(size.to_bytes(4, "little"))


def test_a_wrong_token_is_refused_at_once_and_the_host_is_not_dead() -> None:
    async def work() -> None:
        async with listening() as (server, host):
            origin = OriginEnd(server.address, token="w" * 40)
            await until(lambda: origin.refusals, "it is refused")
            assert isinstance(origin.refusals[0], UnauthenticatedError)
            assert server.refused == 1
            await origin.link.close()
            assert origin.losses == []
            assert origin.times_connected == 0
            assert host.outboxes == {}

    run(work())


def test_a_token_of_another_scope_makes_no_peer(tmp_path: Any) -> None:
    path = tmp_path / "token"
    path.parent.chmod(0o700)
    write_token(path)
    driver = add_token(path, scope=Scope.DRIVER, name="alice")

    async def work() -> None:
        async with listening(token=Tokens(path)) as (server, _):
            origin = OriginEnd(server.address, token=driver.token)
            await until(lambda: origin.refusals, "it is refused")
            assert isinstance(origin.refusals[0], PermissionDeniedError)
            await origin.link.close()

    run(work())


def test_another_node_at_the_same_port_means_that_the_former_is_dead() -> None:
    async def work() -> None:
        async with listening() as (server, _):
            origin = OriginEnd(server.address, host_id=b"f" * 16)
            await until(lambda: origin.losses, "it is found dead")
            assert "another node" in origin.losses[0]

    run(work())


def test_a_host_that_is_gone_is_dead_at_once_and_one_that_is_silent_later() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with listening() as (server, _):
            origin = OriginEnd(server.address, silence_s=60.0)
            await until(lambda: origin.times_connected, "the stream is open")
        begun_at_s = loop.time()
        await until(lambda: origin.losses, "it is found dead")
        assert "nothing listens" in origin.losses[0]
        assert loop.time() - begun_at_s < 1.0
        with socket.create_server(("127.0.0.1", 0)) as silent:
            mute = OriginEnd(f"127.0.0.1:{silent.getsockname()[1]}", silence_s=0.3)
            await until(lambda: mute.losses, "it is found dead")
            assert "said nothing" in mute.losses[0]

    run(work())


def test_an_origin_comes_back_after_its_stream_broke() -> None:
    async def work() -> None:
        async with listening() as (server, host):
            origin = OriginEnd(server.address)
            await until(lambda: origin.times_connected == 1, "the stream is open")
            for connection in list(server.connections):
                connection.abort()
            await until(lambda: origin.times_connected == 2, "it is open again")
            origin.link.send(EndJob(b"j" * 16))
            await until(lambda: host.heard == [EndJob(b"j" * 16)], "it carries messages")
            await origin.link.close()

    run(work())


async def said_to(address: str, *parts: bytes) -> bytes:
    """What the host answers to these bytes until it ends the connection."""
    name, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    for part in parts:
        writer.write(part)
    try:
        return await asyncio.wait_for(reader.read(-1), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_whoever_does_not_begin_as_agreed_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_server, "HANDSHAKE_S", 0.2)
    hello = handshake.encode_hello(ORIGIN, HOST, TOKEN)
    other_version = hello[:4] + bytes(4) + hello[8:]

    async def work() -> None:
        async with listening() as (server, host):
            for parts in ([b"GET / HTTP/1.1\r\n\r\n"], [b"\0" * 4096], [hello[:20]], [b""]):
                assert await said_to(server.address, *parts) == b""
            answer = await said_to(server.address, other_version)
            assert handshake.decode_answer(answer) is handshake.Verdict.OTHER_VERSION
            nonsense = (2).to_bytes(4, "little") + b"\xc1" * 2
            welcome = await said_to(server.address, hello + nonsense)
            assert handshake.decode_answer(welcome) is handshake.Verdict.WELCOME
            assert host.outboxes == {}
            await until(lambda: not server.connections, "nothing of them is left")

    run(work())


def test_no_more_strangers_are_listened_to_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_server, "STRANGERS_MAX", 3)

    async def work() -> None:
        async with listening() as (server, _):
            name, _, port = server.address.rpartition(":")
            open_ = [await asyncio.open_connection(name, int(port)) for _ in range(3)]
            await until(lambda: len(server.strangers) == 3, "they are heard")
            assert await said_to(server.address) == b""
            for _, writer in open_:
                writer.close()
            await until(lambda: not server.strangers, "they are gone")
            origin = OriginEnd(server.address)
            await until(lambda: origin.times_connected, "the next one is let in")
            await origin.link.close()

    run(work())


def test_no_bytes_but_an_answer_are_an_answer() -> None:
    good = handshake.encode_answer(handshake.Verdict.FULL)
    assert handshake.decode_answer(good) is handshake.Verdict.FULL
    for bad in (b"X" + good[1:], good[:-1] + b"\xff"):
        with pytest.raises(RequestError):
            handshake.decode_answer(bad)


@pytest.mark.parametrize("verdict", [v for v in handshake.Verdict if v])
def test_each_refusal_is_an_error_that_says_where(verdict: handshake.Verdict) -> None:
    error = handshake.error_of(verdict, "10.0.0.1:7")
    assert isinstance(error, RostralError)
    assert "10.0.0.1:7" in error.message
