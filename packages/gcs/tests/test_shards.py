"""Shards: hashed over one, two and eight; added to an empty and to a filled store, in use."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rostral_gcs import (
    KV,
    AsyncGcsClient,
    GcsConfig,
    GcsServer,
    JobRow,
    NodeRow,
    TaskRow,
    TaskState,
    WatchKind,
)
from rostral_gcs.errors import (
    ConfigError,
    ConflictError,
    InvalidArgumentError,
    ResyncRequiredError,
)
from rostral_gcs.ids import FunctionID, JobID, NodeID, ObjectID, TaskID
from rostral_gcs.shard_core import Op
from rostral_gcs.shard_map import SLOT_COUNT, ShardMap, slot_of
from rostral_gcs.store import Store
from rostral_gcs.tables.registry import table_spec

Play = Callable[..., None]
SPEC = table_spec("kv")


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_a_map_grows_evenly_and_moves_no_slot_needlessly(steps: list[int]) -> None:
    present = ShardMap.uniform(1)
    for step in steps:
        later = present.grown(present.shard_count + step)
        counts = Counter(later.owner(slot) for slot in range(SLOT_COUNT))
        assert set(counts) == set(range(later.shard_count))
        assert max(counts.values()) - min(counts.values()) <= later.shard_count + step
        moved = present.moved_slots(later)
        assert set(moved.values()) == set(range(present.shard_count, later.shard_count))
        assert ShardMap.decode(later.encode()).moved_slots(later) == {}
        present = later


@pytest.mark.parametrize("count", [1, 2, 8])
def test_keys_are_spread_evenly(count: int) -> None:
    placed = Counter(ShardMap.uniform(count).shard_for(SPEC, b"%d" % at) for at in range(20_000))
    assert all(abs(one - 20_000 / count) < 600 for one in placed.values())
    assert len(placed) == count


@dataclass(frozen=True)
class _Filled:
    functions: list[FunctionID]
    objects: list[ObjectID]
    tasks: list[TaskID]


async def _fill(client: AsyncGcsClient) -> _Filled:
    """Rows of many tables."""
    keys = [b"%d" % at for at in range(300)]
    await asyncio.gather(*(client.kv_put(key, b"v" + key) for key in keys))
    node = await client.register_node(NodeRow(node_id=NodeID.from_random(), address="h"))
    jobs = [await client.add_job(JobRow(job_id=JobID.from_random())) for _ in range(20)]
    functions = [FunctionID.from_random() for _ in range(20)]
    for function_id in functions:
        await client.put_function(function_id, "f", function_id.binary())
    objects = {ObjectID.from_random(): 7 for _ in range(200)}
    await client.add_object_locations(node.node_id, objects)
    tasks = [TaskRow(task_id=TaskID.from_random(), job_id=jobs[0].job_id) for _ in range(200)]
    await client.record_tasks(tasks)
    return _Filled(functions, list(objects), [row.task_id for row in tasks])


async def _read_all(client: AsyncGcsClient, filled: _Filled) -> object:
    """Everything with its versions, in an order of its own."""
    rows = {key: await client.kv_get(key) for key in await client.kv_keys()}
    tasks, token = await client.query_tasks(limit=1000)
    while token:
        page, token = await client.query_tasks(limit=1000, page_token=token)
        tasks += page
    functions = [await client.get_function(one) for one in filled.functions]
    return (
        {key: (row.value, row.version) for key, row in rows.items() if row is not None},
        [(row, row.version) for row in await client.list_nodes()],
        [(row, row.version) for row in await client.list_jobs()],
        functions,
        await client.get_object_locations(filled.objects),
        await client.get_tasks(filled.tasks),
        sorted(tasks, key=lambda row: row.task_id),
    )


@pytest.mark.parametrize("counts", [(1, 2), (2, 8), (1, 3, 8)], ids=str)
def test_shards_are_added_to_a_filled_store_and_nothing_changes(
    play: Play, backend: dict[str, object], counts: tuple[int, ...]
) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        filled = await _fill(client)
        before = await _read_all(client, filled)
        for count in counts[1:]:
            done = await client.add_shards(count)
            assert done.shard_count == count
            assert done.moved_rows > 0
            assert await _read_all(client, filled) == before
            assert (await client.add_shards(count)).moved_rows == 0
            for shard in server._store._shards:
                rows, _ = await shard.scan(SPEC, prefix=b"", after_key=b"", limit=1000)
                owners = {server._store._map.shard_for(SPEC, row.key) for row in rows}
                assert owners == {shard.index}
        row = await client.kv_get(b"7")
        assert row is not None
        newer = await client.kv_put(b"7", b"new", expected_version=row.version)
        assert newer > row.version
        with pytest.raises(ConflictError):
            await client.kv_put(b"7", b"newer", expected_version=row.version)

    play(scenario, shard_count=counts[0], **backend)


def test_shards_are_added_to_an_empty_store(play: Play, backend: dict[str, object]) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        done = await client.add_shards(8)
        assert (done.shard_count, done.moved_rows) == (8, 0)
        filled = await _fill(client)
        assert await _read_all(client, filled)

    play(scenario, **backend)


@pytest.mark.slow
def test_a_store_grows_under_writes_without_losing_one(
    play: Play, backend: dict[str, object]
) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        for at in range(500):
            await client.kv_put(b"old %d" % at, b"v")
        counts = Counter[bytes]()
        stop = asyncio.Event()
        enough = asyncio.Event()
        goal = 0

        async def count_up(name: int) -> None:
            """Adds one to a counter by compare-and-set, and deletes and makes others."""
            at = 0
            while not stop.is_set():
                key = b"counter %d" % (at % 25)
                row = await client.kv_get(key)
                present = int(row.value) if row else 0
                try:
                    await client.kv_put(
                        key, b"%d" % (present + 1), expected_version=row.version if row else 0
                    )
                    counts[key] += 1
                    if sum(counts.values()) >= goal:
                        enough.set()
                except ConflictError:
                    pass
                await client.kv_put(b"brief %d" % name, b"")
                await client.kv_delete(b"brief %d" % name)
                at += 1

        writers = [asyncio.create_task(count_up(name)) for name in range(4)]
        for count in (2, 3, 8):
            seen = sum(counts.values())
            done = await client.add_shards(count)
            # In Redis all rows are copied meanwhile, so that it is as long as the machine is slow.
            assert backend or done.blocked_s < 2.0
            enough.clear()
            goal = seen + 50
            await enough.wait()
        stop.set()
        await asyncio.gather(*writers)
        found = {key: await client.kv_get(key) for key in counts}
        assert {key: int(row.value) for key, row in found.items() if row} == dict(counts)
        assert len(await client.kv_keys(b"old")) == 500
        assert await client.kv_keys(b"brief") == []

    play(scenario, **backend)


def test_a_watch_begins_again_when_shards_are_added(play: Play, backend: dict[str, object]) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        for at in range(100):
            await client.kv_put(b"%d" % at, b"1")
        events = client.watch(KV)
        while (event := await anext(events)).kind is not WatchKind.SYNCED:
            pass
        position = event.position
        strict = client.watch(KV, position=position, resync=False)
        waiting = asyncio.ensure_future(anext(strict))
        await client.kv_put(b"0", b"2")
        assert (await waiting).version > 0
        await client.add_shards(2)
        with pytest.raises(ResyncRequiredError, match="there are 2 now"):
            await anext(strict)
        with pytest.raises(ResyncRequiredError, match="when there were 1 shards"):
            await anext(client.watch(KV, position=position, resync=False))
        held: dict[bytes, bytes] = {}
        while (event := await anext(events)).kind is not WatchKind.SYNCED or len(held) < 100:
            if event.kind is WatchKind.RESYNC:
                held.clear()
            elif event.row is not None:
                held[event.row.key] = event.row.value
        assert held == {b"%d" % at: b"2" if at == 0 else b"1" for at in range(100)}
        await client.kv_put(b"1", b"3")
        event = await anext(events)
        assert event.row is not None
        assert (event.row.key, event.row.value) == (b"1", b"3")
        await events.aclose()

    play(scenario, **backend)


def test_a_task_written_before_and_after_shows_its_newest_row(
    play: Play, backend: dict[str, object]
) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        rows = [
            TaskRow(task_id=TaskID.from_random(), job_id=JobID.from_random()) for _ in range(100)
        ]
        await client.record_tasks(rows)
        await client.add_shards(2)
        done = [replace(row, state=TaskState.FINISHED) for row in rows]
        await client.record_tasks(done[:50])
        wanted = {row.task_id: row for row in done[:50] + rows[50:]}
        assert await client.get_tasks(list(wanted)) == wanted
        found, token = await client.query_tasks(limit=1000)
        more, _ = await client.query_tasks(limit=1000, page_token=token)
        assert {row.task_id: row for row in found + more} == wanted
        assert len(found + more) == 100
        spec = table_spec("tasks")
        page, _ = await server._store.scan(spec, prefix=b"", after_key=b"", limit=1000)
        assert [row.key for row in page] == sorted(task_id.binary() for task_id in wanted)

    play(scenario, **backend)


def test_a_grown_store_opens_with_the_configuration_that_it_was_made_with(
    config: GcsConfig, backend: dict[str, object]
) -> None:
    config = replace(config, **backend)  # type: ignore[arg-type]

    async def scenario() -> None:
        server = GcsServer(config)
        await server.start()
        async with AsyncGcsClient(server.address, config.token) as client:
            filled = await _fill(client)
            await client.add_shards(3)
            before = await _read_all(client, filled)
        await server.stop()
        for shard_count in (1, 3):
            server = GcsServer(replace(config, shard_count=shard_count))
            await server.start()
            async with AsyncGcsClient(server.address, config.token) as client:
                assert await _read_all(client, filled) == before
            await server.stop()
        with pytest.raises(ConfigError, match="add-shards"):
            await GcsServer(replace(config, shard_count=2)).start()

    asyncio.run(scenario())


def test_a_growth_that_died_is_undone_or_ended_at_the_next_start(
    config: GcsConfig, tmp_path: Path
) -> None:
    folders = {name: tmp_path / name for name in ("before", "after")}

    async def scenario() -> None:
        store = Store(config)
        await store.open()
        drop = store._drop_copies

        async def dying(*_: object) -> None:
            shutil.copytree(config.data_dir, folders["after"])
            raise RuntimeError("dead")

        store._drop_copies = dying  # type: ignore[method-assign,assignment]
        for at in range(200):
            key = b"\0%d" % at
            await store.write(key.ljust(16), [Op(SPEC, key, b"v", None)], None)
        shutil.copytree(config.data_dir, folders["before"])
        with pytest.raises(RuntimeError, match="dead"):
            await store.add_shards(2)
        store._drop_copies = drop  # type: ignore[method-assign]
        await store.close()

    asyncio.run(scenario())
    # Died before the table of shards was stored: files of a shard that is none.
    for path in folders["after"].glob("shard-001.*"):
        shutil.copy(path, folders["before"])
    assert json.loads((folders["after"] / "cluster.json").read_bytes())["shard_count"] == 1

    async def reopen(folder: Path) -> tuple[int, list[bytes], int]:
        (folder / "lock").unlink()
        store = Store(replace(config, data_dir=folder))
        await store.open()
        rows, _ = await store.scan(SPEC, prefix=b"", after_key=b"", limit=1000)
        held = 0
        for shard in store._shards:
            held += len((await shard.scan(SPEC, prefix=b"", after_key=b"", limit=1000))[0])
        count = store.shard_count
        await store.close()
        return count, [row.key for row in rows], held

    expected = sorted(b"\0%d" % at for at in range(200))
    assert asyncio.run(reopen(folders["before"])) == (1, expected, 200)
    assert not list(folders["before"].glob("shard-001.*"))
    assert asyncio.run(reopen(folders["after"])) == (2, expected, 200)


@pytest.mark.parametrize("count", [0, 1, 257])
def test_shards_are_not_taken_away(play: Play, count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        with pytest.raises(InvalidArgumentError, match="allowed: 2, as many as there are, to 256"):
            await client.add_shards(count)

    play(scenario, shard_count=2)


def test_a_slot_is_the_same_for_all_objects_of_a_task() -> None:
    spec = table_spec("objects")
    task_id = TaskID.from_random()
    slots = {
        slot_of(spec, ObjectID.for_task(task_id, index).binary() + bytes(16)) for index in range(9)
    }
    assert len(slots) == 1
