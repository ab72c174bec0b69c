"""A driver of the soak of nodes: rounds of tasks, actors and puts, each held against a model.

Run by `soak_nodes.py`: ``node_driver.py SEED RESULTS DEADLINE_S``. It connects to the node that
XDG_RUNTIME_DIR names, and plays rounds until its standard input ends. Every future of a round must
have, before its deadline, the value that the same program has without a cluster, or an error of a
type that its options allow. For each round it writes a line of JSON: what came of how many
futures, and what was wrong. If its node is lost it says so and ends.
"""

from __future__ import annotations

import collections
import json
import os
import random
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np

import rostral
from rostral.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    RostralError,
    TaskCancelledError,
    WorkerCrashedError,
)

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
LARGE = 40_000
"""Numbers of 8 bytes: too many to travel in a message, so that such results stay where they are."""
PRIME = 1_000_003
CHAIN_LINKS = 6
TREE_LEAVES = 8
SMALL_TASKS = 30
CALLS = 12
LONG_S = 30.0
SPREAD: dict[str, Any] = {"scheduling_strategy": "SPREAD"}
FOR_EVER: dict[str, Any] = {"max_retries": -1}
DEATHS = (WorkerCrashedError, NodeDiedError, ObjectLostError)
ACTOR_DEATHS = (ActorDiedError, ActorUnavailableError, *DEATHS)


@rostral.remote
def small(number: int) -> int:
    return number * number % PRIME


@rostral.remote
def grow(number: int, previous: Any) -> Any:
    values = np.full(LARGE, number) if previous is None else previous * 3 + number
    return values % PRIME


@rostral.remote
def digest(values: Any) -> tuple[int, int]:
    return int(values[0]), int(values.sum())


@rostral.remote
def digest_within(box: list[Any]) -> tuple[int, int]:
    values = rostral.get(box[0])
    return int(values[0]), int(values.sum())


@rostral.remote
def add(left: list[int], right: list[int]) -> list[int]:
    return [a + b for a, b in zip(left, right, strict=True)]


@rostral.remote
def leaf(number: int) -> list[int]:
    return [number] * 100


@rostral.remote
def tree(first: int) -> int:
    task = add.options(**FOR_EVER)
    refs = [leaf.options(**FOR_EVER).remote(first + i) for i in range(TREE_LEAVES)]
    while len(refs) > 1:
        refs = [task.remote(a, b) for a, b in zip(refs[::2], refs[1::2], strict=True)]
    return int(rostral.get(refs[0])[0])


