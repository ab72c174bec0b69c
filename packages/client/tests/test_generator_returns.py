"""Generators that do not stream: their items are a task's results, all at once."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.exceptions import TaskCancelledError

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


def test_so_many_returns_of_a_generator_are_collected() -> None:
    assert rostral.get(count_function(num_returns=3).remote(3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="yielded more values"):
        get(count_function(num_returns=2).remote(1 << 40)[0])

    @rostral.remote(num_returns=2)
    async def pair() -> AsyncIterator[int]:
        yield 1
        yield 2

    assert rostral.get(pair.remote()) == [1, 2]


def test_one_return_of_a_generator_is_the_one_item_that_it_yields() -> None:
    count = count_function(num_returns=1)
    assert get(count.remote(1)) == 0
    for number, yielded in ((0, "0"), (2, "more")):
        with pytest.raises(ValueError, match=f"num_returns=1 but yielded {yielded} values"):
            get(count.remote(number))

    class Counter:
        @rostral.method(num_returns=1)
        def count(self, n: int) -> Iterator[int]:
            yield from range(n)

    class AsyncCounter:
        @rostral.method(num_returns=1)
        async def count(self, n: int) -> AsyncIterator[int]:
            for number in range(n):
                yield number

    for cls in (Counter, AsyncCounter):
        counter: Any = rostral.remote(cls).remote()
        assert get(counter.count.remote(1)) == 0
        with pytest.raises(ValueError, match="yielded more values"):
            get(counter.count.remote(1 << 40))


def test_a_generator_that_a_function_returns_is_told_how_to_stream() -> None:
    @rostral.remote
    def squares() -> Any:
        return (number * number for number in range(3))

    with pytest.raises(ValueError, match='num_returns="streaming" takes any number'):
        get(squares.remote())
    assert values(squares.options(num_returns="streaming").remote()) == [0, 1, 4]


def test_a_generator_without_returns_runs_to_its_end(marks: Path) -> None:
    @rostral.remote(num_returns=0)
    def work() -> Iterator[int]:
        for number in range(3):
            write(marks, "item")
            yield number
        write(marks, "end")

    assert work.remote() is None
    until(lambda: words(marks)[-1:] == ["end"], "the end of the generator")
    assert words(marks) == ["item"] * 3 + ["end"]


def test_a_generator_that_does_not_stream_can_be_cancelled(marks: Path) -> None:
    @rostral.remote(num_returns=1)
    def sleep() -> Iterator[int]:
        write(marks, "began")
        time.sleep(PATIENCE_S)
        yield 1

    ref = sleep.remote()
    until(lambda: words(marks), "the task's beginning")
    assert rostral.cancel(ref, grace_s=float("inf"))
    with pytest.raises(TaskCancelledError):
        rostral.get(ref, timeout=PATIENCE_S / 2)


def test_a_generator_of_an_async_actor_gives_one_reference_to_all() -> None:
    class Counter:
        async def count(self, n: int) -> AsyncIterator[int]:
            for number in range(n):
                yield number

    counter: Any = rostral.remote(Counter).remote()
    with pytest.warns(DeprecationWarning, match="streaming"):
        count = counter.count.options(num_returns="dynamic")
    assert rostral.get(list(get(count.remote(3)))) == [0, 1, 2]


def test_dynamic_gives_one_reference_to_all_of_them() -> None:
    with pytest.warns(DeprecationWarning, match="streaming"):
        count = count_function(num_returns="dynamic")
    ref = count.remote(3)
    assert isinstance(ref, rostral.ObjectRef)
    refs = get(ref)
    assert isinstance(refs, rostral.DynamicObjectRefGenerator)
    assert len(refs) == 3
    assert values(refs) == values(refs) == [0, 1, 2]
