"""Adding shards to a store that several services use: deaths on the way, and the other services."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from rostral_gcs import (
    KV,
    AsyncGcsClient,
    GcsConfig,
    GcsServer,
    KvRow,
    TaskRow,
    TaskState,
    WatchEvent,
    WatchKind,
    shared_growth,
)
from rostral_gcs.backends.redis_layout import Keys
from rostral_gcs.errors import ConfigError, ConflictError, InvalidArgumentError, ShardsMovedError
from rostral_gcs.ids import JobID, NodeID, TaskID
from rostral_gcs.redis_options import RedisOptions
from rostral_gcs.shard import Shard
from rostral_gcs.shard_core import Op
from rostral_gcs.store import Store
from rostral_gcs.tables.registry import table_spec

from .redis_servers import RedisFarm, RedisProcess, group_url

pytestmark = pytest.mark.slow

SPEC = table_spec("kv")
KEYS = [b"\0%d" % at for at in range(300)]
STEPS_BEFORE = ("claim", "freeze", "open", "copy", "store")
STEPS_AFTER = ("thaw", "drop")
# For how long a growth may be silent that is meant to be taken for dead.
SHORT_S = 0.2
HEARD_S = 20.0


@pytest.fixture
def shared(config: GcsConfig, redis_server: RedisProcess) -> GcsConfig:
    """Two shards on Redis."""
    redis = RedisOptions(urls=(redis_server.url,), poll_s=0.05)
    return replace(config, shard_count=2, redis=redis)


@asynccontextmanager
async def opened(config: GcsConfig) -> AsyncIterator[Store]:
    store = Store(config)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def put(store: Store, key: bytes, value: bytes, expected: int | None = None) -> int:
    op = Op(SPEC, key, value, expected)
    (version,) = await store.write(NodeID.from_random().binary(), [op], None)
    assert isinstance(version, int), version
    return version


async def held(store: Store) -> dict[bytes, tuple[bytes, int]]:
    rows, more = await store.scan(SPEC, prefix=b"", after_key=b"", limit=1000)
    assert not more
    return {row.key: (row.value, row.version) for row in rows}


async def strays(store: Store) -> int:
    """Rows that lie in shards that do not own them."""
    count = 0
    for shard in store.shards:
        rows, _ = await shard.scan(SPEC, prefix=b"", after_key=b"", limit=1000)
        count += sum(store._map.shard_for(SPEC, row.key) != shard.index for row in rows)
    return count


# Kills itself when the growth comes to a step; the growth says in its log what it is about to do.
GROWER = """
import asyncio, json, logging, os, signal, sys
from pathlib import Path
from rostral_gcs import GcsConfig, shared_growth
from rostral_gcs.redis_options import RedisOptions
from rostral_gcs.store import Store

given = json.loads(sys.argv[1])
shared_growth.CLAIM_S = given["claim_s"]

class Death(logging.Handler):
    def emit(self, record):
        if record.getMessage().endswith("step=" + given["step"]):
            os.kill(os.getpid(), signal.SIGKILL)

logger = logging.getLogger("rostral.gcs.growth")
logger.setLevel(logging.DEBUG)
logger.addHandler(Death())

async def main():
    redis = RedisOptions(urls=(given["url"],))
    config = GcsConfig(data_dir=Path(given["data_dir"]), token="t" * 32, shard_count=2, redis=redis)
    store = Store(config)
    await store.open()
    await store.add_shards(4)

