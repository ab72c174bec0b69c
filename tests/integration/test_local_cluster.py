"""LocalCluster: nodes that are killed, stopped, cut off from each other, and slow to reach."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rostral
from rostral.cluster_utils import ClusterNode
from rostral.exceptions import ClusterUnavailableError, NodeDiedError
from rostral.local_cluster import LocalCluster
from rostral.virtual_hosts import Switch

from .nodes import STORE_BYTES, runtime_folder, until

pytestmark = pytest.mark.slow

TIMEOUT_S = 60
MB = 1 << 20


@contextlib.contextmanager
def local_cluster(count: int, *, hosts: bool) -> Iterator[LocalCluster]:
    """A head and so many nodes, each with a resource `nodeN`, and this process as a driver."""
    with runtime_folder(), contextlib.ExitStack() as stack:
        try:
            cluster = LocalCluster(hosts=hosts)
        except ClusterUnavailableError as error:
            pytest.skip(f"no hosts here: {error}")
        stack.callback(cluster.shutdown)
        stack.callback(rostral.shutdown)
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        for number in range(count):
            resources = {f"node{number}": 1.0}
            cluster.add_node(num_cpus=1, resources=resources, object_store_memory=STORE_BYTES)
        cluster.connect()
        yield cluster


@rostral.remote(max_retries=0)
def where() -> str:
    return str(rostral.get_runtime_context().get_node_id())


@rostral.remote(max_retries=0)
def hang(mark: str) -> None:
    Path(mark).touch()
    time.sleep(600)


@rostral.remote
def ones(count: int) -> Any:
    return np.ones(count, np.uint8)


@rostral.remote
def total(array: Any) -> int:
    return int(array.sum(dtype=np.int64))


def on(number: int) -> dict[str, float]:
    """The resources of what must run on a node."""
    return {f"node{number}": 0.01}


def hanging_on(number: int, folder: Path) -> rostral.ObjectRef[None]:
    """A task that runs there, for good."""
    mark = folder / f"hangs{number}"
    task = hang.options(resources=on(number)).remote(str(mark))
    until(mark.exists, "the task runs")
    return task


def lost_after_s(task: rostral.ObjectRef[None]) -> float:
    """How long it takes until it is known to be lost."""
    begin_s = time.monotonic()
    with pytest.raises(NodeDiedError):
        rostral.get(task, timeout=TIMEOUT_S)
    return time.monotonic() - begin_s


def has_ended(node: ClusterNode) -> bool:
    """Whether its process is gone."""
    return node.process.process.poll() is not None


def test_killed_and_paused_nodes_are_noticed_and_a_resumed_one_ends(tmp_path: Path) -> None:
    """1. A node is killed, 2. another one stands still: tasks there are lost. 3. It ends itself."""
    with local_cluster(2, hosts=False) as cluster:
        first, second = cluster.worker_nodes
        on_first, on_second = (hanging_on(number, tmp_path) for number in range(2))
        cluster.kill(first)
        assert lost_after_s(on_first) < 5
        cluster.pause(second)
        assert lost_after_s(on_second) < 15
        cluster.resume(second)
        until(lambda: has_ended(second), "the end of the node", timeout_s=30)
        with pytest.raises(ValueError, match="hosts=True"):
            cluster.unplug(second)


@pytest.mark.parametrize("how", ["unplugged", "not heard", "hears nothing"])
def test_a_node_that_is_cut_off_is_dead_to_the_others(tmp_path: Path, how: str) -> None:
    with local_cluster(1, hosts=True) as cluster:
        (node,) = cluster.worker_nodes
        assert cluster.head_node is not None
        task = hanging_on(0, tmp_path)
        if how == "unplugged":
            cluster.unplug(node)
        elif how == "not heard":
            cluster.cut(node, cluster.head_node, one_way=True)
        else:
            cluster.cut(cluster.head_node, node, one_way=True)
        assert lost_after_s(task) < 15
        cluster.heal()
        until(lambda: has_ended(node), "the end of the node", timeout_s=30)


def test_nodes_that_cannot_reach_each_other_exchange_objects_by_a_third() -> None:
    """1. Two nodes are cut from each other. 2. One reads what the other has made all the same."""
    with local_cluster(2, hosts=True) as cluster:
        first, second = cluster.worker_nodes
        warm = [where.options(resources=on(number)).remote() for number in range(2)]
        assert rostral.get(warm, timeout=TIMEOUT_S) == [first.node_id, second.node_id]
        made = ones.options(resources=on(0)).remote(4 * MB)
        rostral.wait([made], timeout=TIMEOUT_S)
        cluster.cut(first, second)
        read = total.options(resources=on(1)).remote(made)
        assert rostral.get(read, timeout=TIMEOUT_S) == 4 * MB
        # What two nodes believe of each other is not what the cluster does: nobody has to end.
        alive = {node["NodeID"] for node in rostral.nodes() if node["Alive"]}
        assert first.node_id in alive or second.node_id in alive


def test_a_slow_cable_makes_nodes_slow_and_not_dead() -> None:
    with local_cluster(1, hosts=True) as cluster:
        (node,) = cluster.worker_nodes
        there = total.options(resources=on(0))
        assert rostral.get(there.remote(rostral.put(np.ones(MB, np.uint8))), timeout=20) == MB
        cluster.slow(node, 2 * MB)
        large = rostral.put(np.ones(8 * MB, np.uint8))
        begin_s = time.monotonic()
        assert rostral.get(there.remote(large), timeout=TIMEOUT_S) == 8 * MB
        assert time.monotonic() - begin_s > 3
        cluster.heal()
        again = rostral.put(np.full(8 * MB, 2, np.uint8))
        begin_s = time.monotonic()
        assert rostral.get(there.remote(again), timeout=TIMEOUT_S) == 16 * MB
        assert time.monotonic() - begin_s < 3
        with pytest.raises(ValueError, match="above 0"):
            cluster.slow(node, 0)
        assert cluster.head_node is not None
        with pytest.raises(ValueError, match="no cable"):
            cluster.unplug(cluster.head_node)


def test_hosts_that_a_killed_process_has_left_are_removed() -> None:
    try:
        Switch().close()
    except ClusterUnavailableError as error:
        pytest.skip(f"no hosts here: {error}")
    name = f"rsw{1 << 23}"  # No process has so high a number.
    host = f"{name}-2"
    subprocess.run(["ip", "netns", "add", host], check=True)
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    Switch().close()
    assert not Path("/run/netns", host).exists()
    assert not Path("/sys/class/net", name).exists()
