"""Clusters of several nodes on one machine: how they are made, counted and ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import rostral
from rostral.cluster_utils import Cluster
from rostral.exceptions import (
    ClusterUnavailableError,
    UnknownArgumentError,
    UnsupportedOptionError,
)

from .command_line import run_program
from .waiting import files_of, is_alive, processes_of, until

pytestmark = pytest.mark.slow

STORE_BYTES = 64 << 20


@pytest.fixture
def cluster_of_nodes(leaves_nothing: str) -> Iterator[Cluster]:
    """A head with one CPU."""
    del leaves_nothing
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES},
    )
    yield cluster
    rostral.shutdown()
    cluster.shutdown()


def test_joined_nodes_are_counted_and_offer_what_they_have(cluster_of_nodes: Cluster) -> None:
    cluster = cluster_of_nodes
    joined = cluster.add_node(
        num_cpus=2,
        memory=1 << 30,
        resources={"arm": 3},
        labels={"zone": "b"},
        object_store_memory=STORE_BYTES,
        _system_config={},
    )
    assert cluster.list_all_nodes() == [cluster.head_node, joined]
    with rostral.init(cluster.address) as context:
        assert cluster.head_node is not None
        assert context["node_id"] == cluster.head_node.node_id
        nodes = {node["NodeID"]: node for node in rostral.nodes()}
        assert set(nodes) == {cluster.head_node.node_id, joined.node_id}
        assert nodes[joined.unique_id]["Labels"] == {"zone": "b"}
        assert nodes[joined.node_id]["Resources"] == {"CPU": 2.0, "arm": 3.0, "memory": 2.0**30}
        assert rostral.cluster_resources() == {"CPU": 3.0, "arm": 3.0, "memory": 2.0**30}


@pytest.mark.parametrize("allow_graceful", [True, False])
def test_a_removed_node_is_dead_to_the_others(
    cluster_of_nodes: Cluster, *, allow_graceful: bool
) -> None:
    cluster = cluster_of_nodes
    node = cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES)
    pid = node.process.record.pid
    cluster.remove_node(node, allow_graceful=allow_graceful)
    assert not is_alive(pid)
    cluster.wait_for_nodes()
    with cluster.connect():
        alive = {known["NodeID"]: known["Alive"] for known in rostral.nodes()}
        assert alive[node.node_id] is False
        assert rostral.cluster_resources() == {"CPU": 1.0}
    with pytest.raises(ValueError, match="no node of this cluster"):
        cluster.remove_node(node)


def test_programs_run_on_the_head(cluster_of_nodes: Cluster) -> None:
    cluster_of_nodes.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    with cluster_of_nodes.connect(namespace="mine") as context:
        assert context["namespace"] == "mine"
        assert rostral.get(rostral.remote(len).remote("abc"), timeout=20) == 3


def test_waiting_for_a_node_that_does_not_come_times_out(cluster_of_nodes: Cluster) -> None:
    node = cluster_of_nodes.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    cluster_of_nodes.worker_nodes.clear()
    with pytest.raises(TimeoutError, match=f"too many .*{node.node_id}"):
        cluster_of_nodes.wait_for_nodes(timeout=0.1)
    cluster_of_nodes.worker_nodes.append(node)


def test_a_cluster_without_a_head_has_no_address(leaves_nothing: str) -> None:
    cluster = Cluster()
    for use in (lambda: cluster.address, cluster.connect, cluster.wait_for_nodes):
        with pytest.raises(ClusterUnavailableError, match="no head"):
            use()
    cluster.shutdown()
    assert files_of(leaves_nothing) == []


def test_wrong_arguments_are_refused_and_nothing_is_started(leaves_nothing: str) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"num_cpus": "1"}, TypeError),
        ({"num_cpus": -1}, ValueError),
        ({"num_cpu": 1}, UnknownArgumentError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"memory": "1"}, TypeError),
        ({"object_spilling_directory": 1}, TypeError),
        ({"include_dashboard": True}, UnsupportedOptionError),
    ]
    for arguments, error in wrong:
        with pytest.raises(error):
            Cluster().add_node(**arguments)
    with pytest.raises(ValueError, match="initialize_head"):
        Cluster(connect=True)
    assert files_of(leaves_nothing) == []


def test_a_program_that_just_ends_leaves_no_node(runtime_dir: str) -> None:
    run_program(
        """
from rostral.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
"""
    )
    assert files_of(runtime_dir) == []
    assert not processes_of(runtime_dir)


def test_a_killed_program_takes_its_nodes_with_it(runtime_dir: str) -> None:
    printed = run_program(
        """
import os
from rostral.cluster_utils import Cluster
cluster = Cluster(initialize_head=True)
cluster.add_node()
print(*[node.process.record.pid for node in cluster.list_all_nodes()], flush=True)
os._exit(0)
"""
    )
    pids = [int(pid) for pid in printed.split()]
    assert len(pids) == 2
    assert os.getpid() not in pids
    until(lambda: not processes_of(runtime_dir), "the end of the nodes")
