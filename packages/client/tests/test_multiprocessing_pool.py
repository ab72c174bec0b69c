"""Pool: what the standard library's pool does, over a cluster."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.util.multiprocessing import Pool
from rostral.util.multiprocessing.pool import cpus_per_process

pytestmark = pytest.mark.usefixtures("cluster")
# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def pool(cluster: rostral.Context) -> Iterator[Pool]:
    del cluster
    with Pool() as made:
        yield made


def square(value: int) -> int:
    return value * value


def power(base: int, exponent: int = 2) -> int:
    return int(base**exponent)


def wait_for(marks: Path) -> str:
    while not marks.read_text():
        time.sleep(0.005)
    return marks.read_text()


def test_apply_gives_the_value_of_one_call(pool: Pool) -> None:
    assert pool.apply(power, (3,), {"exponent": 3}) == 27
    assert pool.apply_async(power, (2, 5)).get() == 32


@pytest.mark.parametrize("chunksize", [None, 1, 3, 1000])
def test_map_keeps_the_order_whatever_the_chunks(pool: Pool, chunksize: int | None) -> None:
    assert pool.map(square, range(50), chunksize) == [value * value for value in range(50)]


def test_a_map_over_nothing_is_empty(pool: Pool) -> None:
    assert pool.map(square, []) == []
    seen: list[list[int]] = []
    assert pool.map_async(square, [], callback=seen.append).get() == []
    assert seen == [[]]
    assert list(pool.imap(square, [])) == []


def test_starmap_spreads_the_arguments(pool: Pool) -> None:
    assert pool.starmap(power, [(2, 3), (3, 2), (5,)]) == [8, 9, 25]
    assert pool.starmap_async(power, [(2, 3)]).get(timeout=10) == [8]


def test_imap_gives_values_in_order(pool: Pool) -> None:
    values = pool.imap(square, range(30), chunksize=4)
    assert next(values) == 0
    assert values.next(timeout=10) == 1
    assert list(values) == [value * value for value in range(2, 30)]


def test_imap_unordered_gives_each_value_once(pool: Pool) -> None:
    assert sorted(pool.imap_unordered(square, range(300))) == [v * v for v in range(300)]


def test_imap_takes_from_an_endless_iterable_only_what_is_wanted(pool: Pool) -> None:
    def count() -> Iterator[int]:
        value = 0
        while True:
            yield value
            value += 1

    values = pool.imap(square, count())
    assert [next(values) for _ in range(200)] == [value * value for value in range(200)]
    pool._iterators.clear()


def test_a_call_raises_what_it_raised_with_the_remote_trace_as_cause(pool: Pool) -> None:
    with pytest.raises(ValueError, match="math domain error") as caught:
        pool.map(math.sqrt, [4.0, -1.0])
    assert type(caught.value) is ValueError
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    with pytest.raises(ValueError):
        pool.apply(math.sqrt, (-1,))


def test_an_error_in_imap_comes_in_its_place_and_the_rest_follows(pool: Pool) -> None:
    values = pool.imap(math.sqrt, [4.0, -1.0, 9.0])
    assert next(values) == 2.0
    with pytest.raises(ValueError):
        next(values)
    assert next(values) == 3.0


def test_an_iterable_that_raises_does_so_after_what_it_gave(pool: Pool) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("zork")

    values = pool.imap(square, broken())
    assert next(values) == 1
    with pytest.raises(KeyError, match="zork"):
        next(values)
    with pytest.raises(StopIteration):
        next(values)


def test_a_value_that_cannot_be_sent_is_an_error(pool: Pool) -> None:
    with pytest.raises(TypeError, match="pickle"):
        pool.apply(threading.Lock)


def test_callbacks_get_the_result_or_the_error(pool: Pool) -> None:
    values: list[Any] = []
    errors: list[BaseException] = []
    good = pool.map_async(square, range(5), 2, values.append, errors.append)
    good.wait()
    bad = pool.apply_async(math.sqrt, (-1,), callback=values.append, error_callback=errors.append)
    bad.wait()
    assert values == [[0, 1, 4, 9, 16]]
    assert [type(error) for error in errors] == [ValueError]
    assert good.successful()
    assert not bad.successful()


def test_a_result_says_whether_it_is_there(pool: Pool, marks: Path) -> None:
    result = pool.apply_async(wait_for, (marks,))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    marks.write_text("go")
    assert result.get(timeout=10) == "go"
    assert result.ready()


def test_the_initializer_runs_once_in_each_process(marks: Path) -> None:
    def note(path: Path) -> None:
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")

    with Pool(2, note, (marks,)) as pool:
        pids = set(pool.map(lambda _: os.getpid(), range(20), 1))
    noted = [int(line) for line in marks.read_text().split()]
    assert pids <= set(noted)
    assert len(noted) == len(set(noted))


def test_processes_are_replaced_after_maxtasksperchild_chunks() -> None:
    with Pool(1, maxtasksperchild=2) as pool:
        pids = pool.map(lambda _: os.getpid(), range(6), chunksize=1)
    assert max(pids.count(pid) for pid in pids) <= 2


def test_as_many_calls_run_at_once_as_there_are_processes(tmp_path: Path) -> None:
    def run(number: int) -> int:
        (tmp_path / str(number)).touch()
        present = len(list(tmp_path.iterdir()))
        (tmp_path / str(number)).unlink()
        return present

    with Pool(1) as pool:
        assert set(pool.map(run, range(20), chunksize=1)) == {1}


def test_join_waits_for_what_was_submitted(marks: Path) -> None:
    pool = Pool(2)
    results = pool.map_async(square, range(10))
    lazily = pool.imap(square, range(100))
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    pool.join()
    assert results.ready()
    assert list(lazily) == [value * value for value in range(100)]
    for refused in (lambda: pool.apply(square, (1,)), lambda: pool.imap(square, [1])):
        with pytest.raises(ValueError, match="not running"):
            refused()


def test_terminate_ends_what_is_at_work(marks: Path) -> None:
    pool = Pool(2)
    result = pool.apply_async(wait_for, (marks,))
    pool.terminate()
    pool.join()
    with pytest.raises(rostral.exceptions.RostralError):
        result.get(timeout=10)


def test_wrong_arguments_are_refused(pool: Pool) -> None:
    wrong: Any = 5
    with pytest.raises(ValueError, match="processes is 0"):
        Pool(0)
    with pytest.raises(ValueError, match="maxtasksperchild is 0"):
        Pool(1, maxtasksperchild=0)
    with pytest.raises(TypeError, match="initializer"):
        Pool(1, initializer=wrong)
    with pytest.raises(ValueError, match="chunksize is 0"):
        pool.map(square, [1], 0)
    with pytest.raises(NotImplementedError):
        pickle.dumps(pool)


@pytest.mark.parametrize(
    ("processes", "node_cpus", "at_once"),
    [
        (1, [2.0], 1),
        (2, [2.0], 2),
        (8, [2.0], 8),
        (3, [2.0, 2.0], 2),
        (4, [4.0, 4.0], 4),
        (7, [3.0], 7),
    ],
)
def test_the_demand_for_cpus_lets_no_more_run_than_processes(
    processes: int, node_cpus: list[float], at_once: int
) -> None:
    demand = cpus_per_process(processes, node_cpus)
    grains = round(demand * 10_000)
    assert sum(round(cpus * 10_000) // grains for cpus in node_cpus) == at_once