@rostral.remote
def rest(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


class SquareClass:
    """Has no state, so that a restart changes nothing."""

    def of(self, number: int) -> int:
        return number * number % PRIME


class CounterClass:
    """Counts its calls."""

    def __init__(self) -> None:
        self._count = 0

    def count(self) -> int:
        self._count += 1
        return self._count


Square: Any = rostral.remote(SquareClass)
Counter: Any = rostral.remote(CounterClass)


@dataclass(slots=True)
class Awaited:
    """One future, and what may become of it."""

    kind: str
    ref: Any
    is_right: Callable[[Any], bool]
    allowed: tuple[type[BaseException], ...] = ()


def equals(expected: Any) -> Callable[[Any], bool]:
    """A check that a value is what the model has."""
    return lambda found: bool(found == expected)


def chain_digest(numbers: list[int]) -> tuple[int, int]:
    """What `digest` gives for the end of a chain, computed here."""
    value = numbers[0] % PRIME
    for number in numbers[1:]:
        value = (value * 3 + number) % PRIME
    return value, value * LARGE


def chains(chooser: random.Random) -> Iterator[Awaited]:
    """Tasks that pass large values on, from node to node."""
    for _ in range(2):
        numbers = [chooser.randrange(PRIME) for _ in range(CHAIN_LINKS)]
        last = None
        for number in numbers:
            last = grow.options(**FOR_EVER, **SPREAD).remote(number, last)
        done = digest.options(**FOR_EVER, **SPREAD).remote(last)
        yield Awaited("chain", done, equals(chain_digest(numbers)))


def trees(chooser: random.Random) -> Iterator[Awaited]:
    """Tasks that wait for tasks of their own."""
    for _ in range(3):
        first = chooser.randrange(1000)
        expected = sum(range(first, first + TREE_LEAVES))
        yield Awaited("tree", tree.options(**FOR_EVER).remote(first), equals(expected))


def smalls(chooser: random.Random) -> Iterator[Awaited]:
    """Tasks that may be retried, and such that may not."""
    for index in range(SMALL_TASKS):
        number = chooser.randrange(PRIME)
        right = equals(number * number % PRIME)
        if index % 3:
            yield Awaited("small", small.options(**FOR_EVER, **SPREAD).remote(number), right)
        else:
            ref = small.options(max_retries=0, **SPREAD).remote(number)
            yield Awaited("once", ref, right, DEATHS)


def puts(chooser: random.Random) -> Iterator[Awaited]:
    """A large value of this process, read on every node, as an argument and within one."""
    number = chooser.randrange(PRIME)
    ref = rostral.put(np.full(LARGE, number))
    right = equals((number, number * LARGE))
    for _ in range(3):
        yield Awaited("put", digest.options(**FOR_EVER, **SPREAD).remote(ref), right)
    yield Awaited("put", digest_within.options(**FOR_EVER, **SPREAD).remote([ref]), right)


def squares(chooser: random.Random) -> Iterator[Awaited]:
    """An actor that lives on wherever it can."""
    actor = Square.options(max_restarts=-1, max_task_retries=-1, **SPREAD).remote()
    for _ in range(CALLS):
        number = chooser.randrange(PRIME)
        # How it is made is written down within a tick: with who dies before, it ends.
        right = equals(number * number % PRIME)
        yield Awaited("square", actor.of.remote(number), right, (ActorDiedError,))


def counters(chooser: random.Random) -> Iterator[Awaited]:
    """An actor that dies once; until then it counts without a gap."""
    del chooser
    actor = Counter.options(**SPREAD).remote()
    for count in range(1, CALLS + 1):
        yield Awaited("counter", actor.count.remote(), equals(count), ACTOR_DEATHS)


def cancelled(chooser: random.Random) -> Iterator[Awaited]:
    """Tasks that would run for long, were they not cancelled at some moment."""
    refs = [rest.options(**FOR_EVER, **SPREAD).remote(LONG_S) for _ in range(2)]
    time.sleep(chooser.uniform(0.0, 0.05))
    for ref in refs:
        rostral.cancel(ref, force=chooser.random() < 0.5)
        yield Awaited("cancelled", ref, equals(LONG_S), (TaskCancelledError,))


def late(chooser: random.Random) -> Iterator[Awaited]:
    """A task whose own deadline is over before it is."""
    deadline_s = chooser.uniform(0.05, 0.2)
    ref = rest.options(**FOR_EVER, **SPREAD, deadline_s=deadline_s).remote(LONG_S)
    yield Awaited("late", ref, equals(LONG_S), (TaskCancelledError,))


PARTS = (chains, trees, smalls, puts, squares, counters, cancelled, late)


class HomeLostError(Exception):
    """The node that this driver is on is gone: there is nobody to ask any more."""


class Rounds:
    """Plays rounds, and writes down what came of them."""

    def __init__(self, seed: int, results: Path, deadline_s: float) -> None:
        self._chooser = random.Random(seed)
        self._results, self._deadline_s = results, deadline_s
        self._found: collections.Counter[str] = collections.Counter()
        self._wrong: list[str] = []

    def play(self) -> None:
        """One round. Raises HomeLostError."""
        self._found.clear()
        begun_s = time.monotonic()
        parts = list(PARTS)
        self._chooser.shuffle(parts)
        awaited: list[Awaited] = []
        try:
            for part in parts:
                for one in part(self._chooser):
                    awaited.append(one)
            deadline_s = time.monotonic() + self._deadline_s
            while awaited:
                self._settle(awaited.pop(), deadline_s)
        except RostralError as error:
            # Raised where something was submitted.
            self._note_error("submit", error, ())
        finally:
            self.write(round_s=round(time.monotonic() - begun_s, 3))

    def _settle(self, one: Awaited, deadline_s: float) -> None:
        try:
            value = rostral.get(one.ref, timeout=max(0.0, deadline_s - time.monotonic()))
        except GetTimeoutError as error:
            self._note_error(f"{one.kind} {one.ref.hex()} hangs", error, ())
        except RostralError as error:
            self._note_error(f"{one.kind} {one.ref.hex()}", error, one.allowed)
        else:
            self._found[one.kind] += 1
            if not one.is_right(value):
                self._wrong.append(f"{one.kind} {one.ref.hex()} is {value!r:.200}")

    def _note_error(
        self, what: str, error: RostralError, allowed: tuple[type[BaseException], ...]
    ) -> None:
        if not isinstance(error, allowed):
            if not is_home_there():
                raise HomeLostError from error
            self._wrong.append(f"{what}: {type(error).__name__}: {error}"[:2000])
        self._found[f"{what.split()[0]} {type(error).__name__}"] += 1

    def write(self, **more: Any) -> None:
        """A line about what was seen since the last one."""
        line = {**more, "found": dict(self._found), "wrong": self._wrong}
        with self._results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._wrong = []


def is_home_there() -> bool:
    """Whether the node still answers."""
    try:
        rostral.nodes()
    except RostralError:
        return False
    return True


def is_wanted() -> bool:
    """Whether more rounds are: until standard input ends."""
    readable, _, _ = select.select([sys.stdin], [], [], 0)
    return not readable


def main() -> int:
    """Plays; the exit status: 0 for the end, 3 where there is no node (any more)."""
    seed, results, deadline_s = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    try:
        rostral.init("auto", log_to_driver=False)
    except RostralError:
        return 3
    rounds = Rounds(seed, results, deadline_s)
    try:
        while is_wanted():
            rounds.play()
    except HomeLostError:
        rounds.write(home_lost=True)
        return 3
    rostral.shutdown()
    rounds.write(ended=True)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.exit(status) if status == 0 else os._exit(status)
