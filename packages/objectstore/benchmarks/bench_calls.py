"""What the store costs: calls a second, gigabytes a second, and a round trip between processes.

Run: ``python benchmarks/bench_calls.py``. Needs the package and NumPy only. Prints the machine and,
for each figure, the median of the rounds. A daemon of its own serves the calls; the other side of
the round trip is another process. More sizes, more processes and what others need for the same are
in the repository's ``tox -e bench-store``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rostral_objectstore import ObjectHandle, StoreClient
from rostral_objectstore._native.queue import Queue
from rostral_objectstore._native.task import TaskContext
from rostral_objectstore.layout import QUEUE_READY
from rostral_objectstore.link import wait_until_served

MEMORY_BYTES = 1 << 30
LARGE_BYTES = 128 << 20
STOP = b"stop"


@contextmanager
def serving() -> Iterator[str]:
    """A daemon; gives the path of its socket."""
    with tempfile.TemporaryDirectory(prefix="rostral-") as folder:
        path = str(Path(folder) / "store")
        code = "from rostral_objectstore.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", "--socket", path]
        with subprocess.Popen(
            [*command, "--memory", str(MEMORY_BYTES)], stdout=subprocess.DEVNULL
        ) as daemon:
            try:
                wait_until_served(path, 10.0)
                yield path
            finally:
                daemon.terminate()


def calls_per_s(call: Callable[[], object], count: int) -> float:
    """How often a second; what it returns is dropped at the next call."""
    started_s = time.perf_counter()
    for _ in range(count):
        kept = call()
    took_s = time.perf_counter() - started_s
    del kept
    return count / took_s


def put_gb_per_s(client: StoreClient, array: np.typing.NDArray[np.uint8]) -> float:
    """One put; its memory is free, and warm, for the next."""
    started_s = time.perf_counter()
    handle = client.put(array)
    took_s = time.perf_counter() - started_s
    del handle
    return array.nbytes / took_s / 1e9


def get_us(client: StoreClient, handle: ObjectHandle) -> float:
    """From the call to a read-only array, in microseconds."""
    started_s = time.perf_counter()
    array = client.get(handle)
    took_s = time.perf_counter() - started_s
    del array
    return took_s * 1e6


def work(path: str, queue: int) -> None:
    """The other process: gives each payload back as the task's result, until told to stop."""
    with StoreClient.connect(path, kind="worker") as client:
        while True:
            task = client.tasks.next(queue, -1, [])
            if task is None:
                continue
            for result in task.returns:
                client.table.fill_at(result, 2, task.payload, [], [])
            client.tasks.finish(task)
            if task.payload == STOP:
                return


class Caller:
    """Submits tasks for the other process and waits for their results."""

    def __init__(self, client: StoreClient, queue: int) -> None:
        self._client = client
        self._queue = queue
        self._context = TaskContext(os.urandom(16))

    def submit(self, payload: bytes = b"payload") -> ObjectHandle:
        """One task with one result."""
        (result,) = self._client.tasks.submit(
            ObjectHandle, self._context, self._queue, 0, payload, [], [], 1, 0, 0, False
        )
        return result

    def round_trip(self) -> object:
        """Waits for each."""
        result = self.submit()
        self._client.table.wait([result], 1, -1)
        return self._client.table.read(result)

    def pipelined(self, count: int) -> float:
        """Tasks a second when all are submitted before the first is waited for."""
        started_s = time.perf_counter()
        results = [self.submit() for _ in range(count)]
        self._client.table.wait(results, count, -1)
        return count / (time.perf_counter() - started_s)


def measure(path: str, rounds: int, calls: int) -> list[tuple[str, str, float]]:
    """All figures: name, unit, median of the rounds."""
    rows: list[tuple[str, str, float]] = []

    def row(name: str, unit: str, once: Callable[[], float], repeats: int = rounds) -> None:
        rows.append((name, unit, statistics.median(once() for _ in range(repeats))))

    with StoreClient.connect(path) as client:
        large = np.ones(LARGE_BYTES, np.uint8)
        # First, while nobody has touched the store's memory; each round takes memory of its own.
        cold: list[ObjectHandle] = []

        def put_cold() -> float:
            started_s = time.perf_counter()
            cold.append(client.put(large))
            return LARGE_BYTES / (time.perf_counter() - started_s) / 1e9

        row("put of 128 MiB, memory never used", "GB/s", put_cold, min(rounds, 5))
        cold.clear()
        row("put of 128 MiB, memory used before", "GB/s", lambda: put_gb_per_s(client, large))
        handle = client.put(large)
        row("get of 128 MiB", "us", lambda: get_us(client, handle))
        small = client.put(b"x" * 30)
        row("put of 30 bytes", "1/s", lambda: calls_per_s(lambda: client.put(b"x" * 30), calls))
        row("put of 1 KB", "1/s", lambda: calls_per_s(lambda: client.put(b"x" * 1000), calls))
        row("get of 30 bytes", "1/s", lambda: calls_per_s(lambda: client.get(small), calls))

        queue = Queue.create(client.segment, 1 << 16, QUEUE_READY, bytes(16), bytes(16))
        worker = multiprocessing.get_context("spawn").Process(target=work, args=(path, queue.loc))
        worker.start()
        caller = Caller(client, queue.loc)
        caller.round_trip()
        row("task round trip, one at a time", "1/s", lambda: calls_per_s(caller.round_trip, calls))
        row("tasks, pipelined", "1/s", lambda: caller.pipelined(min(calls, 50_000)))
        last = caller.submit(STOP)
        worker.join()
        del last
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=50_000, help="calls of a round")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with serving() as path:
        for name, unit, median in measure(path, options.rounds, options.calls):
            print(f"{name:36} {median:14,.1f} {unit}")


if __name__ == "__main__":
    main()
