"""Detached actors: they outlive the driver that made them."""

from __future__ import annotations

import pytest

import rostral
from rostral.exceptions import ActorNotFoundError
from rostral.util import list_named_actors

from .actors import get
from .command_line import CommandLine, run_program
from .waiting import is_alive, until

DETACHING = """
import os, sys
import rostral

rostral.init(sys.argv[1], namespace="shared")

@rostral.remote
class Keeper:
    def __init__(self):
        self.kept = []

    def keep(self, value):
        self.kept.append(value)
        return len(self.kept)

    def pid(self):
        return os.getpid()

    def child(self):
        child = Keeper.options(name="child").remote()
        self.kept.append(child)
        return rostral.get(child.pid.remote())

keeper = Keeper.options(name="keeper", lifetime="detached").remote()
other = Keeper.options(name="other").remote()
rostral.get([keeper.keep.remote(1), other.keep.remote(1)])
print(rostral.get(keeper.pid.remote()), rostral.get(keeper.child.remote()))
"""


@pytest.mark.slow
def test_a_detached_actor_and_its_children_live_until_it_is_killed(
    command_line: CommandLine,
) -> None:
    """1. A driver makes it and ends. 2. A later one finds it. 3. A kill ends it and its child."""
    address = command_line.start_head()
    keeper_pid, child_pid = (int(pid) for pid in run_program(DETACHING, address).split())
    with rostral.init(address, namespace="other"):
        with pytest.raises(ActorNotFoundError):
            rostral.get_actor("keeper")
        rostral.get_actor("keeper", namespace="shared")
    with rostral.init(address, namespace="shared"):
        keeper = rostral.get_actor("keeper")
        assert get(keeper.keep.remote(2)) == 3
        assert list_named_actors() == ["keeper", "child"]
        assert get(rostral.get_actor("child").pid.remote()) == child_pid
        with pytest.raises(ActorNotFoundError):
            rostral.get_actor("other")
        del keeper
        rostral.kill(rostral.get_actor("keeper"))
        until(lambda: not is_alive(keeper_pid), "the end of the actor")
        until(lambda: not is_alive(child_pid), "the end of its child")
        until(lambda: not list_named_actors(all_namespaces=True), "the free names")
