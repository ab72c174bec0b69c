"""Workers that have nothing to do: how many there are, and how little they take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import rostral

from .waiting import until

pytestmark = pytest.mark.slow

OWN_KIB_MAX = 10 * 1024


def workers() -> list[dict[str, Any]]:
    """What the node's scheduler says of its workers."""
    found: list[dict[str, Any]] = rostral._context.connected().ask("status", {})["workers"]
    return found


def own_kib(pid: int) -> int:
    """Memory that the process shares with nobody, KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_a_first_driver_finds_a_worker_for_each_cpu(cluster: rostral.Context) -> None:
    del cluster
    until(lambda: len(workers()) == 2, "two workers")


def test_an_idle_worker_has_little_memory_of_its_own(cluster: rostral.Context) -> None:
    del cluster

    @rostral.remote
    def work(number: int) -> int:
        return number

    numbers = range(1000)
    assert rostral.get([work.remote(number) for number in numbers]) == list(numbers)
    sizes = {worker["pid"]: own_kib(worker["pid"]) for worker in workers()}
    assert sizes
    assert max(sizes.values()) < OWN_KIB_MAX, sizes


def test_idle_workers_beyond_the_cpus_end_soon(cluster: rostral.Context) -> None:
    del cluster

    @rostral.remote
    def nest(depth: int) -> int:
        return 1 if depth == 0 else 1 + rostral.get(nest.remote(depth - 1))

    assert rostral.get(nest.remote(5)) == 6
    until(lambda: len(workers()) <= 2, "the end of the workers that waited", 5.0)


@pytest.mark.parametrize(("num_cpus", "count"), [(1, "1"), (2, "2"), (0.5, "1")])
def test_libraries_may_use_as_many_threads_as_the_task_has_cpus(
    cluster: rostral.Context, num_cpus: float, count: str
) -> None:
    del cluster

    # An actor has a process of its own, which no task has set up before.
    @rostral.remote(num_cpus=num_cpus)
    class Library:
        def threads(self) -> str | None:
            return os.environ.get("OMP_NUM_THREADS")

    library: Any = Library
    assert rostral.get(library.remote().threads.remote()) == count


def test_a_thread_count_that_the_user_sets_stays(cluster: rostral.Context) -> None:
    del cluster

    @rostral.remote(num_cpus=2, runtime_env={"env_vars": {"OMP_NUM_THREADS": "7"}})
    def threads() -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    assert rostral.get(threads.remote()) == "7"
