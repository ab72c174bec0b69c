"""Tasks that wait for others: however wide their graph, few processes wait at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rostral
from rostral import _context

from .waiting import until

LOOK_INTERVAL_S = 0.01


@pytest.fixture(autouse=True)
def two_cpus(leaves_nothing: str) -> Iterator[None]:
    """A node of its own for each test: workers of one before would be there already."""
    with rostral.init("local", num_cpus=2, object_store_memory=256 << 20):
        yield


def worker_count() -> int:
    return len(_context.connected().scheduler.call("status", {})["workers"])


def most_workers(run: Callable[[], Any]) -> tuple[Any, int]:
    """What it returns, and how many workers there were at most meanwhile."""
    counts, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_INTERVAL_S):
            counts.append(worker_count())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        return run(), max(counts)
    finally:
        ended.set()
        looking.join()


def graph() -> Any:
    """A task that waits for its child, which waits for a grandchild."""

    @rostral.remote
    def leaf(number: int) -> int:
        return number

    @rostral.remote
    def middle(number: int) -> int:
        value: int = rostral.get(leaf.remote(number))
        return value

    @rostral.remote
    def top(number: int) -> int:
        value: int = rostral.get(middle.remote(number))
        return value

    return top


def test_a_drivers_wide_fan_out_of_three_levels_keeps_few_processes_waiting() -> None:
    top = graph()
    numbers = range(1000)
    values, count = most_workers(
        lambda: rostral.get([top.remote(number) for number in numbers], timeout=120)
    )
    assert values == list(numbers)
    assert count <= 64


def test_a_tasks_wide_fan_out_of_three_levels_keeps_few_processes_waiting() -> None:
    top = graph()

    @rostral.remote
    def fan_out(count: int) -> int:
        return sum(rostral.get([top.remote(number) for number in range(count)]))

    total, count = most_workers(lambda: rostral.get(fan_out.remote(1000), timeout=120))
    assert total == sum(range(1000))
    assert count <= 64


def test_a_recursion_of_a_thousand_tasks_keeps_few_processes_waiting() -> None:
    """Breadth first, it would keep more than half of them."""

    @rostral.remote
    def fibonacci(number: int) -> int:
        if number < 2:
            return number
        return sum(rostral.get([fibonacci.remote(number - 1), fibonacci.remote(number - 2)]))

    value, count = most_workers(lambda: rostral.get(fibonacci.remote(14), timeout=120))
    assert value == 377
    assert count <= 64


def test_tasks_that_wait_for_something_else_do_not_fill_the_node_at_once() -> None:
    """Each of 300 waits for a minute: 64 of them at once, and two seconds later not even half."""

    @rostral.remote
    class Gate:
        async def open(self) -> None:
            import asyncio

            await asyncio.sleep(60)

    @rostral.remote
    def wait_for(refs: list[rostral.ObjectRef[None]]) -> None:
        rostral.get(refs)

    gate: Any = Gate
    opened = gate.remote().open.remote()
    waiting = [wait_for.remote([opened]) for _ in range(300)]
    until(lambda: worker_count() >= 64, "the first of them", 60)
    ready, count = most_workers(lambda: rostral.wait(waiting, timeout=2))
    assert not ready[0]
    assert count < 150
    for ref in waiting:
        rostral.cancel(ref)
    rostral.cancel(opened)
