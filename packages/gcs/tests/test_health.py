"""The health service: open to all, true to what the shards do; and the command that asks it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rostral_gcs import GcsConfig, GcsServer
from rostral_gcs.health import SERVICE, ask_health
from rostral_gcs.redis_options import RedisOptions

from .redis_servers import RedisProcess

STATUS = health_pb2.HealthCheckResponse


def _stub(channel: grpc.aio.Channel) -> Any:
    make: Any = health_pb2_grpc.HealthStub
    return make(channel)


def test_a_server_is_serving_to_whoever_asks(config: GcsConfig) -> None:
    async def scenario() -> None:
        server = GcsServer(config)
        await server.start()
        assert await ask_health(server.address, 5.0) == "SERVING"
        async with grpc.aio.insecure_channel(server.address) as channel:
            unknown = health_pb2.HealthCheckRequest(service="nobody")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _stub(channel).Check(unknown)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            watch = _stub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == STATUS.SERVING
            await server.stop()
            assert (await watch.read()).status == STATUS.NOT_SERVING
            watch.cancel()

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_server_whose_redis_is_silent_does_not_serve(
    redis_server: RedisProcess, tmp_path: Path
) -> None:
    redis = RedisOptions(
        urls=(redis_server.url,), command_timeout_s=0.2, connect_timeout_s=0.2, deadline_s=0.5
    )
    config = GcsConfig(data_dir=tmp_path, token="t" * 32, redis=redis)

    async def scenario() -> None:
        server = GcsServer(replace(config, health_interval_s=0.1))
        await server.start()
        async with grpc.aio.insecure_channel(server.address) as channel:
            watch = _stub(channel).Watch(health_pb2.HealthCheckRequest())
            async with asyncio.timeout(10):
                assert (await watch.read()).status == STATUS.SERVING
                redis_server.send(signal.SIGSTOP)
                assert (await watch.read()).status == STATUS.NOT_SERVING
                redis_server.send(signal.SIGCONT)
                assert (await watch.read()).status == STATUS.SERVING
            watch.cancel()
        await server.stop()

    asyncio.run(scenario())


@pytest.mark.slow
def test_the_status_command_says_what_it_finds(config: GcsConfig) -> None:
    async def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rostral_gcs", "status", *arguments]
        return await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False
        )

    async def scenario() -> None:
        server = GcsServer(config)
        await server.start()
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            nobody = f"127.0.0.1:{unused.getsockname()[1]}"
            well = await ask("--address", server.address)
            assert (well.returncode, well.stderr) == (0, "")
            assert well.stdout.startswith(f"{server.address}  SERVING  ")
            mixed = await ask("--address", f"{server.address},{nobody}", "--json")
            assert mixed.returncode == 3
            servers = json.loads(mixed.stdout)["servers"]
            assert [one["status"] for one in servers] == ["SERVING", "UNREACHABLE"]
            assert nobody in servers[1]["error"]
        await server.stop()

    asyncio.run(scenario())
