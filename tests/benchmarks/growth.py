"""What becomes of speed and memory as numbers grow: a million queued tasks, ten million finished.

Rows of Rostral alone, printed like those of `workloads.py`. A row of speed is the rate at the end
over the rate at the beginning: 1 is what one wants, however fast that is. Memory is the sum of the
proportional shares (PSS) of all processes of the run, so that the node's shared memory counts once.

    python growth.py --engine rostral --group growth_queued
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backed_memory import BackedMemory
from workloads import (
    CPU_COUNT,
    SETTLE_S,
    Bench,
    NotAvailableError,
    processes_of_this_run,
    wait_until,
)

QUEUED_COUNT = 1_000_000
FINISHED_COUNT = 10_000_000
ACTOR_COUNT = 1_000
ARGUMENT_COUNT = 10_000
RETURN_COUNT = 3_000
GET_COUNT = 10_000
# More than they take, with what else the run takes meanwhile; see BackedMemory.
QUEUED_BYTES, ACTORS_BYTES = 2 << 30, 8 << 30
# What grows does so in so many steps, and the first is compared with the last.
TENTHS = 10
# How often one wide call is repeated; what is compared is the fastest.
WIDE_RUNS = 7
# Finished tasks are waited for so many at a time.
FINISHED_BATCH = 20_000


def memory_bytes() -> int:
    """Memory of all processes of this run together."""
    import psutil

    return sum(int(psutil.Process(pid).memory_full_info().pss) for pid in processes_of_this_run())


def timed(run: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def queued(bench: Bench, scale: float) -> None:
    """Tasks that wait while every worker is busy, and then run."""
    backed = BackedMemory(int(QUEUED_BYTES * scale))
    api = bench.start()
    count = int(QUEUED_COUNT * scale)
    names = (
        "1,000,000 queued tasks: submitting, end/beginning",
        "1,000,000 queued tasks: memory of each",
        "1,000,000 queued tasks: running, end/beginning",
    )

    @bench.remote
    def hold(started: str, end: str) -> None:
        Path(started).touch()
        while not Path(end).exists():
            time.sleep(0.01)

    @bench.remote
    def no_op() -> None: ...

    with tempfile.TemporaryDirectory() as folder, bench.reported(*names):
        api.get([no_op.remote() for _ in range(10 * CPU_COUNT)])
        starts = [Path(folder) / f"started{index}" for index in range(CPU_COUNT)]
        end = Path(folder) / "end"
        holders = [hold.remote(str(start), str(end)) for start in starts]
        wait_until(lambda: all(start.exists() for start in starts))
        before = memory_bytes() - backed.kept_bytes
        refs: list[list[Any]] = []
        tenth = range(count // TENTHS)
        times_s = []
        for _ in range(TENTHS):
            backed.hand_on(1 / TENTHS)
            times_s.append(timed(lambda: refs.append([no_op.remote() for _ in tenth])))
        bench.row(names[0], times_s[0] / times_s[-1])
        bench.row(names[1], (memory_bytes() - backed.kept_bytes - before) / count)
        end.touch()
        api.get(holders)
        refs.reverse()
        times_s = [timed(lambda: api.get(refs.pop())) for _ in range(TENTHS)]
        bench.row(names[2], times_s[0] / times_s[-1])


def finished(bench: Bench, scale: float) -> None:
    """Tasks that come and go."""
    api = bench.start()
    count = int(FINISHED_COUNT * scale)
    names = (
        "10,000,000 finished tasks: memory after the first tenth",
        "10,000,000 finished tasks: running, end/beginning",
    )

    @bench.remote
    def no_op() -> None: ...

    def run_tenth() -> None:
        for _ in range(count // TENTHS // FINISHED_BATCH):
            api.get([no_op.remote() for _ in range(FINISHED_BATCH)])

    with bench.reported(*names):
        first_s = timed(run_tenth)
        time.sleep(SETTLE_S)
        before = memory_bytes()
        times_s = [timed(run_tenth) for _ in range(TENTHS - 1)]
        time.sleep(SETTLE_S)
        bench.row(names[0], (memory_bytes() - before) / 1e6)
        bench.row(names[1], first_s / times_s[-1])


def wide(bench: Bench, scale: float) -> None:
    """Calls with many inputs, many results, and a `get` of many objects."""
    api = bench.start()

    @bench.remote
    def count_arguments(*values: object) -> int:
        return len(values)

    def with_arguments(count: int) -> Callable[[], None]:
        refs = [api.put(number) for number in range(count)]

        def run() -> None:
            if api.get(count_arguments.remote(*refs)) != count:
                raise NotAvailableError("the task was not given all its arguments")

        return run

    def with_returns(count: int) -> Callable[[], None]:
        @bench.remote
        def numbers() -> Any:
            return range(count)

        many = numbers.options(num_returns=count)

        def run() -> None:
            if sum(api.get(many.remote())) != count * (count - 1) // 2:
                raise NotAvailableError("the task's results are not what it returned")

        return run

    def with_objects(count: int) -> Callable[[], None]:
        refs = [api.put(number) for number in range(count)]
        return lambda: api.get(refs)

    compare(bench, "10,000 object arguments of one task", with_arguments, ARGUMENT_COUNT, scale)
    compare(bench, "3,000 returns of one task", with_returns, RETURN_COUNT, scale)
    compare(bench, "get of 10,000 objects", with_objects, GET_COUNT, scale)


def compare(
    bench: Bench,
    name: str,
    prepare: Callable[[int], Callable[[], object]],
    full_count: int,
    scale: float,
) -> None:
    """Whether each of many costs more than each of a tenth as many."""
    count = max(int(full_count * scale), 10 * TENTHS)
    with bench.reported(f"{name}, each/of a tenth"):
        few, many = prepare(count // TENTHS), prepare(count)
        few_s = min(timed(lambda: [few() for _ in range(TENTHS)]) for _ in range(WIDE_RUNS))
        many_s = min(timed(many) for _ in range(WIDE_RUNS))
        bench.row(f"{name}, each/of a tenth", few_s / many_s)


def actors(bench: Bench, scale: float) -> None:
    """Actors that live at the same time."""
    backed = BackedMemory(int(ACTORS_BYTES * scale))
    api = bench.start()
    count = int(ACTOR_COUNT * scale)
    name = "1,000 live actors: creating, end/beginning"

    class Actor:
        def answer(self) -> int:
            return 1

    remote_actor = bench.remote(Actor)

    with bench.reported(name):
        live: list[Any] = []

        def create_tenth() -> None:
            created = [remote_actor.remote() for _ in range(count // TENTHS)]
            api.get([actor.answer.remote() for actor in created])
            live.extend(created)

        times_s = []
        for _ in range(TENTHS):
            backed.hand_on(1 / TENTHS)
            times_s.append(timed(create_tenth))
        if sum(api.get([actor.answer.remote() for actor in live])) != len(live):
            raise NotAvailableError("not all of the actors answer")
        bench.row(name, times_s[0] / times_s[-1])


GROUPS: dict[str, Callable[[Bench, float], None]] = {
    "growth_queued": queued,
    "growth_finished": finished,
    "growth_wide": wide,
    "growth_actors": actors,
}


def main() -> int:
    """Runs one group; what fails is told in its rows."""
    parser = argparse.ArgumentParser(description="What becomes of speed and memory with numbers.")
    parser.add_argument("--engine", choices=("rostral",), required=True)
    parser.add_argument("--group", choices=sorted(GROUPS), required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="below 1: a tenth of the counts")
    arguments = parser.parse_args()
    bench = Bench(arguments.engine, arguments.seconds)
    GROUPS[arguments.group](bench, 1.0 if arguments.seconds >= 1 else 0.1)
    if bench.api is not None and bench.api.is_initialized():
        bench.api.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
