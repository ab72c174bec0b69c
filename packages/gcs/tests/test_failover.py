"""Failover as a client of the GCS sees it: one delay, no error, nothing acknowledged lost."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from rostral_gcs import KV, AsyncGcsClient, GcsConfig, GcsServer, WatchKind
from rostral_gcs.backends.redis_layout import Keys
from rostral_gcs.redis_options import RedisOptions

from .redis_servers import RedisFarm, RedisProcess, group_url

pytestmark = pytest.mark.slow

META = Keys("rostral", 0).meta
VALUE = bytes(512)


def _config(folder: Path, servers: list[RedisProcess]) -> GcsConfig:
    redis = RedisOptions(urls=(group_url(servers),), command_timeout_s=0.5, poll_s=0.05)
    return GcsConfig(data_dir=folder / "unused", token="t" * 32, redis=redis)


async def _until_replicated(client: AsyncGcsClient, primary: RedisProcess) -> None:
    def is_raised() -> bool:
        return bool(primary.ask("HGET", META, "wait") == b"1")

    await asyncio.to_thread(primary.wait, is_raised)
    await client.kv_put(b"step", b"")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_paper_5_3_a_client_rides_through_the_death_of_a_primary(
    redis_farm: RedisFarm, tmp_path: Path, number: signal.Signals
) -> None:
    """OSDI'18 section 5.3, figure 10a, without its figure: that is a benchmark's to give."""
    servers = redis_farm.group(2)

    async def scenario() -> None:
        server = GcsServer(_config(tmp_path, servers))
        await server.start()
        async with AsyncGcsClient(server.address, "t" * 32) as client:
            await _until_replicated(client, servers[0])
            events = client.watch(KV, prefix=b"\0key")
            while (await anext(events)).kind is not WatchKind.SYNCED:
                pass
            keys = [b"key%021d" % at for at in range(200)]
            for at, key in enumerate(keys):
                if at == 100:
                    servers[0].send(number)
                await client.kv_put(key, VALUE)
            assert set(keys) <= set(await client.kv_keys())
            seen = [await anext(events) for _ in keys]
            assert [event.key[1:] for event in seen] == keys, "each once, in order"
            versions = [event.version for event in seen]
            assert versions == sorted(set(versions))
            await events.aclose()
        await server.stop()

    asyncio.run(scenario())
    assert servers[1].ask("HGET", META, "epoch") == b"2"


def test_a_watch_that_saw_what_a_failover_lost_begins_again(
    redis_farm: RedisFarm, tmp_path: Path
) -> None:
    """A single server that loses its newest writes: the position is one that nobody has."""
    redis = redis_farm.server()

    async def scenario() -> None:
        config = GcsConfig(
            data_dir=tmp_path / "unused",
            token="t" * 32,
            redis=RedisOptions(urls=(redis.url,), deadline_s=10.0, poll_s=0.05),
        )
        server = GcsServer(config)
        await server.start()
        async with AsyncGcsClient(server.address, "t" * 32) as client:
            await client.kv_put(b"kept", b"")
            await asyncio.to_thread(redis.ask, "SAVE")
            events = client.watch(KV)
            while (await anext(events)).kind is not WatchKind.SYNCED:
                pass
            await client.kv_put(b"lost", b"")
            assert (await anext(events)).key == b"\0lost"
            await asyncio.to_thread(redis.kill)
            await asyncio.to_thread(redis.start)
            await client.kv_put(b"new", b"")
            kinds = []
            keys = []
            while b"\0new" not in keys:
                event = await anext(events)
                kinds.append(event.kind)
                keys.append(event.key)
            assert kinds[0] is WatchKind.RESYNC
            assert b"\0lost" not in keys
            assert b"\0kept" in keys
            await events.aclose()
        await server.stop()

    asyncio.run(scenario())
