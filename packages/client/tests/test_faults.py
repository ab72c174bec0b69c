"""kill -9 of a worker, a driver and the node: what is run again, what ends, and what lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rostral
from rostral.exceptions import (
    ActorDiedError,
    ClusterUnavailableError,
    RostralError,
    WorkerCrashedError,
)

from .command_line import CommandLine, program
from .waiting import files_of, is_alive, object_ids, processes_of, until

pytestmark = pytest.mark.slow

STORE_BYTES = 128 << 20


@pytest.fixture
def node(leaves_nothing: str) -> Iterator[rostral.Context]:
    """A cluster of this test's own, which may break it."""
    del leaves_nothing
    with rostral.init(num_cpus=2, object_store_memory=STORE_BYTES) as context:
        yield context


def dying_function(marks: Path, lives: int) -> Any:
    """A task whose process is killed with kill -9 in its first `lives` runs."""

    @rostral.remote
    def f(value: Any) -> Any:
        with marks.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(marks.read_text().split()) <= lives:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    return f


def test_a_task_whose_worker_was_killed_is_run_again(node: rostral.Context, marks: Path) -> None:
    del node
    array = np.arange(100_000)
    value = rostral.get(dying_function(marks, 2).remote(array), timeout=30)
    np.testing.assert_array_equal(value, array)
    assert len(set(marks.read_text().split())) == 3


def test_a_worker_killed_from_outside_loses_no_task(node: rostral.Context, marks: Path) -> None:
    """Workers are killed while 2000 tasks run; every value comes, and comes once."""
    del node

    @rostral.remote(max_retries=-1)
    def f(n: int) -> tuple[int, int]:
        return n, os.getpid()

    refs = [f.remote(n) for n in range(2000)]
    for start in (0, 500, 1000):
        _, pid = rostral.get(refs[start], timeout=30)
        os.kill(pid, signal.SIGKILL) if is_alive(pid) else None
        refs += [f.remote(n) for n in range(len(refs), len(refs) + 500)]
    assert [n for n, _ in rostral.get(refs, timeout=60)] == list(range(len(refs)))
    del marks


def test_spent_retries_are_a_worker_crashed_error(node: rostral.Context, marks: Path) -> None:
    del node
    ref = dying_function(marks, 99).options(max_retries=1).remote(1)
    with pytest.raises(WorkerCrashedError, match="SIGKILL") as caught:
        rostral.get(ref, timeout=30)
    pids = [int(pid) for pid in marks.read_text().split()]
    assert len(pids) == 2
    assert caught.value.pid == pids[-1]
    assert "max_retries" in str(caught.value)


def test_a_task_that_exits_its_process_crashes_its_worker(node: rostral.Context) -> None:
    del node

    @rostral.remote(max_retries=0)
    def leave() -> None:
        raise SystemExit(7)

    with pytest.raises(WorkerCrashedError, match="7"):
        rostral.get(leave.remote(), timeout=30)
    assert rostral.get(rostral.put(1)) == 1


def test_a_crash_leaves_no_object(node: rostral.Context, marks: Path) -> None:
    del node
    before = object_ids()
    function = dying_function(marks, 1)
    rostral.get(function.remote(np.zeros(100_000)), timeout=30)
    code = {bytes(function._code.binary())}
    until(lambda: not object_ids() - before - code, "the end of the test's objects")


