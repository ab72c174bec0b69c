"""Calls of one function on two processes: Rostral beside the standard library, joblib and Dask.

What a user would drop first for Rostral. Like `workloads.py`, whose `Bench` it uses, it runs one
group on one engine in a fresh interpreter and prints a row a line. Owns how each engine is asked
to do the same work; the functions are CPU time, so that an engine which burns a core for itself is
slower by it.

    python pool_workloads.py --engine executor --group executor --seconds 2
"""

import argparse
import concurrent.futures
import importlib
import multiprocessing
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from workloads import BATCH_SIZE, CPU_COUNT, INIT_OPTIONS, Bench, NotAvailableError

# A batch of the functions that take their time: a fifth of a second's work for two processes.
BATCH_OF_1_MS = 400
BATCH_OF_10_MS = 40


def no_op(*_: object) -> None:
    """The call that costs nothing but itself."""


def busy_for_1_ms(*_: object) -> None:
    """A millisecond of this thread's CPU time."""
    burn(0.001)


def busy_for_10_ms(*_: object) -> None:
    """Ten of them."""
    burn(0.010)


def burn(seconds: float) -> None:
    """Uses up CPU time, whatever else the machine does meanwhile."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Engine(Protocol):
    """Two processes that call a function."""

    def bulk(self, function: Callable[..., None], count: int) -> None:
        """Submits all calls, then waits for all."""

    def one(self, function: Callable[..., None]) -> None:
        """Submits one call and waits for it."""

    def map_ones(self, function: Callable[..., None], count: int) -> None:
        """One call, and one message, for each of some numbers."""

    def map_chunks(self, function: Callable[..., None], count: int) -> None:
        """The same in chunks of the engine's own choice."""

    def close(self) -> None:
        """Ends the processes."""


class Rostral:
    """Remote functions."""

    def __init__(self) -> None:
        self.api = importlib.import_module("rostral")
        self.api.init(num_cpus=CPU_COUNT, **INIT_OPTIONS["rostral"])
        functions = (no_op, busy_for_1_ms, busy_for_10_ms)
        self.remotes = {function: self.api.remote(function) for function in functions}

    def bulk(self, function: Callable[..., None], count: int) -> None:
        remote = self.remotes[function]
        self.api.get([remote.remote() for _ in range(count)])

    def one(self, function: Callable[..., None]) -> None:
        self.api.get(self.remotes[function].remote())

    def map_ones(self, function: Callable[..., None], count: int) -> None:
        remote = self.remotes[function]
        self.api.get([remote.remote(number) for number in range(count)])

    def map_chunks(self, function: Callable[..., None], count: int) -> None:
        raise NotAvailableError("remote functions have no chunks")

    def close(self) -> None:
        self.api.shutdown()


