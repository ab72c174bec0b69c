"""The workloads of `bench-store`: one group of them, on one engine, in a fresh interpreter.

Prints one JSON object a line: a row's name and value, or null and the reason why there is none.
Owns what is measured; which engine, how often and what it is compared with is the business of
`bench_store.py`.

    python store_workloads.py --engine redis --group small --seconds 0.3
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator

import numpy as np

from backed_memory import BackedMemory
from store_crew import (
    PRIVATE_SOURCE_BYTES_MAX,
    Crew,
    Timing,
    clock,
    crew,
)
from store_engines import STORES, NotAvailableError, host
from store_million import measure as measure_million
from store_spill import measure as measure_spill
from store_targets import (
    GIGABYTES_FROM,
    OBJECT_SIZES,
    PROCESSES,
    ROWS,
    SIZE_GROUPS,
    SIZES,
    row_name,
)
from store_transfer import measure as measure_transfer
from store_waiting import SLEEPING_S, WAITING_S, seen_after_us

COLD_BYTES = 128 << 20
# What the engine needs to start, and what it puts.
COLD_BACKED_BYTES = 2 << 30
# A million objects need a tenth of it; the store's index is as large as the store is.
MILLION_STORE_BYTES = 4 << 30
SPILL_STORE_BYTES = 512 << 20
# Room for one object of 1 GB of each of four processes, and some slack for an engine's rounding.
LARGE_STORE_BYTES = 5 << 30
STORE_BYTES = 1 << 30
# Engines whose memory stays with them after an object's end.
KEEPS_MEMORY = ("rostral", "ray")
WAITING_ROUNDS = 2_000
# However short the time: fewer calls have no median worth the name.
LARGE_CALLS_MIN = 3
HUGE_CALLS_MIN = 2
# With a shorter budget a first impression is all that is wanted.
QUICK_BELOW_S = 0.2
# First gets: how many objects are there at a time, and how often they are made anew.
FIRST_OBJECTS: dict[str, tuple[int, int]] = {
    "16 B": (100, 5),
    "1 KB": (100, 5),
    "100 KB": (100, 3),
    "1 MB": (50, 3),
    "100 MB": (4, 1),
    "1 GB": (2, 1),
}


def say(name: str, value: float | None, reason: str = "", *, of: str = "") -> None:
    """Prints one result: the engine's, or `of` something else that was measured beside it."""
    print(json.dumps({"name": name, "value": value, "reason": reason, "of": of}), flush=True)


@contextlib.contextmanager
def reported(*names: str) -> Iterator[None]:
    """Turns a failure of the workload into rows that give the reason."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, NotAvailableError) else f"{type(error).__name__}: "
        text = (str(error).strip().splitlines() or [""])[0]
        for name in names:
            say(name, None, f"{kind}{text}"[:300])


def names_of(group: str) -> list[str]:
    """The rows of a group."""
    return [row.name for row in ROWS if row.group == group]


def sizes(engine: str, group: str, seconds: float) -> None:
    """Put and get of the group's sizes, by one process and by several."""
    memory = LARGE_STORE_BYTES if group == "large" else STORE_BYTES
    with reported(*names_of(group)), contextlib.ExitStack() as stack:
        source = ""
        if any(SIZES[size] > PRIVATE_SOURCE_BYTES_MAX for size in SIZE_GROUPS[group]):
            source = stack.enter_context(shared_source(SIZES["1 GB"]))
        address = stack.enter_context(host(engine, memory))
        sides = stack.enter_context(crew(engine, address, source))
        if group == "large" and engine in KEEPS_MEMORY:
            warm_store(sides)
        for size in SIZE_GROUPS[group]:
            for processes in PROCESSES:
                puts(sides, size, processes, seconds)
                gets(sides, size, processes, seconds)
        if group == "large":
            first_read(sides)


