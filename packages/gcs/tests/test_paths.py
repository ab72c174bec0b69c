"""The two ways to a service: frames where they can be had, gRPC where not, and nobody notices."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from rostral_gcs import KV, AsyncGcsClient, ClientOptions, GcsConfig, GcsServer, WatchKind
from rostral_gcs.auth import replace_file, write_token
from rostral_gcs.calls import Calls
from rostral_gcs.errors import GcsUnavailableError, PermissionDeniedError
from rostral_gcs.paths import FramedPath, GrpcPath
from rostral_gcs.tokens import Scope, Tokens, add_token, rotate_token

from .redis_servers import free_port


def _path(client: AsyncGcsClient) -> object:
    connection = client._connection
    return connection._paths[connection.present_address]


async def _use(client: AsyncGcsClient) -> None:
    """A write, a read and a watch."""
    events = client.watch(KV)
    while (await anext(events)).kind is not WatchKind.SYNCED:
        pass
    await client.kv_put(b"k", b"v")
    assert (await anext(events)).key == b"\0k"
    row = await client.kv_get(b"k")
    assert row is not None
    assert row.value == b"v"
    await events.aclose()


@pytest.mark.parametrize(
    ("server_framed", "client_framed", "way"),
    [(True, True, FramedPath), (False, True, GrpcPath), (True, False, GrpcPath)],
)
def test_frames_are_taken_where_both_sides_have_them(
    config: GcsConfig, server_framed: bool, client_framed: bool, way: type
) -> None:
    async def scenario() -> None:
        server = GcsServer(replace(config, framed=server_framed))
        await server.start()
        options = ClientOptions(framed=client_framed)
        async with AsyncGcsClient(server.address, config.token, options=options) as client:
            await _use(client)
            assert type(_path(client)) is way
        await server.stop()

    asyncio.run(scenario())


def test_where_the_frames_cannot_be_reached_grpc_carries_all(
    config: GcsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def say_another(_: GcsServer, __: Calls) -> int:
        return free_port()

    monkeypatch.setattr(GcsServer, "_serve_frames", say_another)

    async def scenario() -> None:
        server = GcsServer(config)
        await server.start()
        async with AsyncGcsClient(server.address, config.token) as client:
            await _use(client)
            assert type(_path(client)) is GrpcPath
        await server.stop()

    asyncio.run(scenario())


def test_a_server_that_comes_back_on_other_ports_of_frames_is_found(config: GcsConfig) -> None:
    port = free_port()

    async def scenario() -> None:
        server = GcsServer(replace(config, port=port))
        await server.start()
        async with AsyncGcsClient(server.address, config.token) as client:
            await client.kv_put(b"k", b"1")
            first = _path(client)
            await server.stop()
            server = GcsServer(replace(config, port=port))
            await server.start()
            await client.kv_put(b"k", b"2")
            second = _path(client)
            assert isinstance(second, FramedPath)
            assert second is not first
        await server.stop()

    asyncio.run(scenario())


def test_closing_ends_calls_and_watches_under_way(config: GcsConfig) -> None:
    async def scenario() -> None:
        server = GcsServer(config)
        await server.start()
        client = AsyncGcsClient(server.address, config.token)
        await client.connect()
        events = client.watch(KV)
        while (await anext(events)).kind is not WatchKind.SYNCED:
            pass
        waiting = asyncio.create_task(anext(events))
        await client.kv_get(b"k")
        await client.close()
        with pytest.raises(Exception, match="was closed"):
            await waiting
        await server.stop()

    asyncio.run(scenario())


def test_a_rotated_token_is_taken_up_on_both_sides(config: GcsConfig, tmp_path: Path) -> None:
    path = tmp_path / "token"
    write_token(path)

    async def scenario() -> None:
        server = GcsServer(replace(config, token=Tokens(path)))
        await server.start()
        async with AsyncGcsClient(server.address, Tokens(path)) as client:
            await client.kv_put(b"k", b"1")
            first = _path(client)
            new = rotate_token(path, window_s=3600.0).token
            # The old one ends at once: whoever still shows it must look at the file.
            replace_file(path, f"{new}\n")
            async with asyncio.timeout(10):
                while _path(client) is first:
                    await client.kv_put(b"k", b"2")
                    await asyncio.sleep(0.05)
            await client.kv_put(b"k", b"3")
        await server.stop()

    asyncio.run(scenario())


def test_scopes_hold_in_frames_as_they_do_by_grpc(config: GcsConfig, tmp_path: Path) -> None:
    path = tmp_path / "token"
    write_token(path)
    reader = add_token(path, scope=Scope.READ, name="reader").token
    driver = add_token(path, scope=Scope.DRIVER, name="driver").token

    async def scenario() -> None:
        server = GcsServer(replace(config, token=Tokens(path)))
        await server.start()
        async with AsyncGcsClient(server.address, reader) as client:
            assert await client.kv_keys() == []
            assert type(_path(client)) is FramedPath
            with pytest.raises(PermissionDeniedError, match="scope driver"):
                await client.kv_put(b"k", b"v")
        async with AsyncGcsClient(server.address, driver) as client:
            await client.kv_put(b"k", b"v")
            with pytest.raises(PermissionDeniedError, match="scope node"):
                await client.kv_put(b"k", b"v", namespace="rostral.own")
        assert server._stats().refused_calls >= 2
        await server.stop()

    asyncio.run(scenario())


def test_a_client_without_a_server_says_so_in_its_time(config: GcsConfig) -> None:
    async def scenario() -> None:
        server = GcsServer(config)
        await server.start()
        options = ClientOptions(call_timeout_s=0.5)
        async with AsyncGcsClient(server.address, config.token, options=options) as client:
            await server.stop()
            with pytest.raises(GcsUnavailableError, match=r"tried for 0\.5 s"):
                await client.kv_get(b"k")

    asyncio.run(scenario())
