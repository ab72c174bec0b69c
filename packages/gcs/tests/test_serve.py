"""The served process: ready line, clean end, refusals, and what kill -9 must not lose."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

import pytest

from rostral_gcs import AsyncGcsClient, ClientOptions, GcsClient, GcsConfig, GcsServer
from rostral_gcs.errors import (
    ConfigError,
    DataDirLockedError,
    GcsUnavailableError,
    PortInUseError,
)

pytestmark = pytest.mark.slow


class Server(Protocol):
    """What the ``serve`` fixture starts."""

    token: str
    address: str
    ready_line: str
    command: list[str]
    process: subprocess.Popen[str]

    @property
    def port(self) -> int: ...
    def end(self, number: signal.Signals) -> tuple[int, str]: ...


class Serve(Protocol):
    """The ``serve`` fixture."""

    def __call__(self, *, port: int = 0) -> Server: ...


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rostral_gcs", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_when_it_is_ready_and_ends_cleanly(
    serve: Serve, tmp_path: Path, number: signal.Signals
) -> None:
    server = serve()
    assert server.ready_line == f"rostral-gcs serving at 127.0.0.1:{server.port}"
    assert (tmp_path / "port").read_text() == f"{server.port}\n"
    with GcsClient(server.address, server.token) as client:
        client.kv_put(b"k", b"v")
        events = client.watch(__import__("rostral_gcs").KV)
        next(events)
        status, stderr = server.end(number)
        events.close()
    assert (status, stderr) == (0, "")
    assert sorted(os.listdir(tmp_path)) == ["data", "token"]
    assert sorted(os.listdir(tmp_path / "data")) == ["cluster.json", "lock", "shard-000.sqlite"]


def test_kill_9_loses_no_acknowledged_critical_write(serve: Serve) -> None:
    server = serve()
    acknowledged: list[bytes] = []

    async def write_until_killed() -> None:
        options = ClientOptions(call_timeout_s=0.3)
        async with AsyncGcsClient(server.address, server.token, options=options) as client:

            async def write(at: int) -> None:
                for step in range(10_000):
                    key = b"%d-%d" % (at, step)
                    await client.kv_put(key, key)
                    acknowledged.append(key)
                    if len(acknowledged) == 200:
                        os.kill(server.process.pid, signal.SIGKILL)

            await asyncio.gather(*(write(at) for at in range(8)), return_exceptions=True)

    asyncio.run(write_until_killed())
    assert len(acknowledged) >= 200
    again = serve()
    with GcsClient(again.address, again.token) as client:
        assert set(acknowledged) <= set(client.kv_keys())


def test_a_client_rides_through_a_restart(serve: Serve) -> None:
    server = serve()
    with GcsClient(server.address, server.token) as client:
        client.kv_put(b"before", b"1")
        server.end(signal.SIGKILL)
        again = serve(port=server.port)
        assert again.port == server.port
        client.kv_put(b"after", b"2")
        assert client.kv_keys() == [b"after", b"before"]


def test_a_second_server_on_the_directory_is_refused(serve: Serve) -> None:
    first = serve()
    second = serve()
    status, stderr = second.end(signal.SIGTERM)
    assert (status, second.ready_line) == (1, "")
    assert "DATA_DIR_LOCKED: data directory" in stderr
    assert f"locked by pid {first.process.pid}; stop that server" in stderr
    with GcsClient(first.address, first.token) as client:
        assert client.kv_keys() == []


def test_a_port_in_use_is_refused_by_name(serve: Serve, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = serve(port=port)
        status, stderr = server.end(signal.SIGTERM)
    assert status == 1
    assert f"PORT_IN_USE: port {port} on 127.0.0.1 is in use" in stderr
    assert "--port 0" in stderr
    assert not (tmp_path / "port").exists()


def test_wrong_usage_and_wrong_configuration_have_their_exit_statuses(tmp_path: Path) -> None:
    assert _run("serve", "--nonsense").returncode == 2
    assert _run("nonsense").returncode == 2
    assert _run("serve", "--port", "many").returncode == 2
    folder = f"--data-dir={tmp_path / 'data'}"
    wrong = _run("serve", folder, "--port", "99999", "--shards", "0")
    assert wrong.returncode == 78
    assert "port is 99999" in wrong.stderr
    assert "shard_count is 0" in wrong.stderr
    open_bind = _run("serve", folder, "--bind", "0.0.0.0")
    assert open_bind.returncode == 78
    assert "INSECURE_BIND: refusing to listen on 0.0.0.0 without TLS" in open_bind.stderr
    no_token = _run("serve", folder, f"--token-file={tmp_path / 'missing'}")
    assert no_token.returncode == 78
    assert "TOKEN_FILE: cannot open token file" in no_token.stderr
    assert not list(tmp_path.glob("data/*.sqlite"))


def test_shards_are_added_by_command(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    with GcsClient(server.address, server.token) as client:
        for at in range(100):
            client.kv_put(b"%d" % at, b"v")
        where = [f"--address={server.address}", f"--token-file={tmp_path / 'token'}"]
        done = _run("add-shards", "4", *where)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("4 shards; ")
        refused = _run("add-shards", "3", *where)
        assert refused.returncode == 1
        assert "shards can be added, not taken away" in refused.stderr
        assert len(client.kv_keys()) == 100
    server.end(signal.SIGKILL)
    again = serve()
    with GcsClient(again.address, again.token) as client:
        assert len(client.kv_keys()) == 100


def test_the_token_command_makes_a_private_file(tmp_path: Path) -> None:
    done = _run("token", str(tmp_path / "t"))
    assert (done.returncode, done.stdout) == (0, f"token written to {tmp_path / 't'}\n")
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o600
    assert _run("token", str(tmp_path / "t")).returncode == 78


def test_an_address_where_nothing_listens_is_named_in_bounded_time() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        started_s = time.monotonic()
        with pytest.raises(GcsUnavailableError) as caught:
            GcsClient(address, "t" * 16, options=ClientOptions(connect_timeout_s=0.5))
        assert time.monotonic() - started_s < 3
    assert caught.value.address == address
    assert f"no GCS answers at {address}" in str(caught.value)
    assert "rostral-gcs serve" in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


def test_an_embedded_server_refuses_and_starts_again(config: GcsConfig) -> None:
    from dataclasses import replace

    async def scenario() -> None:
        first = GcsServer(config)
        port = await first.start()
        with pytest.raises(DataDirLockedError, match=f"pid {os.getpid()}"):
            await GcsServer(config).start()
        elsewhere = replace(config, data_dir=config.data_dir / "b", port=port)
        with pytest.raises(PortInUseError):
            await GcsServer(elsewhere).start()
        await first.stop()
        await first.stop()
        with pytest.raises(ConfigError, match="made with shard_count 1"):
            await GcsServer(replace(config, shard_count=2)).start()
        again = GcsServer(replace(config, port=port))
        assert await again.start() == port
        await again.stop()

    asyncio.run(scenario())


def test_a_damaged_cluster_file_is_named(config: GcsConfig) -> None:
    from rostral_gcs.errors import StorageError

    config.data_dir.mkdir()
    (config.data_dir / "cluster.json").write_text(json.dumps({"cluster_id": "zz"}))
    with pytest.raises(StorageError, match=r"cluster\.json is damaged"):
        asyncio.run(GcsServer(config).start())
