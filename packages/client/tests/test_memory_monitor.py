"""A node whose workers take too much: who is ended, what comes again, and what is said."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.exceptions import OutOfMemoryError, WorkerCrashedError
from rostral.launcher import NodeSettings, start_node
from rostral_scheduler import LocalSchedulerConfig

from .waiting import until

pytestmark = pytest.mark.slow

MIB = 1 << 20
LIMIT_BYTES = 200 * MIB
DEFAULTS = LocalSchedulerConfig(store_socket="", socket_path="", session_dir=Path())
CHECK_INTERVAL_S = DEFAULTS.memory_check_interval_s


@pytest.fixture
def small_node(leaves_nothing: str) -> Iterator[rostral.Context]:
    """A node whose workers may have 200 MiB."""
    del leaves_nothing
    settings = NodeSettings(num_cpus=2, memory_bytes=64 * MIB, worker_memory_bytes=LIMIT_BYTES)
    node = start_node(settings)
    try:
        with rostral.init(node.record.address) as context:
            yield context
    finally:
        node.stop()


def test_a_task_without_retries_fails_with_the_process_table(
    small_node: rostral.Context, marks: Path
) -> None:
    del small_node

    @rostral.remote(max_retries=0)
    def greedy() -> None:
        marks.write_text(str(os.getpid()))
        block = bytearray(b"x") * (400 * MIB)
        while block:
            time.sleep(0.05)

    with pytest.raises(OutOfMemoryError) as caught:
        rostral.get(greedy.remote(), timeout=30)
    error = caught.value
    assert isinstance(error, WorkerCrashedError)
    assert error.pid == int(marks.read_text())
    assert "of 200 MiB of the memory that its workers may have" in str(error)
    assert f"{error.pid} " in str(error).partition("PROCESS")[2]
    assert "rostral worker (running " in str(error)


def test_what_began_last_is_ended_and_runs_again_without_taking_its_retries(
    small_node: rostral.Context, marks: Path, tmp_path: Path
) -> None:
    del small_node
    release, began = tmp_path / "release", tmp_path / "began"

    @rostral.remote(max_retries=1)
    def first() -> str:
        block = bytearray(b"x") * (120 * MIB)
        time.sleep(3 * CHECK_INTERVAL_S)  # so that the monitor has seen it before the second
        began.touch()
        while block and not release.exists():
            time.sleep(0.01)
        return "first"

    @rostral.remote(max_retries=1)
    def second() -> str:
        with marks.open("a") as file:
            file.write(f"{os.getpid()}\n")
        block = bytearray(b"x") * (120 * MIB)
        # While the first holds its memory, this one is ended here each time.
        while block and not release.exists():
            time.sleep(0.01)
        return "second"

    earlier = first.remote()
    until(began.exists, "the first task")
    later = second.remote()
    until(lambda: len(marks.read_text().split()) >= 3, "two ends of the second task", 30)
    release.touch()
    assert rostral.get([earlier, later], timeout=30) == ["first", "second"]


def test_an_actor_that_takes_too_much_dies_of_that(small_node: rostral.Context) -> None:
    del small_node

    @rostral.remote
    class Hoarder:
        def take(self, mib: int) -> None:
            self.block = bytearray(b"x") * (mib * MIB)

        def wait(self) -> None:
            time.sleep(60)

    actor: Any = Hoarder
    hoarder = actor.remote()
    hoarder.take.remote(400)
    with pytest.raises(rostral.exceptions.ActorDiedError, match="the node was out of memory"):
        rostral.get(hoarder.wait.remote(), timeout=30)


def test_work_that_keeps_within_the_limit_is_left_alone(small_node: rostral.Context) -> None:
    del small_node

    @rostral.remote(max_retries=0)
    def modest() -> int:
        block = bytearray(b"x") * (60 * MIB)
        began = time.monotonic()
        while time.monotonic() - began < 0.8:
            time.sleep(0.01)
        return len(block)

    assert rostral.get([modest.remote(), modest.remote()], timeout=30) == [60 * MIB] * 2