def test_nested_tasks_survive_the_death_of_their_parents_process(
    node: rostral.Context, marks: Path
) -> None:
    """The parent dies while its children run; run again, it finds what they have computed."""
    del node

    @rostral.remote
    def child(n: int) -> int:
        return n * n

    @rostral.remote
    def parent() -> int:
        refs = [child.remote(n) for n in range(20)]
        with marks.open("a") as file:
            file.write("x")
        if len(marks.read_text()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(rostral.get(refs))

    assert rostral.get(parent.remote(), timeout=30) == sum(n * n for n in range(20))
    assert marks.read_text() == "xx"


# ---- the driver


DRIVER = """
import os, sys, time
import numpy as np
import rostral

rostral.init(sys.argv[1], namespace="doomed")

@rostral.remote(num_cpus=0.1)
def hang():
    print("hanging", flush=True)
    time.sleep(600)

@rostral.remote
class Holder:
    def __init__(self):
        self.kept = rostral.put(np.zeros(1_000_000))

    def pid(self):
        return os.getpid()

holder = Holder.options(name="holder").remote()
kept = rostral.put(np.zeros(1_000_000))
ref = hang.remote()
pid = rostral.get(holder.pid.remote())
worker = rostral.get(rostral.remote(os.getpid).options(num_cpus=0.1).remote())
print(os.getpid(), pid, worker, flush=True)
rostral.get(ref)
"""


def test_a_killed_drivers_workers_actors_and_objects_go_within_a_second(
    command_line: CommandLine,
) -> None:
    """The cluster lives on, and serves another driver meanwhile."""
    address = command_line.start_head()
    with rostral.init(address, namespace="doomed"):

        @rostral.remote
        def f(n: int) -> int:
            return n

        assert rostral.get(f.remote(1), timeout=20) == 1
        before = object_ids()
        with program(DRIVER, address) as driver:
            assert driver.stdout is not None
            line = driver.stdout.readline()
            while "hanging" in line:
                line = driver.stdout.readline()
            _, actor_pid, worker_pid = (int(pid) for pid in line.split())
            assert len(object_ids() - before) >= 2
            assert is_alive(actor_pid)
            driver.kill()
            killed_at = time.monotonic()
            until(lambda: not is_alive(actor_pid), "the end of the actor", 1)
            until(lambda: not is_alive(worker_pid), "the end of the worker", 1)
            until(lambda: not object_ids() - before, "the end of the objects", 1)
            assert time.monotonic() - killed_at < 1
            with pytest.raises(ValueError, match="holder"):
                rostral.get_actor("holder")
        assert rostral.get([f.remote(n) for n in range(100)], timeout=20) == list(range(100))


def test_a_killed_driver_takes_its_own_node_with_it(leaves_nothing: str) -> None:
    with program(
        "import rostral, sys\n"
        "rostral.init(num_cpus=1, object_store_memory=64 << 20)\n"
        "rostral.get(rostral.remote(len).remote([]))\n"
        "print('ready', flush=True); sys.stdin.readline()"
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        driver.kill()
        driver.wait()
        until(lambda: not processes_of(leaves_nothing), "the end of its node", 5)
    assert files_of(leaves_nothing) == []


# ---- the node


def node_pid(runtime_dir: str) -> int:
    [pid] = [pid for pid, line in processes_of(runtime_dir).items() if "rostral.node" in line]
    return pid


def test_a_blocked_get_raises_when_the_node_is_killed(leaves_nothing: str) -> None:
    @rostral.remote
    def hang() -> None:
        time.sleep(600)

    with rostral.init(num_cpus=2, object_store_memory=STORE_BYTES):
        put, ref = rostral.put(1), hang.remote()
        assert rostral.wait([ref], timeout=0.2) == ([], [ref])
        # By a process of its own: this one is inside of `get` when it happens.
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {node_pid(leaves_nothing)}"])
        with pytest.raises(ClusterUnavailableError):
            rostral.get(ref, timeout=20)
        killer.wait()
        for use in (
            lambda: rostral.get(put),
            lambda: rostral.put(2),
            lambda: hang.remote(),
            rostral.nodes,
            lambda: rostral.wait([put]),
        ):
            with pytest.raises(RostralError):
                use()
    until(lambda: not processes_of(leaves_nothing), "the end of the workers", 5)
    assert files_of(leaves_nothing) == []


def test_init_works_again_after_the_node_was_killed(leaves_nothing: str) -> None:
    rostral.init(num_cpus=1, object_store_memory=64 << 20)
    os.kill(node_pid(leaves_nothing), signal.SIGKILL)
    until(lambda: not processes_of(leaves_nothing), "the end of the workers", 5)
    rostral.shutdown()
    with rostral.init(num_cpus=1, object_store_memory=64 << 20):
        assert rostral.get(rostral.remote(len).remote([1]), timeout=20) == 1


def test_a_killed_head_is_cleaned_up_by_whoever_looks(command_line: CommandLine) -> None:
    command_line.start_head()
    os.kill(node_pid(command_line.runtime_dir), signal.SIGKILL)
    until(lambda: not processes_of(command_line.runtime_dir), "the end of the node", 5)
    with pytest.raises(ClusterUnavailableError):
        rostral.init("auto")
    assert files_of(command_line.runtime_dir) == []


def test_the_actor_of_a_dead_job_is_dead_for_others(command_line: CommandLine) -> None:
    """A handle taken by name from another job raises once that job's driver is killed."""
    address = command_line.start_head()
    with program(DRIVER, address) as driver, rostral.init(address, namespace="doomed"):
        assert driver.stdout is not None
        while "hanging" in driver.stdout.readline():
            pass
        holder = rostral.get_actor("holder")
        assert rostral.get(holder.pid.remote(), timeout=20)
        driver.kill()
        with pytest.raises(ActorDiedError, match="job that made it has ended"):
            for _ in range(10_000):
                rostral.get(holder.pid.remote(), timeout=20)
