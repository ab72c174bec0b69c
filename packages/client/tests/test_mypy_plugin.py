"""What mypy sees of actors with the plugin: constructors and methods of plain `@remote` classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import test_actor_typing, test_typing
from .test_typing import check

PLUGIN = "rostral.mypy_plugin"
PROGRAM = """
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar, assert_type, overload

import rostral
from rostral import ActorClass, ActorHandle, ObjectRef, ObjectRefGenerator

T = TypeVar("T")


@rostral.remote
class Counter:
    unit: str = "one"

    def __init__(self, start: int, *, step: int = 1) -> None:
        self.value, self.step = start, step

    def add(self, n: int = 1, *, twice: bool = False) -> int:
        self.value += n * self.step
        return self.value

    def add_all(self, *numbers: int, **named: float) -> None:
        self.add(sum(numbers), twice=True)

    async def fetch(self, url: str) -> bytes:
        return url.encode()

    def names(self, count: int) -> Iterator[str]:
        yield from "abc"[:count]

    async def letters(self) -> AsyncIterator[str]:
        yield "a"

    @rostral.method(num_returns=2)
    def pair(self, n: int) -> tuple[int, str]:
        return n, "a"

    @rostral.method(num_returns=1, concurrency_group="io")
    def read(self, size: int) -> bytes:
        return bytes(size)

    def same(self, value: T) -> T:
        return value

    @overload
    def either(self, value: int) -> int: ...
    @overload
    def either(self, value: str) -> str: ...
    def either(self, value: int | str) -> int | str:
        return value

    @classmethod
    def make(cls, n: int) -> int:
        return n

    def __call__(self, n: int) -> int:
        return n


@rostral.remote(num_cpus=1, max_restarts=2)
class Limited(dict[str, int]):
    def size(self) -> int:
        return len(self)


@rostral.remote
class Box(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    def get(self) -> T:
        return self.value


class Plain:
    remote = 5

    def work(self, hours: float) -> str:
        return str(hours)


Workers = rostral.remote(Plain)

counter = Counter.remote(1, step=2)
assert_type(counter, ActorHandle[Counter])
assert_type(Counter.remote(rostral.put(1)), ActorHandle[Counter])
assert_type(Counter.options(name="one").remote(1), ActorHandle[Counter])
assert_type(Limited.remote(), ActorHandle[Limited])
assert_type(Limited.options(max_restarts=3).remote().size.remote(), ObjectRef[int])
assert_type(Plain.remote, int)
box: ActorHandle[Box[int]] = Box.remote(5)
assert_type(box.get.remote(), ObjectRef[int])

assert_type(counter.add.remote(), ObjectRef[int])
assert_type(counter.add.remote(2, twice=True), ObjectRef[int])
assert_type(counter.add.remote(rostral.put(2)), ObjectRef[int])
assert_type(counter.add.options(name="x", deadline_s=2.5).remote(2), ObjectRef[int])
assert_type(counter.add.options(num_returns=2).remote(2), Any)
assert_type(counter.add_all.remote(1, 2, x=0.5), ObjectRef[None])
assert_type(counter.fetch.remote("url"), ObjectRef[bytes])
assert_type(counter.names.remote(2), ObjectRefGenerator[str])
assert_type(counter.letters.remote(), ObjectRefGenerator[str])
assert_type(counter.pair.remote(1), Any)
assert_type(counter.read.remote(1), ObjectRef[bytes])
assert_type(counter.same.remote(1), Any)
assert_type(counter.either.remote(1), Any)
assert_type(counter.make.remote(1), ObjectRef[int])
assert_type(counter.__ray_ready__.remote(), Any)
assert_type(Workers.remote().work.remote(1.5), ObjectRef[str])
assert_type(rostral.get_actor("one").anything.remote(1), Any)


def use(handle: ActorHandle[Counter], kind: ActorClass[[int], Plain]) -> int:
    return rostral.get(handle.add.remote()) + rostral.get([counter.add.remote()])[0]


class Owner:
    def __init__(self) -> None:
        self.counter = Counter.remote(1)

    def add(self) -> ObjectRef[int]:
        return self.counter.add.remote(3)


rostral.kill(counter)
"""

WRONG = (
    "Counter.remote('text')",
    "Counter.remote()",
    "Counter.remote(1, speed=2)",
    "Counter.options(max_restart=1)",
    "Counter.options(name='one').remote('text')",
    "Counter.other()",
    "Limited.options(num_cpus='1')",
    "counter.add.remote('text')",
    "counter.add.remote(1, 2)",
    "counter.add.remote(1, thrice=True)",
    "counter.add.options(name=5)",
    "counter.add.options(num_cpus=5)",
    "counter.add.options(name='x').remote('text')",
    "counter.fetch.remote(1)",
    "counter.fetch.remote()",
    "counter.names.remote('2')",
    "counter.pair.remote('1')",
    "counter.read.remote()",
    "counter.ad.remote()",
    "counter.value.remote()",
    "rostral.get(counter.add.remote()).no_such_method()",
    "rostral.get(counter.fetch.remote('url')) + 1",
    "Workers.remote().work.remote('long')",
    "Owner().counter.add.remote('text')",
    "rostral.kill(Counter)",
    "rostral.method(num_return=2)",
)


@pytest.mark.slow
def test_a_program_of_decorated_classes_is_understood(tmp_path: Path) -> None:
    assert check(tmp_path, PROGRAM, PLUGIN).startswith("Success")


@pytest.mark.slow
def test_wrong_calls_of_constructors_and_methods_are_refused(tmp_path: Path) -> None:
    found = check(tmp_path, PROGRAM + "\n" + "\n".join(WRONG) + "\n", PLUGIN).splitlines()
    first = PROGRAM.count("\n") + 2
    for number, line in enumerate(WRONG, first):
        assert any(f"program.py:{number}: error:" in message for message in found), line


@pytest.mark.slow
def test_what_is_imported_from_another_module_is_understood(tmp_path: Path) -> None:
    (tmp_path / "counters.py").write_text(PROGRAM)
    source = (
        "from typing import assert_type\n"
        "from rostral import ActorHandle, ObjectRef\n"
        "from counters import Counter\n"
        "assert_type(Counter.remote(1), ActorHandle[Counter])\n"
        "assert_type(Counter.remote(1).add.remote(2), ObjectRef[int])\n"
        "Counter.remote('text')\n"
    )
    for _ in range(2):  # and again from what mypy has kept of the first time
        found = check(tmp_path, source, PLUGIN).splitlines()
        errors = [line for line in found if ": error:" in line]
        assert [error.partition(":")[2].partition(":")[0] for error in errors] == ["6"], found


@pytest.mark.slow
def test_what_is_understood_without_it_still_is(tmp_path: Path) -> None:
    assert check(tmp_path, test_typing.PROGRAM, PLUGIN).startswith("Success")
    known = "assert_type(counter.add.remote(), ObjectRef[int])"
    program = test_actor_typing.PROGRAM.replace("assert_type(counter.add.remote(), Any)", known)
    assert check(tmp_path, program, PLUGIN).startswith("Success")
