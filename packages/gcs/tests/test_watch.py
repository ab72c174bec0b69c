"""Watches: a snapshot, then every change, across slowness, trimming and kill -9."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable

import pytest

from rostral_gcs import (
    KV,
    NODES,
    AsyncGcsClient,
    GcsServer,
    KvRow,
    NodeRow,
    WatchEvent,
    WatchKind,
    WatchPosition,
)
from rostral_gcs.errors import InvalidArgumentError, OutOfRangeError, ResyncRequiredError
from rostral_gcs.ids import NodeID

Play = Callable[..., None]
Events = AsyncGenerator[WatchEvent[KvRow], None]


async def _until(
    events: Events, kind: WatchKind, key: bytes | None = None
) -> list[WatchEvent[KvRow]]:
    """Reads up to and including the first event of the kind (and, for a PUT, the key)."""
    seen: list[WatchEvent[KvRow]] = []
    async for event in events:
        seen.append(event)
        if event.kind is kind and (key is None or (event.row and event.row.key == key)):
            break
    return seen


def _rows(events: list[WatchEvent[KvRow]]) -> list[tuple[bytes, bytes]]:
    return [(event.row.key, event.row.value) for event in events if event.row is not None]


@pytest.mark.parametrize("shard_count", [1, 3])
def test_a_watch_is_a_snapshot_and_then_changes(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        await client.kv_put(b"a", b"1")
        await client.kv_put(b"b", b"1")
        await client.kv_delete(b"b")
        events = client.watch(KV)
        snapshot = await _until(events, WatchKind.SYNCED)
        assert [event.kind for event in snapshot] == [
            WatchKind.RESYNC,
            WatchKind.PUT,
            WatchKind.SYNCED,
        ]
        assert _rows(snapshot) == [(b"a", b"1")]
        await client.kv_put(b"a", b"2")
        assert _rows(await _until(events, WatchKind.PUT)) == [(b"a", b"2")]
        await client.kv_delete(b"a")
        (deleted,) = await _until(events, WatchKind.DELETE)
        assert (deleted.key, deleted.row) == (b"\0a", None)
        await events.aclose()

    play(scenario, shard_count=shard_count)


def test_a_watch_gives_only_its_table_and_prefix(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        events = client.watch(KV, prefix=b"mine\0")
        await _until(events, WatchKind.SYNCED)
        await client.register_node(NodeRow(node_id=NodeID.from_random(), address="h"))
        await client.kv_put(b"k", b"1", namespace="other")
        await client.kv_put(b"k", b"2", namespace="mine")
        assert _rows(await _until(events, WatchKind.PUT)) == [(b"k", b"2")]
        await events.aclose()

    play(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("shard_count", [1, 3])
def test_a_watch_during_writes_ends_with_the_truth(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        async def write() -> None:
            for at in range(600):
                key = b"%02d" % (at * 7 % 50)
                if at % 5 == 0:
                    await client.kv_delete(key)
                else:
                    await client.kv_put(key, b"%d" % at)
            await client.kv_put(b"end", b"")

        writing = asyncio.create_task(write())
        events = client.watch(KV)
        seen = await _until(events, WatchKind.PUT, b"end")
        await writing
        held: dict[bytes, bytes] = {}
        versions: dict[bytes, int] = {}
        for event in seen:
            if event.kind in (WatchKind.PUT, WatchKind.DELETE):
                assert event.version > versions.get(event.key, 0), "an update was repeated"
                versions[event.key] = event.version
            if event.row is not None:
                held[event.row.key] = event.row.value
            elif event.kind is WatchKind.DELETE:
                held.pop(event.key[1:], None)
        if shard_count == 1:
            rows = {key: await client.kv_get(key) for key in await client.kv_keys()}
            assert held == {key: row.value for key, row in rows.items() if row}
        await events.aclose()

    play(scenario, shard_count=shard_count)


def test_a_watch_resumes_after_any_event_without_loss_or_repeat(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        events = client.watch(KV)
        position = (await _until(events, WatchKind.SYNCED))[-1].position
        await asyncio.gather(*(client.kv_put(b"%03d" % at, b"") for at in range(100)))
        versions: list[int] = []
        while len(versions) < 100:
            # A new watch for every few events, each time from the last event dealt with.
            events = client.watch(KV, position=position)
            for _turn in range(7):
                event = await anext(events)
                versions.append(event.version)
                position = event.position
                if len(versions) == 100:
                    break
            await events.aclose()
        assert versions == sorted(set(versions))

    play(scenario)


def test_a_slow_reader_catches_up_from_disk(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        events = client.watch(KV)
        position = (await _until(events, WatchKind.SYNCED))[-1].position
        await events.aclose()
        for start in range(0, 300, 50):
            await asyncio.gather(*(client.kv_put(b"%d" % (start + at), b"") for at in range(50)))
        # The ring holds 10 changes; these are 300.
        events = client.watch(KV, position=position)
        seen = [(await anext(events)).version for _ in range(300)]
        assert seen == list(range(seen[0], seen[0] + 300))
        await events.aclose()

    play(scenario, ring_count_max=10)


def test_a_position_that_was_trimmed_begins_again(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        events = client.watch(KV)
        position = (await _until(events, WatchKind.SYNCED))[-1].position
        await events.aclose()
        for at in range(60):
            await client.kv_put(b"%d" % (at % 3), b"%d" % at)
        strict = client.watch(KV, position=position, resync=False)
        with pytest.raises(ResyncRequiredError) as caught:
            await anext(strict)
        assert caught.value.first_available > 0
        events = client.watch(KV, position=position)
        again = await _until(events, WatchKind.SYNCED)
        assert again[0].kind is WatchKind.RESYNC
        assert sorted(_rows(again)) == [(b"0", b"57"), (b"1", b"58"), (b"2", b"59")]
        await events.aclose()

    play(scenario, history_count_max=10, ring_count_max=5)


def test_history_is_bounded_in_bytes(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        start = WatchPosition(client.cluster_id, (0,))
        for at in range(30):
            await client.kv_put(b"%d" % at, bytes(1000))
        with pytest.raises(ResyncRequiredError):
            await anext(client.watch(KV, position=start, resync=False))

    play(scenario, history_size_max=10_000, ring_size_max=1000)


def test_a_position_of_another_store_or_the_future_is_refused(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        foreign = WatchPosition(b"x" * 16, (0,))
        with pytest.raises(ResyncRequiredError, match="another store"):
            await anext(client.watch(KV, position=foreign, resync=False))
        future = WatchPosition(client.cluster_id, (10**9,))
        with pytest.raises(OutOfRangeError, match="in the future") as caught:
            await anext(client.watch(KV, position=future, resync=False))
        assert caught.value.last_sequence == 0
        wrong = WatchPosition(client.cluster_id, (0, 0))
        with pytest.raises(InvalidArgumentError, match="cursors are for shards"):
            await anext(client.watch(KV, position=wrong))

    play(scenario)


def test_closed_watches_leave_nothing_in_the_server(play: Play) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        for _ in range(5):
            events = client.watch(NODES)
            await anext(events)
            await anext(events)
            await events.aclose()
        async with asyncio.timeout(5):
            # The server learns of a closed stream from the transport, a moment later.
            while server._store.hub.watcher_count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    play(scenario)


@pytest.mark.slow
def test_a_watch_rides_through_kill_9_and_restart(serve: Callable[..., object]) -> None:
    from typing import Any, cast

    start = cast(Any, serve)
    first = start()

    async def scenario() -> None:
        async with AsyncGcsClient(first.address, first.token) as client:
            events = client.watch(KV)
            await _until(events, WatchKind.SYNCED)
            await client.kv_put(b"a", b"1")
            assert _rows(await _until(events, WatchKind.PUT)) == [(b"a", b"1")]
            await asyncio.to_thread(first.end, signal.SIGKILL)
            await asyncio.to_thread(start, port=first.port)
            await client.kv_put(b"b", b"2")
            after = await _until(events, WatchKind.PUT)
            # Not a new snapshot: exactly the change that came after.
            assert _rows(after) == [(b"b", b"2")]
            assert [event.kind for event in after] == [WatchKind.PUT]
            await events.aclose()

    asyncio.run(scenario())
