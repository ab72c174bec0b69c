"""What may be an actor's class: bases, `super`, built-in types; and what is sent of it."""

from __future__ import annotations

import os
from typing import Any

import pytest

import rostral
from rostral import _context
from rostral.actor import ActorClassInheritanceException

from .actors import counter_class, get
from .command_line import run_program
from .waiting import until

pytestmark = pytest.mark.usefixtures("cluster")


PROGRAM = """
import rostral

class Plain:
    def __init__(self, start):
        self.value = start

    def add(self, n):
        self.value += n
        return self.value

@rostral.remote
class Named(Plain):
    def __init__(self, start):
        super(Named, self).__init__(start * 10)

    def add(self, n):
        return 1000 + super(Named, self).add(n)

    def sibling(self):
        return rostral.get(Named.remote(self.value).add.remote(1))

rostral.init(num_cpus=2, object_store_memory=64 << 20)
named = Named.remote(2)
print(rostral.get(named.add.remote(5)), rostral.get(named.sibling.remote()))
"""


def plain_class() -> type[Any]:
    class Plain:
        def __init__(self, start: int) -> None:
            self.value = start

        def add(self, n: int) -> int:
            self.value += n
            return self.value

    return Plain


def test_super_with_the_class_and_self_works_in_a_module() -> None:
    """In one method it names the class for `super`, in another it makes actors of it."""
    assert run_program(PROGRAM).split() == ["1025", "1251"]


def test_super_with_the_class_and_self_works_in_a_function() -> None:
    @rostral.remote
    class Local(plain_class()):  # type: ignore[misc]
        def add(self, n: int) -> int:
            value: int = super(Local, self).add(n)  # noqa: UP008
            return value + 1

    local: Any = Local
    assert get(local.remote(1).add.remote(1)) == 3


def test_built_in_types_are_bases_of_actors() -> None:
    class Table(dict[str, int]):
        def total(self) -> int:
            return sum(self.values())

    class Log(list[int]):
        def last(self) -> int:
            return self[-1]

    class ProblemError(ValueError):
        def text(self) -> str:
            return str(self)

    remote: Any = rostral.remote
    table = remote(Table).remote(a=1)
    get(table.update.remote({"b": 2}))
    assert get(table.total.remote()) == 3
    assert get(table.get.remote("b")) == 2
    log = remote(Log).remote([1, 2])
    get(log.append.remote(3))
    assert get(log.last.remote()) == 3
    problem = remote(ProblemError).remote("broken")
    assert get(problem.text.remote()) == "broken"


def test_an_actor_class_cannot_be_a_base_under_rays_name_too() -> None:
    counters = counter_class()
    with pytest.raises(ActorClassInheritanceException, match="decorate the subclass"):

        class Child(counters):  # type: ignore[misc, valid-type]
            pass

    assert issubclass(ActorClassInheritanceException, TypeError)


def test_options_export_the_class_once(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = []
    functions = _context.connected().functions
    export = functions.export

    def counted(name: str, code: Any) -> Any:
        exported.append(name)
        return export(name, code)

    monkeypatch.setattr(functions, "export", counted)
    counters = counter_class()
    actors = [counters.options(num_cpus=0, max_restarts=n).remote(n) for n in range(5)]
    actors.append(counters.remote(5))
    assert get([actor.add.remote() for actor in actors]) == [1, 2, 3, 4, 5, 6]
    assert len(exported) == 1


def test_num_cpus_default_is_one_to_be_placed_and_none_to_live() -> None:
    """Five actors live on two CPUs, and both CPUs are free."""
    actors = [counter_class().remote() for _ in range(5)]
    pids = get([actor.pid.remote() for actor in actors])
    assert len({*pids, os.getpid()}) == 6
    until(lambda: rostral.available_resources()["CPU"] == 2, "two free CPUs")