class Executor:
    """concurrent.futures.ProcessPoolExecutor."""

    def __init__(self) -> None:
        self.executor = concurrent.futures.ProcessPoolExecutor(CPU_COUNT)

    def bulk(self, function: Callable[..., None], count: int) -> None:
        for future in [self.executor.submit(function) for _ in range(count)]:
            future.result()

    def one(self, function: Callable[..., None]) -> None:
        self.executor.submit(function).result()

    def map_ones(self, function: Callable[..., None], count: int) -> None:
        list(self.executor.map(function, range(count), chunksize=1))

    def map_chunks(self, function: Callable[..., None], count: int) -> None:
        list(self.executor.map(function, range(count), chunksize=count // (4 * CPU_COUNT)))

    def close(self) -> None:
        self.executor.shutdown()


class Pool:
    """A multiprocessing.Pool: the standard library's, or one with its interface."""

    def __init__(self, module: str = "multiprocessing") -> None:
        # Ours starts its cluster by itself, with the machine's CPUs; the peers have two processes.
        if module != "multiprocessing":
            rostral = importlib.import_module("rostral")
            rostral.init(num_cpus=CPU_COUNT, **INIT_OPTIONS["rostral"])
        self.pool = importlib.import_module(module).Pool(CPU_COUNT)

    def bulk(self, function: Callable[..., None], count: int) -> None:
        for result in [self.pool.apply_async(function) for _ in range(count)]:
            result.get()

    def one(self, function: Callable[..., None]) -> None:
        self.pool.apply(function)

    def map_ones(self, function: Callable[..., None], count: int) -> None:
        self.pool.map(function, range(count), chunksize=1)

    def map_chunks(self, function: Callable[..., None], count: int) -> None:
        self.pool.map(function, range(count))

    def close(self) -> None:
        self.pool.terminate()
        self.pool.join()


class Joblib:
    """joblib.Parallel over the default backend, or ours."""

    def __init__(self, *, ours: bool) -> None:
        joblib = importlib.import_module("joblib")
        backend = "loky"
        if ours:
            rostral = importlib.import_module("rostral")
            rostral.init(num_cpus=CPU_COUNT, **INIT_OPTIONS["rostral"])
            importlib.import_module("rostral.util.joblib").register_rostral()
            backend = "rostral"
        self.delayed = joblib.delayed
        self.parallel = joblib.Parallel(n_jobs=CPU_COUNT, backend=backend)
        # Else every call of it starts and ends the processes.
        self.parallel.__enter__()

    def bulk(self, function: Callable[..., None], count: int) -> None:
        self.parallel(self.delayed(function)() for _ in range(count))

    def one(self, function: Callable[..., None]) -> None:
        self.bulk(function, 1)

    def map_ones(self, function: Callable[..., None], count: int) -> None:
        raise NotAvailableError("joblib chooses its chunks by itself")

    def map_chunks(self, function: Callable[..., None], count: int) -> None:
        self.parallel(self.delayed(function)(number) for number in range(count))

    def close(self) -> None:
        self.parallel.__exit__(None, None, None)


class Dask:
    """dask.distributed with two worker processes of one thread."""

    def __init__(self) -> None:
        distributed = importlib.import_module("distributed")
        self.client = distributed.Client(
            n_workers=CPU_COUNT, threads_per_worker=1, dashboard_address=None
        )

    def bulk(self, function: Callable[..., None], count: int) -> None:
        self.client.gather([self.client.submit(function, pure=False) for _ in range(count)])

    def one(self, function: Callable[..., None]) -> None:
        self.client.submit(function, pure=False).result()

    def map_ones(self, function: Callable[..., None], count: int) -> None:
        self.client.gather(self.client.map(function, range(count), pure=False))

    def map_chunks(self, function: Callable[..., None], count: int) -> None:
        raise NotAvailableError("Dask's map has no chunks")

    def close(self) -> None:
        self.client.close()


ENGINES: dict[str, Callable[[], Engine]] = {
    "rostral": Rostral,
    "rostral_pool": lambda: Pool("rostral.util.multiprocessing"),
    "rostral_joblib": lambda: Joblib(ours=True),
    "executor": Executor,
    "pool": Pool,
    "joblib": lambda: Joblib(ours=False),
    "dask": Dask,
}
# What our side of a group runs on, where that is not remote functions.
OUR_ENGINES = {"pool_interface": "rostral_pool", "joblib_interface": "rostral_joblib"}


def submitted(bench: Bench, engine: Engine, group: str) -> None:
    """Calls submitted one at a time, waited for together or one by one."""
    bench.rate(f"{group}: no-op calls in bulk", lambda: engine.bulk(no_op, BATCH_SIZE), BATCH_SIZE)
    bench.rate(f"{group}: no-op calls one by one", lambda: engine.one(no_op))
    timed(bench, group, engine.bulk)


def mapped(bench: Bench, engine: Engine, group: str) -> None:
    """Calls of one `map`, each of them a message of its own."""
    bench.rate(
        f"{group}: no-op calls in chunks of one",
        lambda: engine.map_ones(no_op, BATCH_SIZE),
        BATCH_SIZE,
    )
    timed(bench, group, engine.map_ones)


def chunked(bench: Bench, engine: Engine, group: str) -> None:
    """Calls in chunks of the engine's choice."""
    count = 10 * BATCH_SIZE
    bench.rate(f"{group}: no-op calls", lambda: engine.map_chunks(no_op, count), count)
    timed(bench, group, engine.map_chunks)


def timed(bench: Bench, group: str, run: Callable[[Callable[..., None], int], None]) -> None:
    """Functions that take longer than the call."""
    bench.rate(
        f"{group}: functions of 1 ms", lambda: run(busy_for_1_ms, BATCH_OF_1_MS), BATCH_OF_1_MS
    )
    bench.rate(
        f"{group}: functions of 10 ms", lambda: run(busy_for_10_ms, BATCH_OF_10_MS), BATCH_OF_10_MS
    )


GROUPS: dict[str, Callable[[Bench, Any, str], None]] = {
    "executor": submitted,
    "pool": mapped,
    "dask": submitted,
    "pool_interface": chunked,
    "joblib_interface": chunked,
}


def main() -> int:
    """Runs one group on one engine; what fails is told in its rows."""
    parser = argparse.ArgumentParser(description="Calls of one function on two processes.")
    parser.add_argument("--engine", choices=sorted(ENGINES), required=True)
    parser.add_argument("--group", choices=sorted(GROUPS), required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="time budget of a workload")
    arguments = parser.parse_args()
    bench = Bench(arguments.engine, arguments.seconds)
    name = arguments.engine
    if name == "rostral":
        name = OUR_ENGINES.get(arguments.group, name)
    engine = ENGINES[name]()
    GROUPS[arguments.group](bench, engine, arguments.group)
    engine.close()
    return 0


if __name__ == "__main__":
    # Dask and loky start interpreters of their own, which import this file again.
    multiprocessing.freeze_support()
    sys.exit(main())
