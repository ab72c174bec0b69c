"""Generators that nobody reads on, or whose worker, actor or reader is killed: nothing is left."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.exceptions import (
    StreamingGeneratorReplayInconsistentError,
    TaskCancelledError,
    WorkerCrashedError,
)
from rostral.options import UNTAKEN_MAX

from . import actors, generators, waiting
from .actors import get
from .generators import (
    count_function,
    left,
    marking_function,
    values,
    words,
    write,
)
from .waiting import is_alive, object_ids, until

# A reader that is to be killed is there for so long.
PATIENCE_S = 20.0

# Workers cannot import the tests: what these tasks use of them travels along.
for module in (sys.modules[__name__], actors, generators, waiting):
    cloudpickle.register_pickle_by_value(module)


pytestmark = pytest.mark.usefixtures("leaves_no_object")


# ---- back-pressure


def test_a_producer_waits_when_so_many_items_are_not_taken(marks: Path) -> None:
    generator = marking_function(marks, _generator_backpressure_num_objects=2).remote()
    until(lambda: len(words(marks)) == 2, "two items")
    for number in range(5):
        # The next item but two is made only once this one was taken.
        assert words(marks) == ["item"] * (number + 2)
        assert get(next(generator)) == number
        until(lambda: len(words(marks)) == number + 3, "one item more")  # noqa: B023 - called here


def test_with_one_item_the_producer_goes_as_the_consumer_does() -> None:
    count = count_function(_generator_backpressure_num_objects=1)
    assert values(count.remote(2000)) == list(range(2000))


def test_without_the_option_there_is_a_bound_too() -> None:
    generator = count_function(_generator_backpressure_num_objects=-1).remote(UNTAKEN_MAX + 10)
    reader: Any = generator._reader
    until(lambda: reader.yielded_count == UNTAKEN_MAX, "as many items as may lie untaken")
    assert not rostral.wait([generator.completed()], timeout=0.05)[0]
    assert sum(1 for _ in generator) == UNTAKEN_MAX + 10


def test_a_producer_without_room_lends_its_cpu() -> None:
    count = count_function(_generator_backpressure_num_objects=1)
    generators = [count.remote(3) for _ in range(6)]
    for generator in generators:
        next(generator)
    # Six of them on two CPUs, none of which ends before it is read.
    assert [values(generator) for generator in generators] == [[1, 2]] * 6


def test_an_async_generator_waits_for_room_too() -> None:
    @rostral.remote(_generator_backpressure_num_objects=2)
    async def count(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    generator = count.remote(100)
    reader: Any = generator._reader
    until(lambda: reader.yielded_count == 2, "two items")
    assert values(generator) == list(range(100))


# ---- dropping it


def test_dropping_a_generator_gives_up_what_was_not_taken() -> None:
    before = object_ids()
    count = count_function()
    generator = count.remote(1000)
    assert get(generator.completed()) is None
    kept = next(generator)
    del generator
    until(lambda: len(left(before)) == 1, "the end of all items but the one that was taken")
    assert get(kept) == 0


@pytest.mark.parametrize("untaken", [1, 100])
def test_dropping_a_generator_stops_a_producer_that_waits(marks: Path, untaken: int) -> None:
    generator = marking_function(marks, _generator_backpressure_num_objects=untaken).remote()
    until(lambda: len(words(marks)) == untaken, "a full backlog")
    completed = generator.completed()
    del generator
    assert get(completed) is None
    assert words(marks)[-1] == "closed"


def test_dropping_a_generator_stops_a_producer_that_runs(marks: Path) -> None:
    generator = marking_function(marks).remote()
    next(generator)
    completed = generator.completed()
    del generator
    assert get(completed) is None
    assert words(marks)[-1] == "closed"


def test_dropping_a_generator_stops_an_async_producer(marks: Path) -> None:
    @rostral.remote(_generator_backpressure_num_objects=1)
    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            write(marks, "closed")

    generator = endless.remote()
    next(generator)
    completed = generator.completed()
    del generator
    assert get(completed) is None
    assert words(marks) == ["closed"]


def test_cancelling_a_generator_ends_its_task(marks: Path) -> None:
    generator = marking_function(marks, _generator_backpressure_num_objects=1).remote()
    first = next(generator)
    assert rostral.cancel(generator)
    *_, last = generator
    with pytest.raises(TaskCancelledError):
        get(last)
    assert get(first) == 0
    until(lambda: words(marks)[-1] == "closed", "the producer's end")


# ---- retries and deaths


def fragile_function(marks: Path, *, dies_at: int, **options: Any) -> Any:
    """Yields ten items; its first run is killed with kill -9 before the given one."""

    @rostral.remote
    def fragile() -> Iterator[tuple[int, int]]:
        write(marks, str(os.getpid()))
        is_first = len(words(marks)) == 1
        for number in range(10):
            if is_first and number == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield number, os.getpid()

    return fragile.options(**options)


@pytest.mark.parametrize("dies_at", [0, 4])
def test_items_yielded_before_a_workers_death_are_kept(marks: Path, dies_at: int) -> None:
    found = values(fragile_function(marks, dies_at=dies_at).remote())
    first, second = map(int, words(marks))
    assert found == [(n, first) for n in range(dies_at)] + [(n, second) for n in range(dies_at, 10)]


def test_items_taken_before_a_workers_death_do_not_come_again(marks: Path) -> None:
    options = {"_generator_backpressure_num_objects": 1}
    generator = fragile_function(marks, dies_at=5, **options).remote()
    found = []
    for ref in generator:
        found.append(get(ref)[0])
        del ref
    assert found == list(range(10))


def test_spent_retries_are_the_last_reference(marks: Path) -> None:
    generator = fragile_function(marks, dies_at=2, max_retries=0).remote()
    refs = list(generator)
    assert [get(ref)[0] for ref in refs[:-1]] == [0, 1]
    with pytest.raises(WorkerCrashedError):
        get(refs[-1])


def test_a_retried_exception_goes_on_where_it_was(marks: Path) -> None:
    @rostral.remote(retry_exceptions=[OSError])
    def flaky() -> Iterator[tuple[int, int]]:
        write(marks, "run")
        run = len(words(marks))
        for number in range(6):
            if number == 2 * run:
                raise OSError("again")
            yield number, run

    assert values(flaky.remote()) == [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3)]


def test_a_run_that_yields_less_than_the_one_before_is_an_error(marks: Path) -> None:
    @rostral.remote(retry_exceptions=True)
    def shrinking() -> Iterator[int]:
        write(marks, "run")
        if len(words(marks)) == 1:
            yield from range(5)
            raise OSError("again")
        yield from range(3)

    *good, bad = shrinking.remote()
    assert [get(ref) for ref in good] == [0, 1, 2, 3, 4]
    with pytest.raises(StreamingGeneratorReplayInconsistentError, match=r"yielded 3 items.* 5"):
        get(bad)


@pytest.mark.slow
def test_a_dead_consumer_stops_its_producer(marks: Path, tmp_path: Path) -> None:
    """A task reads a generator without room, and is killed; the producer comes to its end."""
    pid_file = tmp_path / "pid"
    endless = marking_function(marks, _generator_backpressure_num_objects=3)

    @rostral.remote(max_retries=0)
    def reads() -> None:
        generator = endless.remote()
        next(generator)
        pid_file.write_text(str(os.getpid()))
        time.sleep(PATIENCE_S)
        del generator

    ref = reads.remote()
    until(lambda: pid_file.exists() and pid_file.read_text(), "the reader")
    until(lambda: len(words(marks)) == 4, "a full backlog")
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid), "the reader's death")
    with pytest.raises(WorkerCrashedError):
        get(ref)
    until(lambda: words(marks)[-1] == "closed", "the producer's end")


def test_a_parent_that_runs_again_reads_a_stream_of_its_own(marks: Path) -> None:
    count = count_function(_generator_backpressure_num_objects=5)

    @rostral.remote
    def sums() -> int:
        write(marks, "run")
        generator = count.remote(100)
        first: int = get(next(generator))
        if len(words(marks)) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return sum([first, *values(generator)])

    assert get(sums.remote()) == sum(range(100))
