"""Stragglers among tasks with ``speculate=True``: a second run elsewhere, and the first result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.cluster_utils import Cluster, ClusterNode
from rostral.exceptions import TaskCancelledError
from rostral.scheduling_strategies import NodeAffinitySchedulingStrategy

from .nodes import STORE_BYTES, cluster_of, nothing_left, status_of, until

pytestmark = pytest.mark.slow

TIMEOUT_S = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The driver's node, where such tasks may run too, and two others."""
    with cluster_of({"num_cpus": 1}, {"num_cpus": 1}, {"num_cpus": 1}) as made:
        yield made


class Runs:
    """Runs of tasks as they leave files, and what they wait for."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder

    def began_on(self, task: str) -> list[str]:
        """The nodes where runs of a task have begun."""
        return [name.split("-")[1] for name in os.listdir(self.folder) if name.startswith(task)]

    def release(self, node: str) -> None:
        """What waits on the node goes on."""
        Path(self.folder, f"go@{node}").touch()

    def second_count(self) -> int:
        """Second runs so far, of tasks of the driver's node."""
        assert self.cluster.head_node is not None
        return int(status_of(self.cluster.head_node)["second_runs"])

    def straggler_on(
        self, node: ClusterNode, *, size: int = 0, elsewhere: str = ""
    ) -> tuple[str, Any]:
        """A task that has begun on the node, where it waits; others of its kind take no time.

        What it does on other nodes says `elsewhere`: "fail", "wait", or nothing.
        """
        quick = [wait_on.remote("quick", str(self.folder), "") for _ in range(10)]
        rostral.get(quick, timeout=TIMEOUT_S)
        others = [one for one in self.cluster.list_all_nodes() if one is not node]
        # Where nothing else is to be done it begins, and so there.
        busy = [
            block.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(one.node_id, soft=False)
            ).remote(str(self.folder), number)
            for number, one in enumerate(others)
        ]
        for number in range(len(others)):
            until(self.begun(f"block{number}", 1), "the others are busy")
        ref = wait_on.remote("task", str(self.folder), node.node_id, size, elsewhere)
        until(self.begun("task", 1), "its first run")
        assert self.began_on("task") == [node.node_id]
        Path(self.folder, "unblock").touch()
        rostral.get(busy, timeout=TIMEOUT_S)
        return "task", ref

    def begun(self, name: str, count: int) -> Callable[[], bool]:
        """Whether so many runs of the task have begun."""
        return lambda: len(self.began_on(name)) >= count

    def end(self) -> None:
        """Waits until nothing runs any more, and nothing is left."""
        until(self._is_idle, "the end of all runs")
        for node in self.cluster.list_all_nodes():
            nothing_left(node, code=True)

    def _is_idle(self) -> bool:
        states = [status_of(node) for node in self.cluster.list_all_nodes()]
        return not any(state["forwarded"] or state["hosted"] for state in states)


@rostral.remote
def block(folder: str, number: int) -> None:
    """Keeps a CPU busy for a while."""
    Path(folder, f"block{number}-").touch()
    deadline_s = time.monotonic() + 60
    while not Path(folder, "unblock").exists() and time.monotonic() < deadline_s:
        time.sleep(0.01)


@rostral.remote(speculate=True, max_retries=0)
def wait_on(name: str, folder: str, slow: str, size: int = 0, elsewhere: str = "") -> Any:
    """Says that it runs; on the node that is slow it waits for its release, or for a minute.

    On others it does what is said: once the slow one has begun, for it may be the first run.
    """
    here = str(rostral.get_runtime_context().get_node_id())
    is_second = Path(folder, f"{name}-{slow}").exists()
    Path(folder, f"{name}-{here}").touch()
    if here == slow or (is_second and elsewhere == "wait"):
        deadline_s = time.monotonic() + 60
        while not Path(folder, f"go@{here}").exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
    elif is_second and elsewhere == "fail":
        raise ZeroDivisionError("second")
    return here, bytes(size)


@pytest.fixture
def runs(cluster: Cluster, tmp_path: Path) -> Iterator[Runs]:
    """Of a test, which leaves nothing."""
    found = Runs(cluster, tmp_path)
    yield found
    found.end()


@pytest.mark.parametrize("size", [10, 300_000], ids=["small", "large"])
@pytest.mark.parametrize("where", ["here", "there"])
def test_a_straggler_is_overtaken_by_a_second_run_on_another_node(
    runs: Runs, where: str, size: int
) -> None:
    """1. A task begins where it takes a minute. 2. A second run has its result within seconds.

    3. The first one is ended. Small results come along, large ones stay where they are.
    """
    head, slow = runs.cluster.list_all_nodes()[:2]
    if where == "here":
        slow = head
    before = runs.second_count()
    name, straggler = runs.straggler_on(slow, size=size)
    node, value = rostral.get(straggler, timeout=TIMEOUT_S)
    assert node != slow.node_id
    assert value == bytes(size)
    assert runs.second_count() == before + 1
    assert sorted(runs.began_on(name)) == sorted([slow.node_id, node])


def test_a_second_run_that_fails_leaves_the_first_alone(runs: Runs) -> None:
    slow = runs.cluster.worker_nodes[0]
    name, straggler = runs.straggler_on(slow, elsewhere="fail")
    until(runs.begun(name, 2), "a second run")
    runs.release(slow.node_id)
    assert rostral.get(straggler, timeout=TIMEOUT_S)[0] == slow.node_id


def test_cancelling_a_straggler_ends_both_runs(runs: Runs) -> None:
    slow = runs.cluster.worker_nodes[0]
    name, straggler = runs.straggler_on(slow, elsewhere="wait")
    until(runs.begun(name, 2), "a second run")
    rostral.cancel(straggler)
    with pytest.raises(TaskCancelledError):
        rostral.get(straggler, timeout=TIMEOUT_S)
    assert len(runs.began_on(name)) == 2


def test_the_death_of_a_stragglers_node_leaves_the_second_run(runs: Runs) -> None:
    """1. Both runs wait, on two nodes. 2. The first one's dies. 3. The other's result counts.

    The task has no retries, and so it would be lost without the second run.
    """
    cluster = runs.cluster
    slow = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    name, straggler = runs.straggler_on(slow, elsewhere="wait")
    until(runs.begun(name, 2), "a second run")
    cluster.remove_node(slow, allow_graceful=False)
    until(lambda: slow.node_id not in living(), "its death")
    (other,) = {*runs.began_on(name)} - {slow.node_id}
    runs.release(other)
    assert rostral.get(straggler, timeout=TIMEOUT_S)[0] == other


def living() -> set[str]:
    """Ids of the living nodes."""
    return {node["NodeID"] for node in rostral.nodes() if node["Alive"]}
