"""Deaths at any moment: what runs again, what fails, and that nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from rostral_objectstore.client import StoreClient
from rostral_objectstore.errors import StoreUnavailableError
from rostral_scheduler.errors import WorkerCrashedError, WorkerStartError

from .node import Driver, Node, eventually, is_alive, running

RETRIES = 3


def wait_for_death(pid: int) -> None:
    eventually(lambda: not is_alive(pid), f"the death of {pid}")


def test_killed_worker_s_task_runs_again(driver: Driver, folder: Path) -> None:
    """Kill -9 inside the first run; the second gives the value."""
    marks = folder / "marks"
    handle = driver.submit(driver.queue(), "note_then", str(marks), "die once", retries=RETRIES)
    assert driver.get(handle) == 2
    first, second = marks.read_text().splitlines()
    assert first != second
    assert not is_alive(int(first))


def test_spent_retries_end_in_a_typed_error(driver: Driver, folder: Path) -> None:
    marks = folder / "marks"
    handle = driver.submit(driver.queue(), "note_then", str(marks), "die", retries=2)
    with pytest.raises(WorkerCrashedError) as caught:
        driver.get(handle)
    pids = [int(line) for line in marks.read_text().splitlines()]
    assert len(pids) == 3
    assert caught.value.pid == pids[-1]
    assert caught.value.exit_status == -signal.SIGKILL
    assert caught.value.task_id == handle.binary()[:16]
    for part in (f"process {pids[-1]}", "signal 9 (SIGKILL)", "about to die", "no retries left"):
        assert part in str(caught.value)


def test_death_of_a_worker_is_noticed_at_once(driver: Driver, folder: Path) -> None:
    marks = folder / "marks"
    handle = driver.submit(driver.queue(), "note_then", str(marks), "hang")
    eventually(marks.exists, "the start of the task")
    eventually(marks.read_text, "the note")
    killed_at = time.monotonic()
    os.kill(int(marks.read_text()), signal.SIGKILL)
    with pytest.raises(WorkerCrashedError):
        driver.get(handle)
    # By its end and not by a timeout; the benchmark of deaths says how many milliseconds it takes.
    assert time.monotonic() - killed_at < 2.0


def test_idle_worker_s_death_costs_nothing(driver: Driver) -> None:
    queue = driver.queue()
    for _ in range(5):
        pid = driver.get(driver.submit(queue, "pid"))
        os.kill(pid, signal.SIGKILL)
        wait_for_death(pid)
        assert driver.get(driver.submit(queue, "pid", retries=RETRIES)) != pid


def test_workers_killed_in_a_storm_lose_no_task(driver: Driver) -> None:
    """Both workers are killed again and again while tasks run; every result comes, and is right."""
    queue = driver.queue()
    handles = [driver.submit(queue, "add", i, 1, retries=100) for i in range(2000)]
    for _ in range(6):
        for pid in driver.node.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(driver.node.worker_pids, "new workers")
    assert [driver.get(handle) for handle in handles] == [i + 1 for i in range(2000)]


@pytest.mark.parametrize("how", ["disconnects", "unregisters"])
def test_gone_driver_takes_everything_with_it_within_a_second(
    node: Node, folder: Path, how: str
) -> None:
    """1. A task hangs, others queue, an actor lives. 2. The driver goes. 3. So does all of it."""
    driver = Driver(node)
    marks = folder / "marks"
    queue = driver.queue()
    actor = driver.create_actor()
    pids = [actor.pid()]
    handles = [driver.submit(queue, "note_then", str(marks), "hang", retries=9) for _ in range(50)]
    eventually(lambda: marks.exists() and len(marks.read_text().splitlines()) == 2, "two tasks")
    pids += [int(line) for line in marks.read_text().splitlines()]
    gone_at = time.monotonic()
    if how == "disconnects":
        driver.close()
    else:
        driver.unregister()
    eventually(lambda: not any(is_alive(pid) for pid in pids), "the end of the workers")
    assert time.monotonic() - gone_at < 1.0
    node.expect_nothing_left()
    assert len(handles) == 50
    again = Driver(node)
    assert again.get(again.submit(again.queue(), "add", 1, 1)) == 2
    again.unregister()


def test_killed_driver_process_leaves_no_object(node: Node, folder: Path) -> None:
    """A driver in a process of its own is killed -9 in the middle of its work."""
    marks = folder / "marks"
    pid = os.fork()
    if pid == 0:
        try:
            driver = Driver(node)
            handle = driver.submit(driver.queue(), "note_then", str(marks), "hang", retries=9)
            driver.get(handle)
        finally:
            os._exit(1)
    try:
        eventually(lambda: marks.exists() and marks.read_text(), "the start of the task")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    node.expect_nothing_left()
    assert not is_alive(int(marks.read_text()))
    with StoreClient.connect(node.config.store_socket) as client:
        eventually(lambda: not client.list_objects(), "the end of every object")


def test_killed_zygote_takes_its_workers_and_is_replaced(driver: Driver) -> None:
    queue = driver.queue()
    pid = driver.get(driver.submit(queue, "pid"))
    zygote = driver.node.scheduler.pool.zygote_pid
    os.kill(zygote, signal.SIGKILL)
    eventually(lambda: not is_alive(pid), "the death of the workers")
    assert driver.get(driver.submit(queue, "pid", retries=RETRIES)) != pid
    assert driver.node.scheduler.pool.zygote_pid not in (0, zygote)


def test_broken_worker_module_is_a_typed_error(folder: Path) -> None:
    with (
        pytest.raises(WorkerStartError, match="no_such_module"),
        running(folder, worker_module="no_such_module:main"),
    ):
        pass


def test_taken_socket_is_a_typed_error(node: Node, folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    with (
        pytest.raises(StoreUnavailableError, match=f"listens? at {node.config.socket_path}"),
        running(other, socket_path=node.config.socket_path),
    ):
        pass
    assert Path(node.config.socket_path).exists()


def test_absent_store_is_a_typed_error(folder: Path) -> None:
    with (
        pytest.raises(StoreUnavailableError, match="nothing answers"),
        running(folder, store_socket=str(folder / "absent.sock")),
    ):
        pass
