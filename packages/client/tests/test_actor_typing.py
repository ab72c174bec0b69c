"""What a type checker sees of actors."""

from __future__ import annotations

from pathlib import Path

import pytest

from .test_typing import check

PROGRAM = """
from typing import Any, assert_type

import rostral
from rostral import ActorClass, ActorHandle, ObjectRef


class Counter:
    def __init__(self, start: int, *, step: int = 1) -> None:
        self.value, self.step = start, step

    def add(self) -> int:
        self.value += self.step
        return self.value


class Table(dict[str, int]):
    pass


Counters = rostral.remote(Counter)
Others = rostral.remote(num_cpus=1, max_restarts=3)(Counter)
Tables = rostral.remote(Table)

counter = Counters.remote(1, step=2)
assert_type(counter, ActorHandle[Counter])
assert_type(Others.remote(1), ActorHandle[Counter])
assert_type(Counters.options(name="one").remote(1), ActorHandle[Counter])
assert_type(Counters.remote(rostral.put(1)), ActorHandle[Counter])
assert_type(Tables.remote(), ActorHandle[Table])
assert_type(counter.add.remote(), Any)
assert_type(rostral.get_actor("one"), ActorHandle[Any])


def use(kind: ActorClass[..., Counter], handle: ActorHandle[Counter]) -> ObjectRef[int]:
    ref: ObjectRef[int] = handle.add.remote()
    return ref


use(Counters, counter)
rostral.kill(counter)
"""

WRONG = (
    "Counters.remote('text')",
    "Counters.remote()",
    "Counters.remote(1, speed=2)",
    "Counters.options(max_restart=1)",
    "Counters.options(name='one').remote('text')",
    "use(Tables, counter)",
    "rostral.kill(Counters)",
)


@pytest.mark.slow
def test_a_program_of_actors_is_understood(tmp_path: Path) -> None:
    assert check(tmp_path, PROGRAM).startswith("Success")


@pytest.mark.slow
def test_wrong_calls_of_constructors_are_refused(tmp_path: Path) -> None:
    found = check(tmp_path, PROGRAM + "\n" + "\n".join(WRONG) + "\n").splitlines()
    first = PROGRAM.count("\n") + 2
    for number, line in enumerate(WRONG, first):
        assert any(f"program.py:{number}: error:" in message for message in found), line
