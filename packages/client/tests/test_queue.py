"""Queue: items pass between tasks, actors and drivers, first in, first out."""

from __future__ import annotations

import asyncio
import pickle
import queue as stdlib
from collections.abc import Iterator
from typing import Any

import pytest

import rostral
from rostral.exceptions import ActorDiedError
from rostral.util.queue import Empty, Full, Queue

from .actors import get

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def queue() -> Iterator[Queue[Any]]:
    made: Queue[Any] = Queue(maxsize=3)
    yield made
    made.shutdown(force=True)


def test_items_come_out_in_the_order_they_went_in(queue: Queue[Any]) -> None:
    for item in range(3):
        queue.put(item)
    assert [queue.get() for _ in range(3)] == [0, 1, 2]


def test_its_size_is_known(queue: Queue[Any]) -> None:
    assert queue.empty()
    queue.put(1)
    assert (queue.size(), queue.qsize(), len(queue)) == (1, 1, 1)
    assert not queue.full()
    queue.put_nowait_batch([2, 3])
    assert queue.full()


def test_an_empty_queue_raises_the_standard_error(queue: Queue[Any]) -> None:
    with pytest.raises(Empty):
        queue.get_nowait()
    with pytest.raises(Empty):
        queue.get(block=False)
    with pytest.raises(stdlib.Empty):
        queue.get(timeout=0.01)


def test_a_full_queue_raises_the_standard_error(queue: Queue[Any]) -> None:
    queue.put_nowait_batch([1, 2, 3])
    with pytest.raises(Full):
        queue.put_nowait(4)
    with pytest.raises(Full):
        queue.put(4, block=False)
    with pytest.raises(stdlib.Full):
        queue.put(4, timeout=0.01)
    assert queue.size() == 3


def test_get_waits_for_an_item_of_another_process(queue: Queue[Any]) -> None:
    @rostral.remote
    def feed(target: Queue[int]) -> None:
        target.put(7)

    waiting = queue.actor.get.remote(None)
    get(feed.remote(queue))
    assert get(waiting) == (True, 7)


def test_put_waits_for_room(queue: Queue[Any]) -> None:
    @rostral.remote
    def drain(source: Queue[int]) -> int:
        return source.get()

    queue.put_nowait_batch([1, 2, 3])
    blocked = queue.actor.put.remote(4, None)
    assert get(drain.remote(queue)) == 1
    assert get(blocked)
    assert queue.get_nowait_batch(3) == [2, 3, 4]


def test_batches_are_all_or_nothing(queue: Queue[Any]) -> None:
    queue.put(1)
    with pytest.raises(Full):
        queue.put_nowait_batch([2, 3, 4])
    assert queue.size() == 1
    with pytest.raises(Empty, match="2 items were asked for, and there are 1"):
        queue.get_nowait_batch(2)
    assert queue.get_nowait_batch(1) == [1]


def test_coroutines_use_it_without_blocking_their_loop(queue: Queue[Any]) -> None:
    async def pass_on() -> list[int]:
        taken = [asyncio.create_task(queue.get_async()) for _ in range(2)]
        await queue.put_async(1)
        await queue.put_async(2)
        return sorted(await asyncio.gather(*taken))

    assert asyncio.run(pass_on()) == [1, 2]

    async def fail() -> None:
        with pytest.raises(Empty):
            await queue.get_async(block=False)
        with pytest.raises(Empty):
            await queue.get_async(timeout=0.01)
        queue.put_nowait_batch([1, 2, 3])
        with pytest.raises(Full):
            await queue.put_async(4, block=False)
        with pytest.raises(Full):
            await queue.put_async(4, timeout=0.01)

    asyncio.run(fail())


def test_handles_share_one_queue(queue: Queue[Any]) -> None:
    copy: Queue[Any] = pickle.loads(pickle.dumps(queue))
    copy.put("here")
    assert queue.get() == "here"
    assert copy.maxsize == 3


def test_wrong_arguments_are_refused(queue: Queue[Any]) -> None:
    wrong: Any = "many"
    with pytest.raises(TypeError, match="maxsize"):
        Queue(maxsize=wrong)
    with pytest.raises(ValueError, match="timeout is -1"):
        queue.get(timeout=-1)
    with pytest.raises(ValueError, match="timeout is -1"):
        queue.put(1, timeout=-1)
    with pytest.raises(TypeError, match="items must be a list"):
        queue.put_nowait_batch(wrong)
    with pytest.raises(ValueError, match="num_items is -1"):
        queue.get_nowait_batch(-1)
    with pytest.raises(TypeError, match="num_items"):
        queue.get_nowait_batch(wrong)


def test_a_queue_that_is_shut_down_is_gone() -> None:
    gone: Queue[int] = Queue()
    gone.put(1)
    gone.shutdown()
    with pytest.raises(ActorDiedError):
        for _ in range(1000):
            gone.size()


def test_options_go_to_the_actor_that_holds_the_items() -> None:
    named: Queue[int] = Queue(actor_options={"name": "letters"})
    assert rostral.get_actor("letters") == named.actor
    named.shutdown(force=True)
