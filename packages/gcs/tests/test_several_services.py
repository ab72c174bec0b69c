"""Several services over one Redis: clients go to another, and nothing is done twice or lost."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rostral_gcs import (
    KV,
    NODES,
    AsyncGcsClient,
    ClientOptions,
    GcsClient,
    GcsConfig,
    GcsServer,
    NodeRow,
    WatchKind,
    write_token,
)
from rostral_gcs._proto import gcs_pb2
from rostral_gcs.errors import ClusterMismatchError, ConflictError
from rostral_gcs.ids import NodeID
from rostral_gcs.redis_options import RedisOptions
from rostral_gcs.tables.nodes import NodeState

from .redis_servers import RedisFarm, RedisProcess

pytestmark = pytest.mark.slow

TOKEN = "t" * 32


class Service:
    """One ``rostral-gcs serve`` over Redis."""

    def __init__(self, folder: Path, redis: RedisProcess) -> None:
        command = [sys.executable, "-m", "rostral_gcs", "serve", "--port=0", "--backend=redis"]
        command += [f"--token-file={folder / 'token'}", f"--redis-url={redis.url}"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[-1]


Serve = Callable[[], Service]


@pytest.fixture
def token(tmp_path: Path) -> str:
    """Of all services."""
    return write_token(tmp_path / "token")


@pytest.fixture
def serve(tmp_path: Path, redis_server: RedisProcess, token: str) -> Iterator[Serve]:
    """Starts services over one Redis; none outlives the test."""
    started: list[Service] = []

    def start() -> Service:
        started.append(Service(tmp_path, redis_server))
        return started[-1]

    yield start
    for service in started:
        service.process.kill()
        service.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_client_goes_on_with_another_service(
    serve: Serve, token: str, number: signal.Signals
) -> None:
    first, second = serve(), serve()

    async def scenario() -> None:
        options = ClientOptions(attempt_timeout_s=0.5)
        both = f"{first.address},{second.address}"
        async with AsyncGcsClient(both, token, options=options) as client:
            events = client.watch(KV)
            while (await anext(events)).kind is not WatchKind.SYNCED:
                pass
            keys = [b"%03d" % at for at in range(60)]
            for at, key in enumerate(keys):
                if at == 30:
                    first.process.send_signal(number)
                await client.kv_put(key, key)
            assert await client.kv_keys() == keys
            async with asyncio.timeout(5):
                seen = [await anext(events) for _ in keys]
            assert [event.key[1:] for event in seen] == keys, "none lost, none repeated"
            await events.aclose()

    asyncio.run(scenario())


def test_a_request_that_two_services_get_is_done_once(serve: Serve, token: str) -> None:
    first, second = serve(), serve()

    async def scenario() -> None:
        async with (
            AsyncGcsClient(first.address, token) as one,
            AsyncGcsClient(second.address, token) as two,
        ):
            request = gcs_pb2.WriteRequest(request_id=b"r" * 16)
            request.ops.add(table="kv", key=b"\0k", value=b"v", expected_version=0)
            replies = await asyncio.gather(
                *(
                    client._connection.call("Write", request, gcs_pb2.WriteReply)
                    for client in (one, two, one, two)
                )
            )
            versions = {reply.results[0].version for reply in replies}
            assert len(versions) == 1, "the same answer, and no conflict"
            row = await two.kv_get(b"k")
            assert row is not None
            assert {row.version} == versions

    asyncio.run(scenario())


def test_writers_of_two_services_lose_no_update(serve: Serve, token: str) -> None:
    first, second = serve(), serve()

    async def count_up(address: str) -> None:
        async with AsyncGcsClient(address, token) as client:
            for _ in range(25):
                while True:
                    row = await client.kv_get(b"count")
                    value = b"%d" % (int(row.value) + 1 if row else 1)
                    try:
                        expected = row.version if row else 0
                        await client.kv_put(b"count", value, expected_version=expected)
                    except ConflictError:
                        continue
                    break

    async def scenario() -> None:
        await asyncio.gather(*(count_up(one.address) for one in (first, second, first, second)))

    asyncio.run(scenario())
    with GcsClient(second.address, token) as client:
        row = client.kv_get(b"count")
        assert row is not None
        assert row.value == b"100"


def test_a_node_may_renew_its_lease_with_any_service(
    redis_server: RedisProcess, tmp_path: Path
) -> None:
    config = GcsConfig(
        data_dir=tmp_path / "unused",
        token=TOKEN,
        redis=RedisOptions(urls=(redis_server.url,), poll_s=0.05),
    )

    async def scenario() -> None:
        servers = [GcsServer(config), GcsServer(config)]
        for server in servers:
            await server.start()
        async with (
            AsyncGcsClient(servers[0].address, TOKEN) as one,
            AsyncGcsClient(servers[1].address, TOKEN) as two,
        ):
            row = await one.register_node(
                NodeRow(node_id=NodeID.from_random(), address="h", lease_s=0.6)
            )
            # At once with the other, which may not have heard of it yet; then with one alone.
            await two.renew_node_lease(row.node_id, row.epoch)
            for client in (one, one, one, one, two, two, two, two):
                await asyncio.sleep(0.25)
                await client.renew_node_lease(row.node_id, row.epoch)
            found = await two.get_node(row.node_id)
            assert found is not None
            assert found.state is NodeState.ALIVE
            async with asyncio.timeout(5):
                events = one.watch(NODES)
                async for event in events:
                    if event.row is not None and event.row.state is NodeState.DEAD:
                        assert "did not renew its lease" in event.row.death_cause
                        break
                await events.aclose()
        for server in servers:
            await server.stop()

    asyncio.run(scenario())


def test_addresses_of_two_stores_are_refused(
    serve: Serve, token: str, redis_farm: RedisFarm, tmp_path: Path
) -> None:
    first = serve()
    other = Service(tmp_path, redis_farm.server())
    try:
        with GcsClient(f"{first.address},{other.address}", token) as client:
            first.process.kill()
            with pytest.raises(ClusterMismatchError, match="serves another store"):
                client.kv_keys()
    finally:
        other.process.kill()
        other.process.communicate()