def warm_store(sides: Crew) -> None:
    """Fills the store once: no put afterwards is into memory that was never used.

    Which part of it an object gets differs from one engine to another.
    """
    sides.alone("hold", SIZES["1 GB"], LARGE_STORE_BYTES // SIZES["1 GB"] - 1)
    sides.alone("drop")


@contextlib.contextmanager
def shared_source(size: int) -> Iterator[str]:
    """A file in memory with the numbers 0, 1, 2 ..., that every process maps."""
    with tempfile.NamedTemporaryFile(dir=memory_folder(), prefix="rostral-bench-") as file:
        np.arange(size // 8, dtype=np.int64).tofile(file)
        file.flush()
        yield file.name


def memory_folder() -> str | None:
    """Where files lie in memory."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def puts(sides: Crew, size: str, processes: int, seconds: float) -> None:
    """Each process puts objects of its own; warm memory is used again."""
    names = [row_name(what, size, processes) for what in ("put", "put rate")]
    calls_min = LARGE_CALLS_MIN
    if size == "1 GB":
        calls_min = HUGE_CALLS_MIN if seconds >= QUICK_BELOW_S else 1
    with reported(*names):
        sides.in_turn(processes, "warm_up", SIZES[size], processes)
        timings = sides.together(processes, "puts", SIZES[size], seconds, calls_min)
        say(names[0], median_us(timings))
        per_call = SIZES[size] / 1e9 if SIZES[size] >= GIGABYTES_FROM else 1
        say(names[1], sum(timing.rate for timing in timings) * per_call)


def gets(sides: Crew, size: str, processes: int, seconds: float) -> None:
    """Processes get for the first time what another has put; then one object again and again.

    A single one gets again and again what it has put itself.
    """
    names = [row_name(what, size, processes) for what in ("first get", "repeated get", "get rate")]
    with reported(*names):
        objects, repeats = FIRST_OBJECTS[size]
        timings = []
        for _ in range(repeats):
            sides.alone("drop")
            references = sides.alone("hold", SIZES[size], objects)
            timings += sides.others(processes, "first_gets", references, SIZES[size])
        say(names[0], median_us(timings))
        if processes == 1:
            timings = sides.together(1, "repeated_gets", None, SIZES[size], seconds)
        else:
            timings = sides.others(processes, "repeated_gets", references, SIZES[size], seconds)
        say(names[1], median_us(timings))
        say(names[2], sum(timing.rate for timing in timings))
    sides.alone("drop")


def first_read(sides: Crew) -> None:
    """A get and a look at every word: what a store does not copy is still to be mapped."""
    name, size = "first get and read of 100 MB", SIZES["100 MB"]
    with reported(name):
        references = sides.alone("hold", size, 5)
        timings = sides.others(1, "first_reads", references, size)
        sides.alone("drop")
        say(name, size / 1e3 / median_us(timings))


def median_us(timings: list[Timing]) -> float:
    """The median call of all processes, in microseconds."""
    return statistics.median(ns for timing in timings for ns in timing.calls_ns) / 1e3


def cold(engine: str, group: str, seconds: float) -> None:
    """The very first large put, before any page of the store is warm."""
    name = "put of 128 MB just after start"
    array = np.arange(COLD_BYTES // 8, dtype=np.int64)
    backed = BackedMemory(COLD_BACKED_BYTES)
    backed.hand_on(1 / 2)
    with reported(name), host(engine, LARGE_STORE_BYTES) as address:
        backed.hand_on(1 / 2)
        if engine.startswith("memcpy"):
            # What is measured everywhere else is a copy into a warm buffer.
            before = clock()
            target = np.empty_like(array)
            np.copyto(target, array)
            say(name, COLD_BYTES / (clock() - before))
            return
        store = STORES[engine](address)
        put = store.putter(array, 0)
        before = clock()
        token = put()
        elapsed_ns = clock() - before
        store.release(token)
        del token
        store.close()
        say(name, COLD_BYTES / elapsed_ns)


def waiting(engine: str, group: str, seconds: float) -> None:
    """A put, and another process that waits for it."""
    for name, pause_s in zip(names_of(group), (WAITING_S, SLEEPING_S), strict=True):
        with reported(name):
            if engine == "ray":
                raise NotAvailableError("no way to wait for an object that is put later")
            if engine.startswith("memcpy"):
                raise NotAvailableError("no way to wait")
            if engine == "shared_memory" and pause_s == SLEEPING_S:
                raise NotAvailableError("no way to sleep: a word is spun on")
            with host(engine, STORE_BYTES) as address:
                say(name, seen_after_us(engine, address, WAITING_ROUNDS, pause_s))


def million(engine: str, group: str, seconds: float) -> None:
    """A million live small objects."""
    with reported(*names_of(group)):
        if engine != "rostral":
            raise NotAvailableError("measured of the store alone: targets, not a comparison")
        for size in OBJECT_SIZES:
            # A child for each: what an allocator keeps shall not be counted for the next.
            if pid := os.fork():
                _, status = os.waitpid(pid, 0)
                if status != 0:
                    raise RuntimeError(f"the process with the objects ended with status {status}")
            else:
                in_child(functools.partial(million_of, size))


def in_child(work: Callable[[], None]) -> None:
    """Ends the forked child with the work, whatever becomes of it."""
    status = 1
    try:
        work()
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def million_of(size: int) -> None:
    """One size."""
    with host("rostral", MILLION_STORE_BYTES) as address:
        store = STORES["rostral"](address)
        for name, value in measure_million(store.client, size):  # type: ignore[attr-defined]
            say(name, value)


def spill(engine: str, group: str, seconds: float) -> None:
    """Three times what the store has room for, there and back."""
    with reported(*names_of(group)):
        store_bytes = SPILL_STORE_BYTES if seconds >= QUICK_BELOW_S else SPILL_STORE_BYTES // 4
        for name, value, of in measure_spill(store_bytes):
            say(name, value, of=of)


def transfer(engine: str, group: str, seconds: float) -> None:
    """From one node to another."""
    with reported(*names_of(group)):
        for name, value, of in measure_transfer():
            say(name, value, of=of)


GROUPS: dict[str, Callable[[str, str, float], None]] = {
    **dict.fromkeys(SIZE_GROUPS, sizes),
    "cold": cold,
    "waiting": waiting,
    "million": million,
    "spill": spill,
    "transfer": transfer,
}


def main() -> int:
    """Runs one group on one engine; what fails is told in its rows."""
    parser = argparse.ArgumentParser(description="One group of workloads on one engine.")
    parser.add_argument("--engine", choices=sorted(STORES), required=True)
    parser.add_argument("--group", choices=sorted(GROUPS), required=True)
    parser.add_argument("--seconds", type=float, default=0.3, help="time budget of a workload")
    arguments = parser.parse_args()
    GROUPS[arguments.group](arguments.engine, arguments.group, arguments.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
