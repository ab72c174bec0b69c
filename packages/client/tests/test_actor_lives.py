"""How actors begin and end: constructors that fail, kill, restarts, last handles, exits."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.actor import exit_actor
from rostral.exceptions import (
    ActorDiedError,
    ActorError,
    NotPicklableError,
    UnschedulableError,
)

from .actors import counter_class, get, late_function
from .waiting import is_alive, until

pytestmark = pytest.mark.usefixtures("cluster")


# ---- what goes wrong at the beginning


def test_a_constructor_that_raises_kills_the_actor_with_its_traceback() -> None:
    class Broken:
        def __init__(self) -> None:
            raise KeyError("zork")

        def work(self) -> None: ...

    broken = rostral.remote(Broken).remote()
    with pytest.raises(ActorDiedError, match="constructor raised") as caught:
        get(broken.work.remote())
    assert caught.value.actor_init_failed
    assert "KeyError: 'zork'" in str(caught.value)
    assert isinstance(caught.value, ActorError)
    with pytest.raises(ActorDiedError, match="zork"):
        get(broken.work.remote())


def test_a_constructor_waits_for_its_inputs_and_fails_with_them(marks: Path) -> None:
    @rostral.remote
    def fail() -> int:
        raise KeyError("zork")

    counters = counter_class()
    with pytest.raises(ActorDiedError, match="zork") as caught:
        get(counters.remote(fail.remote()).add.remote())
    assert caught.value.actor_init_failed
    value = counters.remote(late_function(marks).remote(5)).add.remote()
    marks.write_text("done")
    assert get(value) == 6


def test_a_class_that_cannot_be_pickled_names_what_it_captures() -> None:
    lock = threading.Lock()

    class Guarded:
        def work(self) -> None:
            with lock:
                pass

    with pytest.raises(NotPicklableError, match=r"Guarded cannot be sent.*captures lock"):
        rostral.remote(Guarded).remote()


def test_what_no_node_can_give_is_refused_at_once() -> None:
    with pytest.raises(UnschedulableError, match="CPU"):
        counter_class().options(num_cpus=64).remote()


# ---- ends


def test_kill_ends_an_actor_at_once() -> None:
    counter = counter_class().remote()
    pid = get(counter.pid.remote())
    rostral.kill(counter)
    with pytest.raises(ActorDiedError, match=r"kill\(\)") as caught:
        get(counter.add.remote())
    assert caught.value.actor_id == counter._actor_id
    until(lambda: not is_alive(pid), "the end of the process")


def test_running_and_queued_calls_of_a_killed_actor_raise() -> None:
    class Sleeper:
        def sleep(self) -> None:
            time.sleep(60)

    sleeper = rostral.remote(Sleeper).remote()
    get(sleeper.__ray_ready__.remote())
    refs = [sleeper.sleep.remote() for _ in range(5)]
    rostral.kill(sleeper)
    for ref in refs:
        with pytest.raises(ActorDiedError):
            get(ref)


def test_calls_of_a_dead_actor_raise_without_waiting() -> None:
    counter = counter_class().remote()
    rostral.kill(counter)
    began = time.monotonic()
    for _ in range(10):
        with pytest.raises(ActorDiedError):
            get(counter.add.remote())
    assert time.monotonic() - began < 2


def test_kill_of_what_is_no_handle_is_a_value_error() -> None:
    kill: Any = rostral.kill
    with pytest.raises(ValueError, match="actor handle"):
        kill(5)


def test_kill_of_a_dead_actor_is_no_error() -> None:
    counter = counter_class().remote()
    rostral.kill(counter)
    rostral.kill(counter)


def test_kill_with_restart_begins_anew() -> None:
    counter = counter_class().options(max_restarts=1, max_task_retries=-1).remote(10)
    get(counter.add.remote())
    pid = get(counter.pid.remote())
    rostral.kill(counter, no_restart=False)
    assert get(counter.add.remote()) == 11
    assert get(counter.pid.remote()) != pid
    rostral.kill(counter, no_restart=False)
    with pytest.raises(ActorDiedError):
        for _ in range(100):
            get(counter.add.remote())
            time.sleep(0.01)


def test_max_restarts_after_kill_9_of_its_process() -> None:
    counter = counter_class().options(max_restarts=2, max_task_retries=-1).remote()
    for _ in range(2):
        assert get(counter.add.remote()) == 1
        os.kill(get(counter.pid.remote()), signal.SIGKILL)
    os.kill(get(counter.pid.remote()), signal.SIGKILL)
    with pytest.raises(ActorDiedError, match=r"SIGKILL.*restarted 2 of 2 times"):
        for _ in range(1000):
            get(counter.add.remote())


def test_a_dead_actor_without_restarts_says_how_it_died() -> None:
    counter = counter_class().remote()
    pid = get(counter.pid.remote())
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid), "the death")
    with pytest.raises(ActorDiedError, match=rf"process {pid} .*SIGKILL"):
        get(counter.add.remote())


def test_an_actor_ends_with_its_last_handle() -> None:
    counter = counter_class().remote()
    pid = get(counter.pid.remote())
    other = get(rostral.put([counter]))[0]
    del counter
    assert get(other.add.remote()) == 1
    del other
    until(lambda: not is_alive(pid), "the end of the process")


def test_an_actor_with_a_lifetime_that_is_not_detached_ends_with_its_last_handle() -> None:
    counter = counter_class().options(lifetime="non_detached").remote()
    pid = get(counter.pid.remote())
    del counter
    until(lambda: not is_alive(pid), "the end of the process")


def test_an_actor_ends_with_its_last_handle_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        pid = get(counter_class().remote().pid.remote())
        until(lambda: not is_alive(pid), "the end of the process")
    finally:
        gc.enable()


def test_calls_under_way_keep_an_actor_alive(marks: Path) -> None:
    late = late_function(marks).remote([1])
    ref = counter_class().remote(7).append.remote(late)
    gc.collect()
    marks.write_text("done")
    assert get(ref) == [1, 7]


def test_exit_actor_ends_the_actor_and_says_so_to_the_caller() -> None:
    counter = counter_class().remote()
    pid = get(counter.pid.remote())
    with pytest.raises(ActorDiedError, match=r"exit_actor\(\)"):
        get(counter.exit.remote())
    with pytest.raises(ActorDiedError):
        for _ in range(1000):
            get(counter.add.remote())
    until(lambda: not is_alive(pid), "the end of the process")


def test_exit_actor_outside_of_an_actor_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="outside of an actor"):
        exit_actor()


def test_a_call_that_exits_the_process_says_so() -> None:
    counter = counter_class().remote()
    with pytest.raises(ActorDiedError, match="exited with 3"):
        get(counter.leave.remote())
    with pytest.raises(ActorDiedError):
        for _ in range(1000):
            get(counter.add.remote())


def test_terminate_runs_after_the_calls_before_it() -> None:
    counter = counter_class().remote()
    values = [counter.add.remote() for _ in range(10)]
    counter.__ray_terminate__.remote()
    assert get(values) == list(range(1, 11))
    with pytest.raises(ActorDiedError):
        for _ in range(1000):
            get(counter.add.remote())
