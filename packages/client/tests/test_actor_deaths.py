"""Why an actor died, in the words of its error; and what becomes of calls while it is down."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral import _context
from rostral.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
)

from .actors import counter_class, get
from .waiting import is_alive, until

pytestmark = pytest.mark.usefixtures("cluster")


def mortal_class(marks: Path) -> Any:
    """Dies in a call for as long as the file is empty."""

    @rostral.remote
    class Mortal:
        def __init__(self) -> None:
            self.count = 0

        def add(self) -> int:
            self.count += 1
            return self.count

        def pid(self) -> int:
            return os.getpid()

        def die_once(self) -> str:
            if not marks.read_text():
                marks.write_text("died")
                os.kill(os.getpid(), signal.SIGKILL)
            return "lived"

        def sleep(self) -> None:
            time.sleep(60)

        def shout_and_leave(self) -> None:
            sys.stderr.write("last words\n")
            sys.stderr.flush()
            os._exit(7)

        def crash(self) -> None:
            os.kill(os.getpid(), signal.SIGSEGV)

    return Mortal


# ---- causes


def test_kill_is_told_apart_from_an_accident(marks: Path) -> None:
    mortal = mortal_class(marks).remote()
    get(mortal.add.remote())
    running = mortal.sleep.remote()
    queued = mortal.add.remote()
    rostral.kill(mortal)
    for ref in (running, queued, mortal.add.remote()):
        with pytest.raises(ActorDiedError, match=r"killed by rostral\.kill") as caught:
            get(ref)
        assert caught.value.actor_id == mortal._actor_id
        assert not caught.value.actor_init_failed


def test_an_exit_status_and_the_last_lines_of_stderr_are_told(marks: Path) -> None:
    mortal = mortal_class(marks).remote()
    pid = get(mortal.pid.remote())
    with pytest.raises(ActorDiedError, match=rf"process {pid} exited with status 7") as caught:
        get(mortal.shout_and_leave.remote())
    assert "last words" in str(caught.value)


def test_the_name_of_the_signal_is_told(marks: Path) -> None:
    mortal = mortal_class(marks).remote()
    with pytest.raises(ActorDiedError, match=r"signal 11 \(SIGSEGV\)"):
        get(mortal.crash.remote())


def test_an_error_of_death_survives_pickling(marks: Path) -> None:
    mortal = mortal_class(marks).remote()
    rostral.kill(mortal)
    with pytest.raises(ActorDiedError) as caught:
        get(mortal.add.remote())
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.actor_id) == (str(caught.value), mortal._actor_id)


# ---- fate


def parent_class() -> Any:
    counters = counter_class()

    @rostral.remote
    class Parent:
        def __init__(self) -> None:
            self.child = counters.remote()

        def get_child(self) -> Any:
            return self.child

        def make(self, **options: Any) -> Any:
            return counters.options(**options).remote()

        def pid(self) -> int:
            return os.getpid()

        def keep(self, handles: list[Any]) -> None:
            self.kept = handles

    return Parent


def test_an_actor_ends_with_the_actor_that_made_it() -> None:
    parent = parent_class().remote()
    child = get(parent.get_child.remote())
    assert get(child.add.remote()) == 1
    rostral.kill(parent)
    with pytest.raises(ActorDiedError, match=r"its owner died.*Parent"):
        for _ in range(1000):
            get(child.add.remote())


def test_an_actors_children_end_with_its_process_and_are_made_anew_in_the_next() -> None:
    parent = parent_class().options(max_restarts=1, max_task_retries=-1).remote()
    first = get(parent.get_child.remote())
    assert get(first.add.remote()) == 1
    os.kill(get(parent.pid.remote()), signal.SIGKILL)
    second = get(parent.get_child.remote())
    until(lambda: first != second or get(parent.get_child.remote()) != first, "the new child")
    second = get(parent.get_child.remote())
    assert get(second.add.remote()) == 1
    with pytest.raises(ActorDiedError, match="its owner died"):
        get(first.add.remote())


def test_a_detached_child_outlives_the_actor_that_made_it() -> None:
    parent = parent_class().remote()
    child = get(parent.make.remote(name="outlives", lifetime="detached"))
    assert get(child.add.remote()) == 1
    rostral.kill(parent)
    until(lambda: state_of(parent) == "DEAD", "the end of the parent")
    assert get(child.add.remote()) == 2
    rostral.kill(child)


def state_of(handle: Any) -> str:
    body = {"actor_id": handle._actor_id}
    return str(_context.connected().ask("actor_info", body)["state"])


def test_an_actor_made_by_a_task_lives_on_with_its_handle() -> None:
    counters = counter_class()

    @rostral.remote(max_retries=0)
    def make() -> Any:
        handle = counters.remote(5)
        return handle, os.getpid()

    counter, maker_pid = get(make.remote())
    os.kill(maker_pid, signal.SIGKILL)
    until(lambda: not is_alive(maker_pid), "the end of the maker's process")
    assert get(counter.add.remote()) == 6


def test_an_actor_survives_the_actor_that_its_handle_went_through() -> None:
    counter = counter_class().remote()
    parents = [parent_class().remote() for _ in range(2)]
    get([parent.keep.remote([counter]) for parent in parents])
    pid = get(counter.pid.remote())
    del counter
    rostral.kill(parents[0])
    until(lambda: state_of(parents[0]) == "DEAD", "the end of the first holder")
    counter = get(parents[1].__ray_call__.remote(lambda self: self.kept[0]))
    assert get(counter.pid.remote()) == pid


def test_a_pickle_made_by_hand_does_not_keep_its_actor() -> None:
    counter = counter_class().remote()
    pid = get(counter.pid.remote())
    pickled = pickle.dumps({"nested": [counter]})
    again = pickle.loads(pickled)["nested"][0]
    assert again == counter
    assert get(again.add.remote()) == 1
    del counter
    until(lambda: not is_alive(pid), "the end of the actor")
    with pytest.raises(ActorDiedError, match="out of scope"):
        get(again.add.remote())


# ---- while it is down


def test_the_running_call_that_may_not_be_retried_is_unavailable(marks: Path) -> None:
    mortal = mortal_class(marks).options(max_restarts=1).remote()
    with pytest.raises(ActorUnavailableError, match=r"being restarted.*SIGKILL") as caught:
        get(mortal.die_once.remote())
    assert caught.value.actor_id == mortal._actor_id
    retried = mortal.die_once.options(max_task_retries=1)
    assert get(retried.remote()) == "lived"


def test_calls_that_wait_for_a_restart_are_unavailable_unless_retried(marks: Path) -> None:
    """Calls behind the one that dies: those with retries run in the new process, others fail."""
    mortal = mortal_class(marks).options(max_restarts=1).remote()
    assert get([mortal.add.remote() for _ in range(3)]) == [1, 2, 3]
    dying = mortal.die_once.remote()
    lost = [mortal.add.remote() for _ in range(3)]
    kept = [mortal.add.options(max_task_retries=1).remote() for _ in range(3)]
    for ref in (dying, *lost):
        with pytest.raises(ActorUnavailableError):
            get(ref)
    assert get(kept) == [1, 2, 3]


def test_kill_that_allows_a_restart_spends_one(marks: Path) -> None:
    mortal = mortal_class(marks).options(max_restarts=1, max_task_retries=-1).remote()
    pids = {get(mortal.pid.remote())}
    rostral.kill(mortal, no_restart=False)
    pids.add(get(mortal.pid.remote()))
    assert len(pids) == 2
    rostral.kill(mortal, no_restart=False)
    with pytest.raises(ActorDiedError, match=r"killed by rostral\.kill\(no_restart=False\)"):
        for _ in range(1000):
            get(mortal.add.remote())


def test_an_actor_learns_that_it_was_restarted(marks: Path) -> None:
    def lives(_: Any) -> tuple[bool, bool]:
        assignment = _context.connected().assignment
        assert assignment is not None
        me = assignment.handle()
        return assignment.was_reconstructed, me == rostral.get_actor("phoenix")

    mortal = mortal_class(marks).options(max_restarts=1, max_task_retries=1, name="phoenix")
    phoenix = mortal.remote()
    assert get(phoenix.__ray_call__.remote(lives)) == (False, True)
    assert get(phoenix.die_once.remote()) == "lived"
    assert get(phoenix.__ray_call__.remote(lives)) == (True, True)
