"""Small writes that the event loop commits itself: which, in which order, and when it does not."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import aclosing

import pytest

from rostral_gcs import KV, AsyncGcsClient, GcsServer, WatchKind
from rostral_gcs.backends.base import Answer, Change
from rostral_gcs.loop_commits import LoopCommits
from rostral_gcs.redis_options import RedisOptions
from rostral_gcs.shard_commands import Write
from rostral_gcs.shard_core import Op
from rostral_gcs.tables.registry import table_spec

from .redis_servers import RedisProcess

Play = Callable[..., None]
KV_SPEC = table_spec("kv")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No disk is too slow: what is tested is not how busy this one is."""
    monkeypatch.setattr("rostral_gcs.loop_commits._SLOW_S", 60.0)
    monkeypatch.setattr("rostral_gcs.backends.redis._PATIENCE_S", 10.0)


def _note_threads(server: GcsServer) -> list[int]:
    """The threads that commit, one after the other."""
    threads: list[int] = []
    backend = server._store.shards[0]._backend
    commit = backend.commit

    def noting(changes: Sequence[Change], answers: Sequence[Answer], *, durable: bool) -> None:
        threads.append(threading.get_ident())
        commit(changes, answers, durable=durable)

    backend.commit = noting  # type: ignore[method-assign]
    return threads


@pytest.mark.usefixtures("patient")
def test_a_lone_write_is_committed_by_the_loop(play: Play, backend: dict[str, object]) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        version = await client.kv_put(b"k", b"0")
        await client.kv_put(b"k", b"1", expected_version=version)
        threads = _note_threads(server)
        row = await client.kv_get(b"k")
        assert row is not None
        # The thread may still be at the read's end.
        for at in range(20):
            row_version = await client.kv_put(b"k", b"%d" % at, expected_version=row.version)
            row = await client.kv_get(b"k")
            assert row is not None
            assert (row.value, row.version) == (b"%d" % at, row_version)
        assert threading.get_ident() in threads

    play(scenario, commit_on_loop=True, **backend)


def test_without_the_setting_the_thread_commits(play: Play, backend: dict[str, object]) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        threads = _note_threads(server)
        for _ in range(5):
            await client.kv_put(b"k", b"v")
        assert len(threads) == 5
        assert threading.get_ident() not in threads

    play(scenario, **backend)


def test_what_loop_and_thread_commit_is_watched_in_order(
    play: Play, backend: dict[str, object]
) -> None:
    """Lone writers and bursts take turns; a watch sees every sequence once, and none early."""
    writers, rounds = 4, 40

    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        acknowledged: list[int] = []

        async def write(name: int) -> None:
            version = 0
            for at in range(rounds):
                version = await client.kv_put(
                    b"own %d" % name, b"%d" % at, expected_version=version
                )
                acknowledged.append(version)
                if at % 10 == name:
                    burst = (client.kv_put(b"%d %d" % (name, one), b"v") for one in range(20))
                    acknowledged.extend(await asyncio.gather(*burst))

        async with aclosing(client.watch(KV)) as events:
            while (await anext(events)).kind is not WatchKind.SYNCED:
                pass
            writing = [asyncio.create_task(write(name)) for name in range(writers)]
            seen: list[int] = []
            wanted = writers * rounds + writers * (rounds // 10) * 20
            while len(seen) < wanted:
                event = await anext(events)
                if event.row is not None:
                    seen.append(event.version)
            await asyncio.gather(*writing)
        assert seen == sorted(set(seen))
        assert sorted(acknowledged) == seen

    play(scenario, commit_on_loop=True, **backend)


def test_a_redis_that_stands_still_does_not_hold_the_loop(
    play: Play, redis_server: RedisProcess
) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        version = await client.kv_put(b"k", b"0")
        version = await client.kv_put(b"k", b"1", expected_version=version)
        redis_server.send(signal.SIGSTOP)
        loop = asyncio.get_running_loop()
        try:
            writing = asyncio.create_task(client.kv_put(b"k", b"2", expected_version=version))
            ticks = 0
            began_s = loop.time()
            while loop.time() < began_s + 0.5:
                await asyncio.sleep(0.01)
                ticks += 1
            # A loop that waited for Redis would have been through once.
            assert ticks > 10
            assert not writing.done()
        finally:
            redis_server.send(signal.SIGCONT)
        newest = await writing
        row = await client.kv_get(b"k")
        assert row is not None
        assert (row.value, row.version) == (b"2", newest)

    play(scenario, commit_on_loop=True, redis=RedisOptions(urls=(redis_server.url,)))


class _Turn:
    """A shard that takes what it is given, on the loop or by the thread."""

    def __init__(self) -> None:
        self.here: list[list[Write]] = []
        self.passed_on: list[Write] = []
        self.is_willing = True
        self.delay_s = 0.0

    def commit(self, writes: Sequence[Write], _: int) -> bool:
        if self.is_willing:
            self.here.append(list(writes))
            deadline_s = asyncio.get_running_loop().time() + self.delay_s
            while asyncio.get_running_loop().time() < deadline_s:
                pass
        return self.is_willing


def _write(*, size: int = 1, ops: int = 1, table: str = "kv") -> Write:
    op = Op(table_spec(table), b"k" * 16, bytes(size), None)
    return Write(b"r" * 16, [op] * ops, asyncio.get_running_loop().create_future())


async def _turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_few_and_small_writes_of_one_turn_are_one_commit() -> None:
    async def scenario() -> None:
        turn = _Turn()
        commits = LoopCommits(asyncio.get_running_loop(), turn.commit, turn.passed_on.append)
        few = [_write() for _ in range(8)]
        for write in few:
            commits.offer(write)
        await _turn()
        assert turn.here == [few]
        for refused in (
            [_write() for _ in range(9)],
            [_write(ops=9)],
            [_write(size=64 * 1024 + 1)],
            [_write(), _write(table="tasks")],
        ):
            turn.passed_on.clear()
            for write in refused:
                commits.offer(write)
            await _turn()
            assert turn.passed_on == refused
        assert len(turn.here) == 1
        assert len(commits) == 0

    asyncio.run(scenario())


def test_what_the_shard_does_not_take_goes_to_the_thread_in_order() -> None:
    async def scenario() -> None:
        turn = _Turn()
        turn.is_willing = False
        commits = LoopCommits(asyncio.get_running_loop(), turn.commit, turn.passed_on.append)
        writes = [_write() for _ in range(3)]
        for write in writes:
            commits.offer(write)
        await _turn()
        assert turn.passed_on == writes

    asyncio.run(scenario())


def test_after_a_slow_commit_the_thread_has_its_turn() -> None:
    async def scenario() -> None:
        turn = _Turn()
        turn.delay_s = 0.02
        commits = LoopCommits(asyncio.get_running_loop(), turn.commit, turn.passed_on.append)
        commits.offer(_write())
        await _turn()
        commits.offer(_write())
        await _turn()
        assert (len(turn.here), len(turn.passed_on)) == (1, 1)

    asyncio.run(scenario())
