"""The processes that take part in a workload of `bench-store`.

Owns what one process does when it is told to (`Side`), and how several are told at the same time:
`Crew` has one side in the process that runs the workload and four in processes of their own, which
under Ray are actors. Sides start together, at a time that the caller names.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from array import array
from collections.abc import Callable, Iterator
from itertools import repeat
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from store_engines import STORES, NotAvailableError, Reference, Value

CHILDREN = 4
# Until all sides have been told what to do; they wait for it together.
HEAD_START_NS = 20_000_000
SAMPLES_MAX = 200_000
# Of calls that take longer, a look at the clock before and after is no part worth the mention.
CLOCK_IS_FREE_NS = 20_000
# The largest size of which each process has a source of its own.
PRIVATE_SOURCE_BYTES_MAX = 256 << 20
# Up to here a value is `bytes`; larger ones are arrays.
BYTES_VALUE_MAX = 1024

SMALL_BYTES = 1024
LIMBERING_GETS = 20

clock = time.perf_counter_ns


class Timing(NamedTuple):
    """What one side measured: nanoseconds of single calls, and calls a second without a clock."""

    calls_ns: array[int]
    rate: float

    @property
    def median_ns(self) -> float:
        """The median of the single calls."""
        return statistics.median(self.calls_ns)


class Side:
    """One process's part."""

    def __init__(self, engine: str, address: str, source: str) -> None:
        self._store = STORES[engine](address)
        self._source = source
        self._values: dict[int, Value] = {}
        self._held: list[Any] = []

    def ready(self) -> None:
        """Answers once all that is slow to begin with has been done."""

    def value(self, size: int) -> Value:
        """A value of the size; the last one is kept."""
        if size not in self._values:
            self._values.clear()
            if size <= BYTES_VALUE_MAX:
                self._values[size] = b"v" * size
            elif size <= PRIVATE_SOURCE_BYTES_MAX:
                self._values[size] = np.arange(size // 8, dtype=np.int64)
            else:
                self._values[size] = np.memmap(self._source, np.int64, "r").view(np.ndarray)
        return self._values[size]

    def warm_up(self, size: int, count: int) -> None:
        """Makes the value, and has the store's memory and code be warm at the next put.

        With `count` objects at a time: what one process has given back another is given next, so
        each process uses all the memory that all of them will use.
        """
        put = self._store.putter(self.value(size), 0)
        if self._store.keeps_memory:
            for token in [put() for _ in range(count)]:
                self._store.release(token)

    def puts(self, size: int, seconds: float, calls_min: int, start_ns: int) -> Timing:
        """Puts again and again; each object is let go before the next is put."""
        put, release = self._store.putter(self.value(size), 0), self._store.release

        def put_and_release() -> None:
            release(put())

        calls_ns = array("q")
        wait_for(start_ns)
        end_ns = start_ns + int(seconds * 1e9 / 2)
        while len(calls_ns) < calls_min or (clock() < end_ns and len(calls_ns) < SAMPLES_MAX):
            before = clock()
            token = put()
            after = clock()
            calls_ns.append(after - before)
            release(token)
            del token
        return Timing(calls_ns, rate_of(put_and_release, calls_ns, start_ns, seconds / 2))

    def hold(self, size: int, count: int) -> list[Reference]:
        """Puts objects and a small one, which is the last, and keeps them until `drop`."""
        value = self.value(size)
        self._held = [self._store.putter(value, place)() for place in range(count)]
        small = value[: SMALL_BYTES // value.itemsize] if isinstance(value, np.ndarray) else value
        self._held.append(self._store.putter(small, count)())
        return [self._store.export(token) for token in self._held]

    def drop(self) -> None:
        """Lets go of what `hold` kept."""
        for token in self._held:
            self._store.release(token)
        self._held = []

    def first_gets(self, references: list[Reference], size: int, start_ns: int) -> Timing:
        """Gets each object once; all of them stay until the last was got.

        The last of the references is a small object of the same type, got before: a process that
        has never got such a one, or has just slept, runs code that is in no cache, which is not
        what is asked here.
        """
        *calls, limber_up = [self._store.getter(reference) for reference in references]
        values, calls_ns = [], array("q")
        wait_for(start_ns)
        for _ in range(LIMBERING_GETS):
            limber_up()
        for get in calls:
            before = clock()
            value = get()
            after = clock()
            calls_ns.append(after - before)
            values.append(value)
        check_size(values[-1], size)
        return Timing(calls_ns, 0.0)

    def first_reads(self, references: list[Reference], size: int, start_ns: int) -> Timing:
        """Gets each object but the small one once and adds up all of its words."""
        calls_ns = array("q")
        expected = size // 8 * (size // 8 - 1) // 2
        for get in [self._store.getter(reference) for reference in references[:-1]]:
            wait_for(start_ns)
            before = clock()
            total = int(np.frombuffer(get(), np.int64).sum())
            calls_ns.append(clock() - before)
            if total != expected:
                raise ValueError(f"{size} bytes came back with the sum {total}, not {expected}")
        return Timing(calls_ns, 0.0)

    def repeated_gets(
        self, references: list[Reference] | None, size: int, seconds: float, start_ns: int
    ) -> Timing:
        """Gets one object again and again: of another process, or (None) the one held here."""
        source = self._held[0] if references is None else references[0]
        get = self._store.getter(source)
        # Held meanwhile, as a process does that will need it again.
        kept = get()
        check_size(kept, size)
        calls_ns = array("q")
        # The first get may have taken longer than was left until the start.
        start_ns = max(start_ns, clock())
        wait_for(start_ns)
        end_ns = start_ns + int(seconds * 1e9 / 2)
        while not calls_ns or (clock() < end_ns and len(calls_ns) < SAMPLES_MAX):
            before = clock()
            value = get()
            after = clock()
            calls_ns.append(after - before)
            del value
        return Timing(calls_ns, rate_of(get, calls_ns, start_ns, seconds / 2))

    def close(self) -> None:
        """Leaves the store."""
        self._values.clear()
        self._store.close()


def wait_for(start_ns: int) -> None:
    """Returns at the time of the common clock, or at once when it is over."""
    time.sleep(max(0, start_ns - clock() - 1_000_000) / 1e9)
    while clock() < start_ns:
        pass


def rate_of(
    call: Callable[[], object], calls_ns: array[int], start_ns: int, seconds: float
) -> float:
    """Calls a second: of those timed one by one, or, where reading the clock costs, of others.

    All sides count over the same time, so that their rates can be added up.
    """
    median_ns = statistics.median(calls_ns[:1000])
    if median_ns > CLOCK_IS_FREE_NS:
        return len(calls_ns) / (clock() - start_ns) * 1e9
    block = max(1, min(128, int(CLOCK_IS_FREE_NS / max(median_ns, 1))))
    start_ns += int(seconds * 1e9) + HEAD_START_NS
    end_ns = start_ns + int(seconds * 1e9)
    count = 0
    wait_for(start_ns)
    while clock() < end_ns:
        for _ in repeat(None, block):
            call()
        count += block
    return count / (clock() - start_ns) * 1e9


def check_size(value: Any, size: int) -> None:
    """A store that is fast because it gives nothing back shall not win."""
    found = len(value) if isinstance(value, bytes | memoryview) else value.nbytes
    if found != size:
        raise ValueError(f"{size} bytes were put and {found} came back")


# ---- telling several at once ---------------------------------------------------------------------


class Answer(Protocol):
    """What a side was asked for; comes when it is ready."""

    def result(self) -> Any:
        """Waits for it. Raises what the side raised."""


class Member(Protocol):
    """A side, wherever it is."""

    def ask(self, method: str, *arguments: Any) -> Answer:
        """Begins the call there."""


class Later:
    """The local side's answer: computed when it is asked for, after the others were told."""

    def __init__(self, side: Side, method: str, arguments: tuple[Any, ...]) -> None:
        self._call = (side, method, arguments)

    def result(self) -> Any:
        """Runs the call."""
        side, method, arguments = self._call
        return getattr(side, method)(*arguments)


class LocalMember:
    """The side of this process."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def ask(self, method: str, *arguments: Any) -> Answer:
        """Begins nothing yet."""
        return Later(self._side, method, arguments)


class ChildMember:
    """A side in a child process, at the other end of a pipe. One call at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ask(self, method: str, *arguments: Any) -> Answer:
        """Sends the call."""
        self._connection.send((method, arguments))
        return self

    def result(self) -> Any:
        """Receives the answer."""
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


class ActorMember:
    """A side that is a Ray actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def ask(self, method: str, *arguments: Any) -> Answer:
        """Calls the actor."""
        return ActorAnswer(getattr(self._actor, method).remote(*arguments))


class ActorAnswer:
    """A reference to what the actor returns."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def result(self) -> Any:
        """Gets it. Raises what the actor raised, without Ray's wrapping."""
        import ray

        try:
            return ray.get(self._reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


Answers: TypeAlias = list[Any]


class Crew:
    """The local side and the others. The local one is the first where several work."""

    def __init__(self, local: Side, others: list[Member]) -> None:
        self._local = LocalMember(local)
        self._others = others

    def together(self, count: int, method: str, *arguments: Any) -> Answers:
        """`count` sides, the local one among them, do the same, from the same moment."""
        return self._tell([self._local, *self._others][:count], method, *arguments)

    def in_turn(self, count: int, method: str, *arguments: Any) -> None:
        """`count` sides, the local one among them, do the same one after the other."""
        for member in [self._local, *self._others][:count]:
            member.ask(method, *arguments).result()

    def others(self, count: int, method: str, *arguments: Any) -> Answers:
        """The same with `count` sides other than the local one."""
        return self._tell(self._others[:count], method, *arguments)

    def alone(self, method: str, *arguments: Any) -> Any:
        """The local side only; no start is passed to it."""
        return self._local.ask(method, *arguments).result()

    def _tell(self, members: list[Member], method: str, *arguments: Any) -> Answers:
        start_ns = clock() + HEAD_START_NS
        answers = [member.ask(method, *arguments, start_ns) for member in members]
        results, failures = [], []
        # The local side, which begins when its result is asked for, is the first. All are heard,
        # whatever one says: an answer left in a pipe would be taken for the next.
        for answer in answers:
            try:
                results.append(answer.result())
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return results


@contextlib.contextmanager
def crew(engine: str, address: str, source: str) -> Iterator[Crew]:
    """Four processes beside this one, until the block is left."""
    side = Side(engine, address, source)
    try:
        with contextlib.ExitStack() as stack:
            if engine == "ray":
                import ray

                remote = ray.remote(num_cpus=0)(Side)
                actors = [remote.remote(engine, address, source) for _ in range(CHILDREN)]
                others: list[Member] = [ActorMember(actor) for actor in actors]
            else:
                others = [
                    ChildMember(stack.enter_context(child(engine, address, source)))
                    for _ in range(CHILDREN)
                ]
            # What is still starting would be measured with the first workload.
            for answer in [member.ask("ready") for member in others]:
                answer.result()
            yield Crew(side, others)
    finally:
        side.close()


@contextlib.contextmanager
def child(engine: str, address: str, source: str) -> Iterator[Connection]:
    """A process with a side in it; gives this end of its pipe."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=serve, args=(there, engine, address, source), name=f"side of {os.getpid()}"
    )
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join()


def serve(connection: Connection, engine: str, address: str, source: str) -> None:
    """The child's whole life: answers until the other end is closed."""
    side = Side(engine, address, source)
    try:
        while True:
            try:
                method, arguments = connection.recv()
            except EOFError:
                return
            try:
                connection.send(getattr(side, method)(*arguments))
            except NotAvailableError as error:
                connection.send(error)
            except Exception as error:
                connection.send(RuntimeError(f"{type(error).__name__}: {error}"))
    finally:
        side.close()
