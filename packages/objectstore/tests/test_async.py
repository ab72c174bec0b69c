"""Waiting in asyncio: many coroutines, one thread, and nothing left when they are gone."""

from __future__ import annotations

import asyncio
import gc
import math
import threading

import numpy as np
import pytest

from rostral_gcs.ids import ObjectID
from rostral_objectstore import StoreClient
from rostral_objectstore.errors import ObjectTimeoutError, StoreClosedError

from .store import Store, until


def waiters() -> int:
    return sum(thread.name == "rostral-waiter" for thread in threading.enumerate())


def ids(count: int) -> list[ObjectID]:
    return [ObjectID.from_random() for _ in range(count)]


async def until_waiting(client: StoreClient, count: int) -> None:
    """Until the thread waits for so many objects."""
    while len(client._waiter._waits) != count:  # noqa: ASYNC110 -- the thread has no event
        await asyncio.sleep(0.001)


def test_what_is_there_is_read_at_once(store: Store) -> None:
    client = store.connect()
    kept = [client.put(i, f"number {i}") for i in range(3)]

    async def read() -> object:
        assert await client.get_async(kept[2]) == 2
        return await client.get_async(["number 0", kept[1]])

    assert asyncio.run(read()) == [0, 1]
    assert waiters() == 0


def test_the_loop_runs_on_while_an_object_is_not_there(store: Store) -> None:
    client, peer, many = store.connect(), store.peer(), ids(3)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.001)

    async def read() -> object:
        beating = asyncio.create_task(beat())
        getting = asyncio.create_task(client.get_async(many))
        await until_waiting(client, 3)
        before = beats
        await asyncio.sleep(0.01)
        assert beats > before
        code = "kept = [client.put(np.full(5000, i), id) for i, id in enumerate(ids)]"
        peer.begin(code, ids=many)
        values = await getting
        beating.cancel()
        return [int(value.sum()) for value in values]

    assert asyncio.run(read()) == [0, 5000, 10_000]
    peer.end()


def test_a_thousand_coroutines_wait_with_one_thread(store: Store) -> None:
    client, peer, many = store.connect(), store.peer(), ids(1000)

    async def read() -> list[object]:
        getting = [asyncio.create_task(client.get_async(id)) for id in many]
        await until_waiting(client, 1000)
        assert waiters() == 1
        peer.begin(
            "order = list(enumerate(ids)); random.Random(1).shuffle(order)\n"
            "kept = [client.put(i, id) for i, id in order]",
            ids=many,
        )
        return list(await asyncio.gather(*getting))

    assert asyncio.run(read()) == list(range(1000))
    peer.end()


def test_a_timeout_and_a_cancellation_leave_nothing(store: Store) -> None:
    client = store.connect()

    async def give_up() -> None:
        with pytest.raises(ObjectTimeoutError, match="unknown here"):
            await client.get_async("never", timeout_s=0.01)
        with pytest.raises(ObjectTimeoutError):
            await client.get_async("never", timeout_s=0)
        with pytest.raises(ValueError, match="not a number"):
            await client.get_async("never", timeout_s=math.nan)
        task = asyncio.create_task(client.get_async(["never", "never either"]))
        await until_waiting(client, 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    gc.collect()  # the errors' tracebacks
    until(lambda: client.list_objects() == [], "nothing waited for")
    until(lambda: waiters() == 0, "the end of the idle thread")


def test_closing_ends_the_waits(store: Store) -> None:
    client = store.connect()

    async def wait() -> None:
        getting = asyncio.create_task(client.get_async("never"))
        await until_waiting(client, 1)
        client.close()
        with pytest.raises(StoreClosedError):
            await getting
        with pytest.raises(StoreClosedError):
            await client.get_async("never")

    asyncio.run(wait())
    assert waiters() == 0


def test_coroutines_of_two_loops_wait_for_one_object(store: Store) -> None:
    client = store.connect()
    got: list[float] = []

    def run() -> None:
        got.append(float(asyncio.run(client.get_async("shared")).sum()))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(client._waiter._waits.get(client.handle("shared"), ())) == 3, "all three")
    kept = client.put(np.ones(1000), "shared")
    for thread in threads:
        thread.join(10.0)
    assert got == [1000.0] * 3
    del kept


def test_a_loop_that_ended_is_nobodys_trouble(store: Store) -> None:
    client = store.connect()

    async def leave() -> None:
        asyncio.get_running_loop().create_task(client.get_async("late"))
        await until_waiting(client, 1)

    asyncio.run(leave())
    handle = client.put(5, "late")
    assert asyncio.run(client.get_async("late")) == 5
    del handle