asyncio.run(main())
"""


def die_growing(config: GcsConfig, step: str) -> None:
    assert config.redis is not None
    (url,) = config.redis.urls
    given = {"step": step, "url": url, "data_dir": str(config.data_dir), "claim_s": SHORT_S}
    done = subprocess.run(
        [sys.executable, "-c", GROWER, json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("step", [*STEPS_BEFORE, *STEPS_AFTER])
def test_a_growth_that_dies_at_any_step_is_undone_or_ended(shared: GcsConfig, step: str) -> None:
    async def fill() -> dict[bytes, tuple[bytes, int]]:
        async with opened(shared) as store:
            for key in KEYS:
                await put(store, key, b"v" + key)
            return await held(store)

    async def look(before: dict[bytes, tuple[bytes, int]]) -> None:
        async with opened(shared) as store:
            assert await held(store) == before
            # Writes pass again as soon as whoever grew is known to be gone.
            version = await put(store, KEYS[7], b"new", before[KEYS[7]][1])
            assert version > max(version for _, version in before.values())
            assert store.shard_count == (4 if step in STEPS_AFTER else 2)
            expected = before | {KEYS[7]: (b"new", version)}
            assert await held(store) == expected
            assert (await store.add_shards(4)).shard_count == 4
            assert await held(store) == expected
            assert await strays(store) == 0
        async with opened(shared) as store:
            assert store.shard_count == 4
            assert await held(store) == expected

    before = asyncio.run(fill())
    assert set(before) == set(KEYS)
    die_growing(shared, step)
    asyncio.run(look(before))


def test_a_service_that_was_running_takes_over_from_one_that_died(shared: GcsConfig) -> None:
    async def scenario() -> None:
        async with opened(shared) as store:
            await put(store, KEYS[0], b"1")
            await asyncio.to_thread(die_growing, shared, "copy")
            await put(store, KEYS[0], b"2")
            assert store.shard_count == 2
            await asyncio.to_thread(die_growing, shared, "thaw")
            versions = [await put(store, key, b"3") for key in KEYS]
            assert store.shard_count == 4
            assert {key: (b"3", version) for key, version in zip(KEYS, versions, strict=True)} == (
                await held(store)
            )

    asyncio.run(scenario())


def test_a_growth_that_was_taken_for_dead_changes_nothing_any_more(
    shared: GcsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_growth, "CLAIM_S", SHORT_S)
    reached, go_on = asyncio.Event(), asyncio.Event()
    copy = shared_growth._copy

    async def late(
        shards: Sequence[Shard], old: Sequence[Shard], slots: dict[int, int], layout: str
    ) -> int:
        reached.set()
        await go_on.wait()
        return await copy(shards, old, slots, layout)

    async def scenario() -> None:
        async with opened(shared) as slow, opened(shared) as quick:
            for key in KEYS:
                await put(slow, key, b"1")
            monkeypatch.setattr(shared_growth, "_copy", late)
            growing = asyncio.create_task(slow.add_shards(4))
            await reached.wait()
            monkeypatch.setattr(shared_growth, "_copy", copy)
            # Waits until the claim has run out.
            for key in KEYS:
                await put(quick, key, b"2")
            go_on.set()
            with pytest.raises(ShardsMovedError):
                await growing
            for store in (slow, quick):
                assert {value for value, _ in (await held(store)).values()} == {b"2"}
                assert store.shard_count == 2
            monkeypatch.setattr(shared_growth, "CLAIM_S", 10.0)
            await quick.add_shards(4)
            for store in (slow, quick):
                assert {value for value, _ in (await held(store)).values()} == {b"2"}
                assert store.shard_count == 4
                assert await strays(store) == 0

    asyncio.run(scenario())


def test_a_late_growth_takes_no_shard_that_a_later_one_has(shared: GcsConfig) -> None:
    async def scenario() -> None:
        async with opened(shared) as store:
            first = store.shards[0]
            late = await first.move(lambda mover: mover.claim("", "late", 0.0))
            assert late == "+1:late"
            assert await first.move(lambda mover: mover.claim("", "late", 0.0)) == late
            assert await first.move(lambda mover: mover.claim("", "other", 0.0)) == ""
            # Its claim has run out at once, so this growth gives it up before it begins.
            await store.add_shards(4)
            fresh = store.shards[3]
            assert not await fresh.move(lambda mover: mover.take(late))
            assert not await fresh.move(lambda mover: mover.empty(late, SPEC.number))
            assert not await fresh.move(lambda mover: mover.adopt(late, SPEC.number, [], 1))
            assert not await first.move(lambda mover: mover.renew(late, 1.0))
            for key in KEYS:
                await put(store, key, b"v")
            assert set(await held(store)) == set(KEYS)

    asyncio.run(scenario())


@asynccontextmanager
async def serving(config: GcsConfig) -> AsyncIterator[list[GcsServer]]:
    """Two services of one store."""
    servers = [GcsServer(config), GcsServer(config)]
    try:
        for server in servers:
            await server.start()
        yield servers
    finally:
        for server in servers:
            await server.stop()


def test_other_services_go_on_while_one_adds_shards(shared: GcsConfig) -> None:
    """Counts up through two services, of which one, and then the other, adds shards."""
    rounds, wanted = 0, 0
    enough = asyncio.Event()

    async def count_up(client: AsyncGcsClient, name: int, stop: asyncio.Event) -> int:
        nonlocal rounds
        done = 0
        while not stop.is_set():
            key = b"%d" % (done % 40)
            row = await client.kv_get(key)
            value = b"%d" % (int(row.value) + 1 if row else 1)
            try:
                await client.kv_put(key, value, expected_version=row.version if row else 0)
            except ConflictError:
                continue
            await client.kv_put(b"last %d" % name, value)
            done += 1
            rounds += 1
            if rounds >= wanted:
                enough.set()
        return done

    async def more(count: int) -> None:
        nonlocal wanted
        wanted = rounds + count
        enough.clear()
        await enough.wait()

    async def scenario() -> None:
        async with (
            serving(shared) as servers,
            AsyncGcsClient(servers[0].address, shared.token) as one,
            AsyncGcsClient(servers[1].address, shared.token) as two,
        ):
            events = two.watch(KV)
            seen: dict[bytes, bytes] = {}
            following = asyncio.create_task(follow(events, seen))
            stop = asyncio.Event()
            writers = [
                asyncio.create_task(count_up(client, name, stop))
                for name, client in enumerate((one, two, one, two))
            ]
            await more(40)
            assert (await one.add_shards(3)).shard_count == 3
            await more(40)
            # Both at once: one of them does it, and the other finds that it is done.
            grown = await asyncio.gather(one.add_shards(5), two.add_shards(5))
            assert [summary.shard_count for summary in grown] == [5, 5]
            await more(40)
            stop.set()
            done = sum(await asyncio.gather(*writers))
            for client in (one, two):
                rows = {key: await client.kv_get(key) for key in await client.kv_keys()}
                values = {key: row.value for key, row in rows.items() if row is not None}
                counted = [int(value) for key, value in values.items() if key.isdigit()]
                assert sum(counted) == done, "none lost, none twice"
            # Each shard is heard of in its own time.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(follows(seen, values), HEARD_S)
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            assert seen == values

    asyncio.run(scenario())


async def follows(seen: dict[bytes, bytes], values: dict[bytes, bytes]) -> None:
    """Returns once a watcher holds these values."""
    while seen != values:  # noqa: ASYNC110 - a dict tells nobody that it changes
        await asyncio.sleep(0.01)


async def follow(
    events: AsyncGenerator[WatchEvent[KvRow], None], values: dict[bytes, bytes]
) -> None:
    """Keeps what a watcher holds; versions of a row never go back."""
    versions: dict[bytes, int] = {}
    async for event in events:
        if event.kind is WatchKind.RESYNC:
            values.clear()
        elif event.row is not None:
            key = event.key[1:]
            assert versions.get(key, 0) <= event.version, key
            versions[key] = event.version
            values[key] = event.row.value


def test_tasks_are_found_by_a_service_that_has_not_heard_of_the_growth(shared: GcsConfig) -> None:
    async def scenario() -> None:
        async with (
            serving(shared) as servers,
            AsyncGcsClient(servers[0].address, shared.token) as one,
            AsyncGcsClient(servers[1].address, shared.token) as two,
        ):
            job = JobID.from_random()
            rows = [TaskRow(task_id=TaskID.from_random(), job_id=job) for _ in range(100)]
            await two.record_tasks(rows)
            await one.add_shards(4)
            done = [replace(row, state=TaskState.FINISHED) for row in rows[:50]]
            await one.record_tasks(done)
            wanted = {row.task_id: row for row in done + rows[50:]}
            assert await two.get_tasks(list(wanted)) == wanted
            found, token = await two.query_tasks(limit=1000)
            while token:
                page, token = await two.query_tasks(limit=1000, page_token=token)
                found += page
            assert {row.task_id: row for row in found} == wanted
            assert len(found) == 100
            again = [replace(row, state=TaskState.FINISHED) for row in rows[50:]]
            await two.record_tasks(again)
            wanted |= {row.task_id: row for row in again}
            assert await one.get_tasks(list(wanted)) == wanted

    asyncio.run(scenario())


def test_shards_are_added_to_a_group_and_survive_its_primary(
    config: GcsConfig, redis_farm: RedisFarm
) -> None:
    servers = redis_farm.group(2)
    redis = RedisOptions(urls=(group_url(servers),), poll_s=0.05)
    shared = replace(config, shard_count=2, redis=redis)

    async def scenario() -> None:
        async with opened(shared) as store:
            primary = next(one for one in servers if one.info("role") == "master")
            meta = Keys("rostral", 0).meta
            await asyncio.to_thread(primary.wait, lambda: primary.ask("HGET", meta, "wait") == b"1")
            for key in KEYS:
                await put(store, key, b"v")
            before = await held(store)
            await store.add_shards(4)
            # No pause: what the new shards hold has been replicated once the growth is told of.
            primary.kill()
            assert await held(store) == before
            assert await put(store, KEYS[0], b"w") > before[KEYS[0]][1]

    asyncio.run(scenario())


def test_a_store_with_a_server_for_each_shard_says_that_it_cannot_grow(
    config: GcsConfig, redis_farm: RedisFarm
) -> None:
    urls = tuple(redis_farm.server().url for _ in range(2))
    shared = replace(config, shard_count=2, redis=RedisOptions(urls=urls))

    async def scenario() -> None:
        async with opened(shared) as store:
            await put(store, KEYS[0], b"v")
            with pytest.raises(InvalidArgumentError, match="3 shards, but redis_urls names"):
                await store.add_shards(3)
            assert store.shard_count == 2
            assert await put(store, KEYS[0], b"w") > 0

    asyncio.run(scenario())


def test_a_grown_store_is_served_by_its_first_or_its_present_number(shared: GcsConfig) -> None:
    async def scenario() -> None:
        async with opened(shared) as store:
            version = await put(store, KEYS[0], b"v")
            await store.add_shards(3)
        for count in (2, 3):
            async with opened(replace(shared, shard_count=count)) as store:
                assert store.shard_count == 3
                assert await held(store) == {KEYS[0]: (b"v", version)}
        with pytest.raises(ConfigError, match="add-shards"):
            await Store(replace(shared, shard_count=4)).open()

    asyncio.run(scenario())
