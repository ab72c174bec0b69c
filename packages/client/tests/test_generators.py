"""Generator tasks: references while the task runs, back-pressure, deaths, and nothing left."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

import rostral
from rostral.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    TaskError,
)
from rostral.options import UNTAKEN_MAX

from . import actors, generators, waiting
from .actors import get
from .generators import count_function, values, words, write
from .waiting import until

# A hang fails the test, and not the run.
PATIENCE_S = 20.0


# Workers cannot import the tests: what these tasks use of them travels along.
for module in (sys.modules[__name__], actors, generators, waiting):
    cloudpickle.register_pickle_by_value(module)


pytestmark = pytest.mark.usefixtures("leaves_no_object")


# ---- what a call gives


def test_a_generator_function_gives_a_reference_for_each_item() -> None:
    generator = count_function().remote(3)
    assert isinstance(generator, rostral.ObjectRefGenerator)
    assert iter(generator) is generator
    refs = list(generator)
    assert all(type(ref) is rostral.ObjectRef for ref in refs)
    assert rostral.get(refs) == [0, 1, 2]
    assert {ref.task_id() for ref in refs} == {generator.task_id()}


def test_items_come_while_the_task_runs(marks: Path) -> None:
    @rostral.remote
    def slow() -> Iterator[str]:
        yield "first"
        until(lambda: words(marks), "the mark")
        yield "second"

    generator = slow.remote()
    assert get(next(generator)) == "first"
    assert not generator.next_ready()
    assert not generator.is_finished()
    write(marks, "go on")
    assert get(next(generator)) == "second"


def test_at_the_end_stop_iteration_comes_for_ever() -> None:
    generator = count_function().remote(1)
    assert get(next(generator)) == 0
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(generator)
    assert generator.is_finished()
    assert not generator.next_ready()
    assert next(generator, None) is None


def test_a_generator_that_yields_nothing_ends_at_once() -> None:
    assert list(count_function().remote(0)) == []


def test_the_tasks_error_is_the_last_reference() -> None:
    @rostral.remote
    def fails() -> Iterator[int]:
        yield 1
        raise KeyError("zork")

    generator = fails.remote()
    assert get(next(generator)) == 1
    until(generator.next_ready, "the error")
    assert not generator.is_finished()
    failed = next(generator)
    with pytest.raises(KeyError, match="zork"):
        get(failed)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(generator)
    assert generator.is_finished()


def test_an_item_that_cannot_be_pickled_is_the_tasks_error() -> None:
    @rostral.remote
    def fails() -> Iterator[Any]:
        yield 1
        yield threading.Lock()

    good, bad = fails.remote()
    assert get(good) == 1
    with pytest.raises(TypeError, match="pickle"):
        get(bad)


def test_a_failed_input_is_the_only_reference() -> None:
    @rostral.remote
    def fails() -> int:
        raise KeyError("zork")

    (ref,) = count_function().remote(fails.remote())
    with pytest.raises(KeyError, match="zork"):
        get(ref)


def test_completed_is_ready_when_the_task_has_ended(marks: Path) -> None:
    @rostral.remote
    def slow() -> Iterator[int]:
        yield 1
        until(lambda: words(marks), "the mark")

    generator = slow.remote()
    next(generator)
    completed = generator.completed()
    with pytest.raises(GetTimeoutError):
        rostral.get(completed, timeout=0)
    write(marks, "go on")
    assert get(completed) is None


def test_completed_has_the_tasks_error() -> None:
    @rostral.remote
    def fails() -> Iterator[int]:
        yield 1
        raise KeyError("zork")

    generator = fails.remote()
    with pytest.raises(KeyError):
        get(generator.completed())
    assert len(list(generator)) == 2


def test_the_task_need_not_be_read_to_its_end_for_it_to_complete() -> None:
    generator = count_function().remote(1000)
    assert get(generator.completed()) is None
    assert values(generator) == list(range(1000))


def test_send_throw_and_close_are_not_there() -> None:
    generator = count_function().remote(1)
    for call in (lambda: generator.send(1), lambda: generator.throw(KeyError()), generator.close):
        with pytest.raises(NotImplementedError):
            call()
    for coroutine in (generator.asend(1), generator.athrow(KeyError()), generator.aclose()):
        with pytest.raises(NotImplementedError):
            asyncio.run(coroutine)


def test_a_generator_cannot_be_pickled_or_passed_on() -> None:
    generator = count_function().remote(1)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(generator)
    with pytest.raises(TypeError, match="ObjectRefGenerator"):
        count_function().remote([generator])
    with pytest.raises(TypeError):
        rostral.put(generator)


def test_get_gives_a_generator_back_unchanged() -> None:
    generator = count_function().remote(1)
    assert rostral.get(generator) is generator


def test_its_references_can_be_passed_on_and_outlive_it() -> None:
    @rostral.remote
    def double(n: int) -> int:
        return 2 * n

    generator = count_function().remote(10)
    refs = [double.remote(ref) for ref in generator]
    kept = list(count_function().remote(3))
    del generator
    assert get(refs) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert get(kept) == [0, 1, 2]


def test_large_arrays_are_read_in_place() -> None:
    @rostral.remote
    def arrays(n: int) -> Iterator[Any]:
        for number in range(n):
            yield np.full(200_000, number)

    # More than the store holds at once, were they not given up as they are read.
    for number, ref in enumerate(arrays.remote(300)):
        array = get(ref)
        assert not array.flags.writeable
        assert array[0] == array[-1] == number
        del array, ref


def test_items_may_hold_references() -> None:
    @rostral.remote
    def boxes() -> Iterator[list[Any]]:
        for number in range(3):
            yield [rostral.put(number)]

    assert [get(get(ref)[0]) for ref in boxes.remote()] == [0, 1, 2]


def test_thousands_of_items_come_in_order() -> None:
    assert values(count_function().remote(20_000)) == list(range(20_000))


def test_several_threads_may_read_one_generator() -> None:
    generator = count_function().remote(2000)
    found: list[int] = []

    def read() -> None:
        found.extend(get(ref) for ref in generator)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(found) == list(range(2000))


def test_many_generators_run_beside_each_other() -> None:
    generators = [count_function().remote(n) for n in range(50)]
    assert [values(generator) for generator in generators] == [list(range(n)) for n in range(50)]


# ---- asking for it


def test_streaming_can_be_asked_for_by_options() -> None:
    @rostral.remote
    def letters(word: str) -> Any:
        return iter(word)

    assert values(letters.options(num_returns="streaming").remote("ab")) == ["a", "b"]

    @rostral.remote(num_returns="streaming")
    def more() -> Iterator[int]:
        yield 1

    assert values(more.remote()) == [1]
    assert values(more._remote(num_returns="streaming")) == [1]


def test_streaming_what_is_no_generator_is_a_value_error() -> None:
    @rostral.remote(num_returns="streaming")
    def wrong() -> Any:
        return 5

    (ref,) = wrong.remote()
    with pytest.raises(ValueError, match="returned int, not a generator"):
        get(ref)


def test_wrong_values_of_the_options_are_refused() -> None:
    count = count_function()
    with pytest.raises(ValueError, match="'streaming' or 'dynamic'"):
        count.options(num_returns="all")
    for untaken in (0, -2, UNTAKEN_MAX + 1):
        with pytest.raises(ValueError, match="_generator_backpressure_num_objects"):
            count.options(_generator_backpressure_num_objects=untaken)
    with pytest.raises(TypeError, match="_generator_backpressure_num_objects"):
        count.options(_generator_backpressure_num_objects="1")


# ---- async


def test_an_async_generator_function_streams() -> None:
    @rostral.remote
    async def letters(word: str) -> AsyncIterator[str]:
        for letter in word:
            await asyncio.sleep(0)
            yield letter

    assert values(letters.remote("abc")) == ["a", "b", "c"]


def test_async_for_does_not_block_the_loop(marks: Path) -> None:
    @rostral.remote
    def slow() -> Iterator[int]:
        until(lambda: words(marks), "the mark")
        yield from range(3)

    async def read() -> list[int]:
        found = []
        async for ref in slow.remote():
            found.append(await ref)
        return found

    async def release() -> None:
        write(marks, "go on")

    async def both() -> list[int]:
        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        await release()
        return await reading

    assert asyncio.run(asyncio.wait_for(both(), PATIENCE_S)) == [0, 1, 2]


def test_anext_raises_the_end() -> None:
    async def read() -> None:
        generator = count_function().remote(1)
        assert await (await anext(generator)) == 0
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(generator)

    asyncio.run(asyncio.wait_for(read(), PATIENCE_S))


def test_a_cancelled_wait_loses_no_item(marks: Path) -> None:
    @rostral.remote
    def slow() -> Iterator[int]:
        until(lambda: words(marks), "the mark")
        yield 1

    async def read() -> list[int]:
        generator = slow.remote()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(generator), 0.01)
        write(marks, "go on")
        return [await ref async for ref in generator]

    assert asyncio.run(asyncio.wait_for(read(), PATIENCE_S)) == [1]


# ---- wait


def test_wait_takes_generators_and_references(marks: Path) -> None:
    @rostral.remote
    def slow() -> Iterator[int]:
        yield 1
        until(lambda: words(marks), "the mark")
        yield 2

    generator, ref, never = slow.remote(), rostral.put(1), slow.remote()
    waited: list[Any] = [never, generator, ref]
    assert get(next(never)) == 1
    ready, others = rostral.wait(waited, num_returns=2, timeout=PATIENCE_S)
    assert ready == [generator, ref]
    assert others == [never]
    ready, others = rostral.wait(waited, num_returns=3, timeout=0.01)
    assert (ready, others) == ([generator, ref], [never])
    ready, others = rostral.wait(waited, timeout=0)
    assert ready == [generator]
    assert get(next(generator)) == 1
    assert rostral.wait([generator], timeout=0) == ([], [generator])
    write(marks, "go on")
    assert rostral.wait([generator, never], num_returns=2) == ([generator, never], [])
    assert values(generator) == values(never) == [2]
    # At its end it is ready: `next` does not block.
    assert rostral.wait([generator]) == ([generator], [])


def test_wait_refuses_a_generator_twice_and_what_is_none() -> None:
    generator = count_function().remote(1)
    wrong: Any = [generator, 5]
    with pytest.raises(ValueError, match="twice"):
        rostral.wait([generator, generator])
    with pytest.raises(TypeError, match="item 1 is int"):
        rostral.wait(wrong)


# ---- where it works


def test_generators_work_in_nested_tasks() -> None:
    count = count_function()

    @rostral.remote
    def doubles(n: int) -> Iterator[int]:
        for ref in count.remote(n):
            yield 2 * get(ref)

    @rostral.remote
    def total(n: int) -> int:
        return sum(values(doubles.remote(n)))

    assert get(total.remote(100)) == 9900


def streamer_class(**options: Any) -> Any:
    @rostral.remote(**{"num_cpus": 0, **options})
    class Streamer:
        def __init__(self) -> None:
            self.calls = 0

        def count(self, n: int) -> Iterator[int]:
            self.calls += 1
            yield from range(n)

        def fails(self) -> Iterator[int]:
            yield 1
            raise KeyError("zork")

        @rostral.method(num_returns=2)
        def pair(self) -> Iterator[int]:
            yield 1
            yield 2

        @rostral.method(num_returns="streaming", _generator_backpressure_num_objects=2)
        def plain(self, items: list[int]) -> Any:
            return iter(items)

        def called(self) -> int:
            return self.calls

    return Streamer


@pytest.mark.parametrize("concurrency", [None, 3])
def test_methods_of_actors_stream(concurrency: int | None) -> None:
    options = {} if concurrency is None else {"max_concurrency": concurrency}
    actor = streamer_class(**options).remote()
    assert values(actor.count.remote(5)) == [0, 1, 2, 3, 4]
    assert get(actor.pair.remote()) == [1, 2]
    assert values(actor.plain.remote([4, 5, 6])) == [4, 5, 6]
    assert get(actor.count.options(num_returns=2).remote(2)) == [0, 1]
    good, bad = actor.fails.remote()
    assert get(good) == 1
    with pytest.raises(KeyError):
        get(bad)
    assert get(actor.called.remote()) == 2


def test_a_threaded_actor_streams_several_at_once() -> None:
    actor = streamer_class(max_concurrency=4).remote()
    count = actor.count.options(_generator_backpressure_num_objects=1)
    generators = [count.remote(4) for _ in range(4)]
    found = [[get(next(generator)) for generator in generators] for _ in range(4)]
    assert found == [[n] * 4 for n in range(4)]


def async_streamer_class() -> Any:
    @rostral.remote(num_cpus=0)
    class Streamer:
        async def count(self, n: int) -> AsyncIterator[int]:
            for number in range(n):
                await asyncio.sleep(0)
                yield number

        def plain(self, n: int) -> Iterator[int]:
            yield from range(n)

        async def fails(self) -> AsyncIterator[int]:
            yield 1
            raise KeyError("zork")

        @rostral.method(num_returns=2)
        async def pair(self) -> AsyncIterator[int]:
            yield 1
            yield 2

        async def ping(self) -> str:
            return "here"

    return Streamer


def test_methods_of_async_actors_stream() -> None:
    actor = async_streamer_class().remote()
    assert values(actor.count.remote(5)) == [0, 1, 2, 3, 4]
    assert values(actor.plain.remote(5)) == [0, 1, 2, 3, 4]
    assert get(actor.pair.remote()) == [1, 2]
    good, bad = actor.fails.remote()
    assert get(good) == 1
    with pytest.raises(KeyError):
        get(bad)


def test_a_stream_without_room_does_not_stop_an_async_actors_loop() -> None:
    actor = async_streamer_class().remote()
    count = actor.count.options(_generator_backpressure_num_objects=1)
    generators = [count.remote(4) for _ in range(40)]
    plain = actor.plain.options(_generator_backpressure_num_objects=1).remote(4)
    until(lambda: all(g.next_ready() for g in [*generators, plain]), "the first items")
    assert get(actor.ping.remote()) == "here"
    assert [values(generator) for generator in generators] == [[0, 1, 2, 3]] * 40
    assert values(plain) == [0, 1, 2, 3]


def test_a_call_of_a_dead_actor_gives_its_death() -> None:
    actor = streamer_class().remote()
    get(actor.called.remote())
    rostral.kill(actor)
    until(lambda: is_dead(actor), "the actor's death")
    generator = actor.count.remote(3)
    assert generator.next_ready()
    (ref,) = generator
    with pytest.raises(ActorDiedError):
        get(ref)
    assert generator.is_finished()


def is_dead(actor: Any) -> bool:
    try:
        get(actor.called.remote())
    except ActorDiedError:
        return True
    return False


def test_killing_an_actor_ends_its_streams() -> None:
    actor = streamer_class().remote()
    generator = actor.count.options(_generator_backpressure_num_objects=2).remote(1000)
    assert get(next(generator)) == 0
    rostral.kill(actor)
    *_, last = generator
    with pytest.raises(ActorDiedError):
        get(last)


def test_an_actor_that_is_restarted_goes_on_with_its_stream(marks: Path) -> None:
    @rostral.remote(num_cpus=0, max_restarts=1, max_task_retries=1)
    class Fragile:
        def count(self, n: int) -> Iterator[int]:
            write(marks, "run")
            for number in range(n):
                if number == 3 and len(words(marks)) == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield number

    cls: Any = Fragile
    actor = cls.remote()
    assert values(actor.count.remote(6)) == [0, 1, 2, 3, 4, 5]


def test_a_task_error_names_the_generator() -> None:
    @rostral.remote
    def fails() -> Iterator[int]:
        yield int("zork")

    (ref,) = fails.remote()
    with pytest.raises(TaskError, match=r"fails\(\)"):
        get(ref)
