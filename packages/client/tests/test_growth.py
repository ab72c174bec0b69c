"""Many of everything, on one node: it completes, costs little, and leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rostral

from .waiting import memory_bytes, object_ids, until

pytestmark = pytest.mark.usefixtures("cluster")

QUEUED_COUNT = 20_000
ARGUMENT_COUNT = 10_000
RETURN_COUNT = 3_000
# TARGETS: what a queued task may take, its result included.
TASK_BYTES_MAX = 1_000
# What is given back lies in slabs of 64 KiB, a few of them per process.
ROUNDING_BYTES = 2 << 20


@rostral.remote
def same(value: Any) -> Any:
    return value


@rostral.remote
def hold(started: Path, end: Path) -> None:
    started.touch()
    while not end.exists():
        time.sleep(0.005)


@contextmanager
def held_workers(folder: Path, count: int) -> Iterator[None]:
    """So many of the node's two CPUs are busy within."""
    started = [folder / f"started{index}" for index in range(count)]
    end = folder / "end"
    holders = [hold.remote(path, end) for path in started]
    until(lambda: all(path.exists() for path in started), "the start of what holds the workers")
    try:
        yield
    finally:
        end.touch()
        rostral.get(holders)


@pytest.mark.slow
def test_queued_tasks_take_little_memory_and_none_when_they_are_done(tmp_path: Path) -> None:
    rostral.get(same.remote(0))
    before, ids = memory_bytes(), object_ids()
    with held_workers(tmp_path, 2):
        refs = [same.remote(number) for number in range(QUEUED_COUNT)]
        queued = memory_bytes() - before
    assert queued / QUEUED_COUNT < TASK_BYTES_MAX
    assert rostral.get(refs) == list(range(QUEUED_COUNT))
    del refs
    until(lambda: len(object_ids() - ids) <= 1, "the end of the results")  # `hold` stays
    # Records stay for others of their kind: the next tasks need no more.
    stays = memory_bytes()
    refs = [same.remote(number) for number in range(QUEUED_COUNT)]
    assert rostral.get(refs) == list(range(QUEUED_COUNT))
    assert memory_bytes() <= stays + ROUNDING_BYTES


@pytest.mark.slow
def test_memory_is_flat_over_finished_tasks() -> None:
    def run() -> int:
        rostral.get([same.remote(number) for number in range(QUEUED_COUNT // 4)])
        return memory_bytes()

    first = [run() for _ in range(2)]
    assert max(run() for _ in range(10)) <= max(first) + ROUNDING_BYTES


def test_a_long_task_delays_no_other_while_a_worker_is_free(tmp_path: Path) -> None:
    with held_workers(tmp_path, 1):
        assert rostral.get([same.remote(number) for number in range(500)]) == list(range(500))


@pytest.mark.slow
def test_a_task_is_given_ten_thousand_objects() -> None:
    @rostral.remote
    def add(*numbers: int) -> int:
        return sum(numbers)

    ids = object_ids()
    refs = [rostral.put(number) for number in range(ARGUMENT_COUNT)]
    assert rostral.get(add.remote(*refs)) == sum(range(ARGUMENT_COUNT))
    del refs
    until(lambda: len(object_ids() - ids) <= 1, "the end of the arguments")


@pytest.mark.slow
def test_a_task_waits_for_ten_thousand_results() -> None:
    @rostral.remote
    def add(*numbers: int) -> int:
        return sum(numbers)

    refs = [same.remote(number) for number in range(ARGUMENT_COUNT)]
    assert rostral.get(add.remote(*refs)) == sum(range(ARGUMENT_COUNT))


@pytest.mark.slow
def test_a_task_returns_three_thousand_objects() -> None:
    @rostral.remote(num_returns=RETURN_COUNT)
    def numbers() -> range:
        return range(RETURN_COUNT)

    refs = numbers.remote()
    assert len(refs) == RETURN_COUNT
    assert rostral.get(refs) == list(range(RETURN_COUNT))


def test_one_get_reads_ten_thousand_objects() -> None:
    refs = [rostral.put(number) for number in range(ARGUMENT_COUNT)]
    assert rostral.get(refs) == list(range(ARGUMENT_COUNT))


def test_a_value_refers_to_ten_thousand_objects() -> None:
    @rostral.remote
    def many() -> list[Any]:
        return [rostral.put(number) for number in range(ARGUMENT_COUNT)]

    ids = object_ids()
    holder = many.remote()
    for _ in range(2):
        assert rostral.get(rostral.get(holder)) == list(range(ARGUMENT_COUNT))
    del holder
    until(lambda: len(object_ids() - ids) <= 1, "the end of what the value kept")


def test_nested_tasks_100_deep() -> None:
    @rostral.remote
    def nest(depth: int) -> int:
        if depth == 0:
            return 0
        below: int = rostral.get(nest.remote(depth - 1))
        return below + 1

    assert rostral.get(nest.remote(100), timeout=120) == 100
