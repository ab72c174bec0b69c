"""Nodes that leave in order: what runs there ends, what waits there goes to others, once each."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

import rostral
from rostral.cluster_utils import Cluster, ClusterNode
from rostral.exceptions import NodeDiedError, RostralError
from rostral_objectstore.control import ControlClient

from .nodes import Marks, cluster_of, log_of, status_of, until

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
TIMEOUT_S = 30
FAR = {"num_cpus": 1, "resources": {"far": 1}}


def drain(cluster: Cluster, node: ClusterNode, within_s: float) -> None:
    """Tells a node to leave, by way of the head."""
    assert cluster.head_node is not None
    head = ControlClient(cluster.head_node.process.record.scheduler_socket)
    with contextlib.closing(head):
        head.call("drain", {"node_id": bytes.fromhex(node.node_id), "within_s": within_s})


def is_alive(node: ClusterNode) -> bool:
    """Whether the cluster takes the node for alive."""
    return any(found["NodeID"] == node.node_id and found["Alive"] for found in rostral.nodes())


@rostral.remote(resources={"far": 0.01}, max_retries=0)
def mark(path: str, name: int, seconds: float) -> tuple[int, str]:
    Path(path, f"{name}-{os.getpid()}-{time.time_ns()}").touch()
    time.sleep(seconds)
    return name, str(rostral.get_runtime_context().get_node_id())


def test_tasks_that_wait_on_a_drained_node_run_elsewhere_and_once_each(tmp_path: Path) -> None:
    with cluster_of({"num_cpus": 1}, FAR, FAR) as cluster:
        marks = Marks(tmp_path)
        leaving, staying = cluster.worker_nodes
        refs = [mark.remote(marks.path, number, 0.05) for number in range(60)]
        until(lambda: status_of(leaving)["hosted"] > 5, "tasks wait there")
        drain(cluster, leaving, 30.0)
        found = rostral.get(refs, timeout=TIMEOUT_S)
        assert [name for name, _ in found] == list(range(60))
        assert {node for _, node in found} == {leaving.node_id, staying.node_id}
        assert marks.count() == 60
        until(lambda: not is_alive(leaving), "it has left")
        assert "Traceback" not in log_of(staying)
        # Nothing new goes there.
        assert rostral.get(mark.remote(marks.path, 60, 0), timeout=TIMEOUT_S)[1] == staying.node_id


def test_what_runs_beyond_the_deadline_is_ended(tmp_path: Path) -> None:
    with cluster_of({"num_cpus": 1}, FAR) as cluster:
        (leaving,) = cluster.worker_nodes
        marks = Marks(tmp_path)
        hanging = mark.remote(marks.path, 0, 600.0)
        until(marks.count, "it runs")
        drain(cluster, leaving, 0.5)
        with pytest.raises(NodeDiedError):
            rostral.get(hanging, timeout=TIMEOUT_S)
        until(lambda: not is_alive(leaving), "it has left")


def test_a_drained_node_gives_its_own_queue_away(tmp_path: Path) -> None:
    """Nested tasks, submitted on the node that leaves, end on the one that stays."""

    @rostral.remote(resources={"far": 0.01}, max_retries=0)
    def outer(path: str) -> list[tuple[int, str]]:
        refs = [
            mark.options(num_cpus=1, resources={}).remote(path, number, 0.05)
            for number in range(30)
        ]
        found: list[tuple[int, str]] = rostral.get(refs)
        return found

    with cluster_of({"num_cpus": 1}, FAR) as cluster:
        (leaving,) = cluster.worker_nodes
        marks = Marks(tmp_path)
        ref = outer.remote(marks.path)
        until(lambda: marks.count() > 2, "the children run")
        drain(cluster, leaving, 30.0)
        found = rostral.get(ref, timeout=TIMEOUT_S)
        assert [name for name, _ in found] == list(range(30))
        assert marks.count() == 30
        assert cluster.head_node is not None
        assert cluster.head_node.node_id in {node for _, node in found}
        until(lambda: not is_alive(leaving), "it has left")


def test_an_unknown_node_and_a_wrong_deadline_are_refused() -> None:
    with cluster_of({"num_cpus": 1}, FAR) as cluster:
        assert cluster.head_node is not None
        head = ControlClient(cluster.head_node.process.record.scheduler_socket)
        node_id = bytes.fromhex(cluster.worker_nodes[0].node_id)
        with contextlib.closing(head):
            for body in (
                {"node_id": b"x" * 16, "within_s": 1.0},
                {"node_id": node_id, "within_s": -1.0},
                {"node_id": node_id, "within_s": float("nan")},
            ):
                with pytest.raises(RostralError):
                    head.call("drain", body)
        assert is_alive(cluster.worker_nodes[0])


@rostral.remote(resources={"far": 0.01})
def large(path: str, name: int) -> Any:
    Path(path, f"{name}-{os.getpid()}-{time.time_ns()}").touch()
    return np.full(1 << 17, name)


def test_results_outlive_the_drained_node_that_has_them(tmp_path: Path) -> None:
    """1. Large results stay on the node that made them. 2. It is drained. 3. Nothing runs again."""
    with cluster_of({"num_cpus": 1}, FAR) as cluster:
        (leaving,) = cluster.worker_nodes
        marks = Marks(tmp_path)
        refs = [large.remote(marks.path, number) for number in range(8)]
        rostral.wait(refs, num_returns=8, timeout=TIMEOUT_S)
        assert cluster.head_node is not None
        assert status_of(cluster.head_node)["elsewhere"] == 8
        drain(cluster, leaving, 30.0)
        until(lambda: not is_alive(leaving), "it has left")
        for number, value in enumerate(rostral.get(refs, timeout=TIMEOUT_S)):
            assert (value == number).all()
        assert marks.count() == 8
        head = cluster.head_node
        del refs, value
        until(lambda: status_of(head)["remembered"] == 0, "their tasks are forgotten")
