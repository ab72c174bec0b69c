"""Frames: calls, streams, tokens and TLS. What strangers may send is in test_frame_input.py."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from rostral_gcs import TlsFiles
from rostral_gcs.auth import generate_token, replace_file, write_token
from rostral_gcs.certs import init_ca, issue
from rostral_gcs.errors import (
    GcsError,
    GcsUnavailableError,
    InsecureBindError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    PortInUseError,
    UnauthenticatedError,
)
from rostral_gcs.frames.server import FrameServer
from rostral_gcs.frames.wire import (
    HEAD_SIZE,
    NONCE_SIZE,
    VERSION,
    Kind,
    encode,
    encode_hello,
)
from rostral_gcs.tokens import Scope, Tokens, add_token

from .frame_service import SERVICE, TOKEN, connect, run, serving

# --- Calls and streams ----------------------------------------------------------------------------


def test_many_calls_at_once_each_get_their_own_answer() -> None:
    async def scenario() -> None:
        async with serving() as (_, port, _service):
            channel = await connect(port)
            bodies = [b"%d" % number * number for number in range(300)]
            answers = await asyncio.gather(
                *(channel.call(1, body, timeout_s=5.0) for body in bodies)
            )
            assert answers == bodies
            channel.close()

    run(scenario())


def test_what_a_method_refuses_reaches_its_caller_typed_and_ends_nothing_else() -> None:
    async def scenario() -> None:
        async with serving() as (_, port, _service):
            channel = await connect(port)
            with pytest.raises(NotFoundError, match="no such thing") as caught:
                await channel.call(2, b"", timeout_s=5.0)
            assert caught.value.hint == "make one"
            with pytest.raises(GcsError, match="broken failed"):
                await channel.call(3, b"", timeout_s=5.0)
            with pytest.raises(InvalidArgumentError, match="no method number 99"):
                await channel.call(99, b"", timeout_s=5.0)
            with pytest.raises(InvalidArgumentError, match="cannot be read"):
                await channel.call(7, b"seven", timeout_s=5.0)
            assert await channel.call(1, b"still here", timeout_s=5.0) == b"still here"
            channel.close()

    run(scenario())


def test_a_call_out_of_time_is_unavailable_and_its_method_is_cancelled() -> None:
    async def scenario() -> None:
        async with serving() as (_, port, service):
            channel = await connect(port)
            with pytest.raises(GcsUnavailableError, match="no answer within"):
                await channel.call(4, b"", timeout_s=0.05)
            await service.cancelled.wait()
            assert await channel.call(1, b"x", timeout_s=5.0) == b"x"
            channel.close()

    run(scenario())


def test_a_slow_reader_of_a_stream_stops_its_sender_and_gets_everything() -> None:
    async def scenario() -> None:
        async with serving() as (_, port, service):
            # Longer than any silence that is allowed: what is not read is not silent.
            channel = await connect(port)
            items = channel.stream(5, b"3000")
            assert (await anext(items)).startswith(b"0")
            before = -1
            while service.sent != before:
                before = service.sent
                await asyncio.sleep(0.3)
            assert before < 3000, "27 MB were sent to somebody who does not read"
            service.release.set()
            numbers = [int(item[:-9_000]) async for item in items]
            assert numbers == list(range(1, 3000))
            await items.aclose()
            channel.close()

    run(scenario())


def test_a_stream_that_is_closed_ends_at_the_service() -> None:
    async def scenario() -> None:
        async with serving() as (_, port, service):
            channel = await connect(port)
            items = channel.stream(5, b"1")
            await anext(items)
            await items.aclose()
            await service.cancelled.wait()
            channel.close()

    run(scenario())


def test_stopping_ends_streams_and_lets_calls_end() -> None:
    async def scenario() -> None:
        async with serving() as (server, port, service):
            channel = await connect(port)
            items = channel.stream(5, b"1")
            await anext(items)
            call = asyncio.create_task(channel.call(4, b"late", timeout_s=5.0))
            await channel.call(1, b"", timeout_s=5.0)
            stopping = asyncio.create_task(server.stop(grace_s=5.0))
            assert [item async for item in items] == []
            service.release.set()
            assert await call == b"late"
            await stopping
            with pytest.raises(GcsUnavailableError):
                await channel.call(1, b"", timeout_s=5.0)
            channel.close()

    run(scenario())


def test_a_channel_that_retires_answers_what_is_under_way() -> None:
    async def scenario() -> None:
        async with serving() as (_, port, service):
            channel = await connect(port)
            call = asyncio.create_task(channel.call(4, b"late", timeout_s=5.0))
            await channel.call(1, b"", timeout_s=5.0)
            channel.retire()
            assert channel.is_open
            service.release.set()
            assert await call == b"late"
            assert not channel.is_open

    run(scenario())


def test_a_service_that_falls_silent_is_noticed_with_nothing_but_a_stream_open() -> None:
    async def scenario() -> None:
        async with serving() as (server, port, _service):
            channel = await connect(port)
            items = channel.stream(5, b"0")
            waiting = asyncio.create_task(anext(items))
            await channel.call(1, b"", timeout_s=5.0)
            for session in server.sessions:
                assert session._transport is not None
                session._transport.pause_reading()
            with pytest.raises(GcsUnavailableError, match="silent"):
                await waiting
            channel.close()

    run(scenario())


# --- Who may --------------------------------------------------------------------------------------


def test_a_wrong_token_is_refused_at_once_and_does_not_travel() -> None:
    async def scenario() -> None:
        async with serving() as (server, port, _service):
            with pytest.raises(UnauthenticatedError):
                await connect(port, token="w" * 32)
            assert server.refused == 1
            hello = encode(Kind.HELLO, body=encode_hello(SERVICE, bytes(NONCE_SIZE)))
            assert b"w" * 32 not in hello
            assert not server.sessions or all(session._is_over for session in server.sessions)

    run(scenario())


def test_a_service_that_does_not_know_the_token_is_refused_by_its_caller() -> None:
    """Somebody who listens at a port that was ours: it takes any proof, and has none."""

    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes((await reader.readexactly(HEAD_SIZE))[:4], "little")
        await reader.readexactly(size)
        writer.write(encode(Kind.CHALLENGE, body=bytes(NONCE_SIZE)))
        proof = await reader.readexactly(HEAD_SIZE + 32)
        seen.append(proof[HEAD_SIZE:])
        welcome = b"RSTW" + VERSION.to_bytes(2, "little") + (1000).to_bytes(4, "little")
        writer.write(encode(Kind.WELCOME, body=welcome + proof[HEAD_SIZE:]))
        await writer.drain()
        writer.close()

    seen: list[bytes] = []

    async def scenario() -> None:
        server = await asyncio.start_server(stranger, "127.0.0.1", 0)
        with pytest.raises(UnauthenticatedError, match="does not know the cluster's token"):
            await connect(server.sockets[0].getsockname()[1])
        server.close()
        assert seen and TOKEN.encode() not in seen[0]

    run(scenario())


def test_a_token_of_too_little_scope_is_denied_that_call_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "token"
        write_token(path)
        reader = add_token(path, scope=Scope.READ, name="reader").token
        async with serving(tokens=Tokens(path)) as (server, port, _service):
            channel = await connect(port, token=reader)
            assert await channel.call(1, b"x", timeout_s=5.0) == b"x"
            with pytest.raises(PermissionDeniedError, match="closed needs a token of scope node"):
                await channel.call(6, b"x", timeout_s=5.0)
            assert server.refused == 1
            channel.close()

    run(scenario())


def test_a_token_that_is_taken_out_is_refused_on_open_connections(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "token"
        token = write_token(path)
        async with serving(tokens=Tokens(path)) as (_, port, _service):
            channel = await connect(port, token=token)
            await channel.call(1, b"x", timeout_s=5.0)
            replace_file(path, generate_token() + "\n")
            with pytest.raises(UnauthenticatedError):
                while True:
                    await channel.call(1, b"x", timeout_s=5.0)
                    await asyncio.sleep(0.05)
            assert not channel.is_open

    run(scenario())


def test_more_than_loopback_needs_tls_or_a_word(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = FrameServer(SERVICE, {}, tokens=TOKEN, tls=TlsFiles())
        with pytest.raises(InsecureBindError):
            await server.start("0.0.0.0", 0)
        async with serving() as (_, port, _service):
            with pytest.raises(PortInUseError):
                await server.start("127.0.0.1", port)
        await server.stop()

    run(scenario())


# --- TLS ------------------------------------------------------------------------------------------


def files(folder: Path, name: str | None, *, ca: Path | None = None) -> TlsFiles:
    return TlsFiles(
        tls_certificate_file=None if name is None else str(folder / f"{name}.crt"),
        tls_key_file=None if name is None else str(folder / f"{name}.key"),
        tls_ca_file=str(ca or folder / "ca.crt"),
    )


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    path = tmp_path / "pki"
    init_ca(path)
    issue(path, "server", hosts=["127.0.0.1"])
    issue(path, "node", hosts=["10.0.0.2"])
    return path


def test_with_tls_every_wrong_certificate_and_plain_callers_are_refused(
    pki: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    init_ca(other)
    issue(other, "node", hosts=["127.0.0.1"])
    wrong = {
        "none": files(pki, None),
        "of another authority": files(other, "node", ca=pki / "ca.crt"),
        "no TLS": TlsFiles(),
    }

    async def scenario() -> None:
        async with serving(tls=files(pki, "server")) as (_, port, _service):
            for what, tls in wrong.items():
                with pytest.raises(GcsUnavailableError):
                    await connect(port, tls=tls)
                    pytest.fail(f"a caller was served whose certificate is {what}")
            channel = await connect(port, tls=files(pki, "node"))
            assert await channel.call(1, bytes(90_000), timeout_s=5.0) == bytes(90_000)
            channel.close()
            found = channel._failure
            assert found is not None

    run(scenario())


def test_a_server_with_a_wrong_certificate_is_refused(pki: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    init_ca(other)
    issue(other, "server", hosts=["127.0.0.1"])

    async def scenario() -> None:
        async with serving(tls=files(other, "server")) as (_, port, _service):
            with pytest.raises(GcsUnavailableError, match="no TLS with"):
                await connect(port, tls=files(pki, "node"))
        async with serving() as (_, port, _service):
            with pytest.raises(GcsUnavailableError):
                await connect(port, tls=files(pki, "node"))

    run(scenario())


def test_old_tls_is_refused(pki: Path) -> None:
    async def scenario() -> None:
        async with serving(tls=files(pki, "server")) as (_, port, _service):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_cert_chain(pki / "node.crt", pki / "node.key")
            context.load_verify_locations(pki / "ca.crt")
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port, ssl=context)

    run(scenario())
