"""The page of metrics: what it counts, and that it is only there when asked for."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest

from rostral_gcs import AsyncGcsClient, GcsConfig, GcsServer
from rostral_gcs._proto import gcs_pb2
from rostral_gcs.errors import ConfigError
from rostral_gcs.tokens import Tokens


def _read(port: int, token: str) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=5) as page:
        text: bytes = page.read()
    return text.decode()


def test_the_page_counts_calls_and_shows_the_shards(config: GcsConfig) -> None:
    async def scenario() -> None:
        server = GcsServer(replace(config, metrics_port=0, shard_count=2))
        await server.start()
        async with AsyncGcsClient(server.address, config.token) as client:
            await client.kv_put(b"k", b"v")
            await client.kv_put(b"k", b"v")
            with pytest.raises(ValueError, match="key is empty"):
                await client._connection.call(
                    "Read", gcs_pb2.ReadRequest(table="kv", keys=[b""]), gcs_pb2.ReadReply
                )
        async with grpc.aio.insecure_channel(server.address) as channel:
            hello: Any = channel.unary_unary("/rostral.gcs.v1.Gcs/Hello")  # type: ignore[call-arg]
            with pytest.raises(grpc.aio.AioRpcError):
                await hello(b"")
        token = Tokens.of(config.token).current()
        text = await asyncio.to_thread(_read, server.metrics_port, token)
        assert token not in text
        lines = text.splitlines()
        for line in (
            'rostral_gcs_call_seconds_count{method="Write"} 2.0',
            'rostral_gcs_failed_calls_total{method="Read"} 1.0',
            "rostral_gcs_refused_calls_total 1.0",
            "rostral_gcs_serving 1.0",
            "rostral_gcs_insecure_mode 0.0",
            'rostral_gcs_queued_commands{shard="1"} 0.0',
        ):
            assert line in lines
        sequences = [float(line.split()[1]) for line in lines if "last_sequence{" in line]
        assert sorted(sequences) == [0.0, 2.0]
        port = server.metrics_port
        await server.stop()
        assert server.metrics_port == 0
        with pytest.raises(OSError, match="refused"):
            await asyncio.to_thread(_read, port, token)

    asyncio.run(scenario())


def test_without_a_port_there_is_no_page_and_a_taken_one_is_named(config: GcsConfig) -> None:
    async def scenario() -> None:
        server = GcsServer(config)
        await server.start()
        assert server.metrics_port == 0
        await server.stop()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(ConfigError, match=f"cannot serve metrics at 127.0.0.1:{port}"):
                await GcsServer(replace(config, metrics_port=port)).start()

    asyncio.run(scenario())
