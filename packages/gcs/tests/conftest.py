"""Servers for tests: in this process's loop, and as processes of their own that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rostral_gcs import AsyncGcsClient, GcsConfig, GcsServer, generate_token, write_token
from rostral_gcs.redis_options import RedisOptions

from .redis_servers import RedisFarm, RedisProcess

Scenario = Callable[[GcsServer, AsyncGcsClient], Awaitable[None]]


@pytest.fixture
def config(tmp_path: Path) -> GcsConfig:
    """A server's configuration in this test's own directory, on any free port."""
    return GcsConfig(data_dir=tmp_path / "data", token=generate_token())


@pytest.fixture
def play(config: GcsConfig) -> Callable[..., None]:
    """Plays an async scenario against a server and a connected client in one fresh loop."""

    def run(scenario: Scenario, **changes: object) -> None:
        left_behind: list[dict[str, Any]] = []

        async def body() -> None:
            # What no task waits for any more is told to nobody but this handler.
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: left_behind.append(context)
            )
            server = GcsServer(replace(config, **changes))  # type: ignore[arg-type]
            await server.start()
            try:
                async with AsyncGcsClient(server.address, config.token) as client:
                    async with asyncio.timeout(20):
                        await scenario(server, client)
            finally:
                await server.stop()

        asyncio.run(body())
        assert left_behind == []

    return run


class ServerProcess:
    """A ``rostral-gcs serve`` process, ready to be called."""

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        token_file = folder / "token"
        self.token = token_file.read_text().strip() if token_file.exists() else ""
        if not self.token:
            self.token = write_token(token_file)
        self.command = [
            sys.executable,
            "-m",
            "rostral_gcs",
            "serve",
            f"--port={port}",
            f"--data-dir={folder / 'data'}",
            f"--token-file={token_file}",
            f"--port-file={folder / 'port'}",
        ]
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        # Blocks until the ready line or, when it could not start, the end of the output.
        self.ready_line = self.process.stdout.readline().strip()
        self.address = self.ready_line.rpartition(" ")[2]

    @property
    def port(self) -> int:
        """The bound port."""
        return int(self.address.rpartition(":")[2])

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Sends the signal, waits, and returns exit status and standard error."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        _, stderr = self.process.communicate(timeout=20)
        return self.process.returncode, stderr


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts server processes on one data directory; none outlives the test."""
    started: list[ServerProcess] = []

    def start(*, port: int = 0) -> ServerProcess:
        started.append(ServerProcess(tmp_path, port=port))
        return started[-1]

    yield start
    for server in started:
        server.end(signal.SIGKILL)


@pytest.fixture
def redis_farm(tmp_path: Path) -> Iterator[RedisFarm]:
    """Starts Redis servers; none outlives the test."""
    farm = RedisFarm(tmp_path)
    yield farm
    farm.close()


@pytest.fixture
def redis_server(redis_farm: RedisFarm) -> RedisProcess:
    """One Redis server."""
    return redis_farm.server()


@pytest.fixture(params=["embedded", "redis"])
def backend(request: pytest.FixtureRequest) -> dict[str, object]:
    """The settings of a server on each backend."""
    if request.param == "embedded":
        return {}
    server: RedisProcess = request.getfixturevalue("redis_server")
    return {"redis": RedisOptions(urls=(server.url,))}
