"""Tasks, actor calls and objects per second, on one node.

Run: python packages/client/benchmarks/bench_calls.py [--cpus N] [--runs N]

Prints the median of the runs with the lowest and highest. The paper's figure that the task rates
answer to is 8b (OSDI'18 §5.1): tasks per second of empty tasks.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import rostral

SMALL, MANY = 2_000, 20_000
ARRAY_BYTES = 10_000_000


def rate(run: Callable[[], object], count: int) -> float:
    """Operations per second of one run."""
    began_s = time.perf_counter()
    run()
    return count / (time.perf_counter() - began_s)


def workloads() -> list[tuple[str, Callable[[], object], int]]:
    """(name, what runs, how many operations that is)."""

    @rostral.remote
    def empty(*_: Any) -> None: ...

    @rostral.remote
    def submit(count: int) -> None:
        rostral.get([empty.remote() for _ in range(count)])

    class Empty:
        def call(self, *_: Any) -> None: ...

        async def call_async(self) -> None: ...

    plain: Any = rostral.remote(type("Plain", (), {"call": Empty.call})).remote()
    coroutine = rostral.remote(Empty).remote()
    rostral.get([plain.call.remote(), coroutine.call_async.remote()])
    stored = rostral.put(0)
    array = np.zeros(ARRAY_BYTES, dtype=np.uint8)
    large = rostral.put(array)
    get, put = rostral.get, rostral.put
    return [
        ("get of a small object", lambda: [get(stored) for _ in range(MANY)], MANY),
        ("put of a small object", lambda: [put(0) for _ in range(MANY)], MANY),
        ("get of 10 MB", lambda: [get(large) for _ in range(SMALL)], SMALL),
        ("put of 10 MB", lambda: [put(array) for _ in range(50)], 50),
        ("task, one by one", lambda: [get(empty.remote()) for _ in range(SMALL)], SMALL),
        ("tasks, all at once", lambda: get([empty.remote() for _ in range(MANY)]), MANY),
        ("tasks with an argument", lambda: get([empty.remote(1) for _ in range(MANY)]), MANY),
        ("tasks with a reference", lambda: get([empty.remote(stored) for _ in range(MANY)]), MANY),
        ("tasks of a task", lambda: get(submit.remote(SMALL)), SMALL),
        ("actor call, one by one", lambda: [get(plain.call.remote()) for _ in range(SMALL)], SMALL),
        ("actor calls, all at once", lambda: get([plain.call.remote() for _ in range(MANY)]), MANY),
        (
            "async actor calls, all at once",
            lambda: get([coroutine.call_async.remote() for _ in range(SMALL)]),
            SMALL,
        ),
        ("wait for the first of 1000", wait_for_all, 1000),
    ]


def wait_for_all() -> None:
    """Takes 1000 references one by one, as they become ready."""
    refs = [rostral.put(number) for number in range(1000)]
    while refs:
        _, refs = rostral.wait(refs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    print(f"{machine}; node of {arguments.cpus} CPUs; median of {arguments.runs} runs, per second")
    with rostral.init("local", num_cpus=arguments.cpus, object_store_memory=1 << 30):
        for name, run, count in workloads():
            run()  # warm: workers forked, pages touched
            rates = [rate(run, count) for _ in range(arguments.runs)]
            low, middle, high = min(rates), statistics.median(rates), max(rates)
            print(f"{name:32} {middle:12,.0f}   ({low:,.0f} to {high:,.0f})")


if __name__ == "__main__":
    main()
