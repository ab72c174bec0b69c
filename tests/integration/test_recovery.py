"""Large results stay on the nodes where they were made; what is lost with a node is made again."""

from __future__ import annotations

import collections
import functools
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

import rostral
from rostral.cluster_utils import Cluster, ClusterNode
from rostral.exceptions import ObjectReconstructionFailedError
from rostral.scheduling_strategies import NodeAffinitySchedulingStrategy
from rostral_objectstore import StoreClient

from .nodes import Marks, cluster_of, nothing_left, status_of, until

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
TIMEOUT_S = 30
LENGTH = 1 << 17
"""Of an array whose bytes are too many to travel in a message."""
ARM: dict[str, Any] = {"num_cpus": 2, "resources": {"arm": 2}}


@rostral.remote(resources={"arm": 1})
def make(i: int, path: str = "") -> Any:
    if path:
        Path(path, f"make-{i}-{os.getpid()}-{time.monotonic_ns()}").touch()
    return np.full(LENGTH, i)


@rostral.remote(resources={"arm": 1})
def add(values: Any, i: int, path: str = "") -> Any:
    if path:
        Path(path, f"add-{i}-{os.getpid()}-{time.monotonic_ns()}").touch()
    return values + i


@rostral.remote(resources={"arm": 1})
def node_of(values: Any) -> str:
    del values
    return str(rostral.get_runtime_context().get_node_id())


@rostral.remote(resources={"arm": 1})
def total(*values: Any) -> int:
    return sum(int(value[0]) for value in values)


def at(node: ClusterNode, *, soft: bool = True) -> dict[str, Any]:
    """Options for a task that should run on the node."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=soft)}


def head_of(cluster: Cluster) -> ClusterNode:
    assert cluster.head_node is not None
    return cluster.head_node


def is_value(ref: rostral.ObjectRef[Any], value: int) -> bool:
    return bool(np.array_equal(rostral.get(ref, timeout=TIMEOUT_S), np.full(LENGTH, value)))


def states(node: ClusterNode) -> collections.Counter[str]:
    """How many large objects of the node's store are in which state."""
    with StoreClient.connect(node.process.record.store_socket) as store:
        found = store.list_objects()
    return collections.Counter(one.state for one in found if one.size_bytes > LENGTH)


def test_a_large_result_stays_where_it_was_made_until_it_is_read() -> None:
    with cluster_of({"num_cpus": 1}, ARM) as cluster:
        head, (other,) = head_of(cluster), cluster.worker_nodes
        ref = make.remote(3)
        assert rostral.wait([ref], timeout=TIMEOUT_S) == ([ref], [])
        assert states(head) == {"spilled": 1}, "sealed, without its bytes"
        assert states(other) == {"sealed": 1}
        assert status_of(head)["elsewhere"] == 1
        assert is_value(ref, 3)
        assert states(head) == {"sealed": 1}
        del ref
        nothing_left(other, code=True)
        until(lambda: status_of(head)["elsewhere"] == 0, "it is forgotten")
        until(lambda: status_of(head)["remembered"] == 0, "and so is its task")


def test_bytes_go_from_host_to_host_and_not_by_their_origin() -> None:
    with cluster_of({"num_cpus": 1}, ARM, ARM) as cluster:
        head, (first, second) = head_of(cluster), cluster.worker_nodes
        ref = make.options(**at(first)).remote(1)
        there = add.options(**at(second)).remote(ref, 1)
        same = add.options(**at(first)).remote(there, 1)
        rostral.wait([same], timeout=TIMEOUT_S)
        assert set(states(head)) == {"spilled"}
        assert is_value(same, 3)
        del ref, there, same
        for node in (first, second):
            nothing_left(node, code=True)


def test_a_task_goes_to_the_node_that_has_its_large_inputs() -> None:
    """Whichever of three equal nodes that is, and though the driver's has the bytes as well."""
    with cluster_of({"num_cpus": 1}, ARM, ARM, ARM) as cluster:
        for node in [*cluster.worker_nodes] * 2:
            made = make.options(**at(node)).remote(1)
            rostral.wait([made], timeout=TIMEOUT_S)
            assert rostral.get(node_of.remote(made), timeout=TIMEOUT_S) == node.node_id
            assert is_value(made, 1)
            assert rostral.get(node_of.remote(made), timeout=TIMEOUT_S) == node.node_id


def test_many_that_are_elsewhere_are_read_at_once_and_by_tasks_here() -> None:
    with cluster_of({"num_cpus": 1}, ARM, ARM) as cluster:
        refs = [make.remote(i) for i in range(30)]
        here = total.options(resources={}).remote(*refs[:10])
        assert rostral.get(here, timeout=TIMEOUT_S) == sum(range(10))
        values = rostral.get(refs, timeout=TIMEOUT_S)
        assert [int(value[-1]) for value in values] == list(range(30))
        del refs, values, here
        for node in cluster.worker_nodes:
            nothing_left(node, code=True)


def test_results_of_a_killed_node_are_made_again(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    with cluster_of({"num_cpus": 1}, ARM, ARM) as cluster:
        head, (victim, other) = head_of(cluster), cluster.worker_nodes
        refs = [make.options(**at(victim)).remote(i, marks.path) for i in range(8)]
        kept = make.options(**at(other)).remote(100, marks.path)
        rostral.wait([*refs, kept], num_returns=9, timeout=TIMEOUT_S)
        assert marks.count() == 9
        os.kill(victim.process.record.pid, signal.SIGKILL)
        for i, ref in enumerate(refs):
            assert is_value(ref, i)
        assert is_value(kept, 100)
        assert marks.count() == 17, "what was lost ran once more, and nothing else"
        assert status_of(head)["run_again"] == 8
        del refs, kept, ref
        nothing_left(other, code=True)


def test_lost_inputs_of_lost_results_are_made_first(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    with cluster_of({"num_cpus": 1}, ARM, ARM) as cluster:
        victim, other = cluster.worker_nodes
        ref = make.options(**at(victim)).remote(0, marks.path)
        for i in range(1, 20):
            ref = add.options(**at(victim)).remote(ref, i, marks.path)
        rostral.wait([ref], timeout=TIMEOUT_S)
        assert marks.count() == 20
        os.kill(victim.process.record.pid, signal.SIGKILL)
        assert is_value(ref, sum(range(20)))
        assert marks.count() == 40
        del ref
        nothing_left(other, code=True)


def test_tasks_under_way_get_the_inputs_that_a_killed_node_had(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    with cluster_of({"num_cpus": 1}, ARM, ARM) as cluster:
        victim, other = cluster.worker_nodes
        made = [make.options(**at(victim)).remote(i, marks.path) for i in range(4)]
        rostral.wait(made, num_returns=4, timeout=TIMEOUT_S)
        os.kill(victim.process.record.pid, signal.SIGKILL)
        added = [add.options(**at(other)).remote(one, 10) for one in made]
        here = total.options(resources={}).remote(*made)
        for i, ref in enumerate(added):
            assert is_value(ref, i + 10)
        assert rostral.get(here, timeout=TIMEOUT_S) == sum(range(4))


def test_a_result_that_was_read_here_is_not_lost_with_its_host(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    with cluster_of({"num_cpus": 1}, ARM, ARM) as cluster:
        victim, other = cluster.worker_nodes
        ref = make.options(**at(victim)).remote(5, marks.path)
        assert is_value(ref, 5)
        os.kill(victim.process.record.pid, signal.SIGKILL)
        until(
            lambda: sum(node["Alive"] for node in rostral.nodes()) == 2, "the cluster knows of it"
        )
        assert is_value(ref, 5)
        assert int(rostral.get(total.options(**at(other)).remote(ref), timeout=TIMEOUT_S)) == 5
        assert marks.count() == 1


def test_what_may_not_run_again_is_a_typed_error_that_says_why() -> None:
    with cluster_of({"num_cpus": 1}, ARM, ARM) as cluster:
        victim, other = cluster.worker_nodes
        once = make.options(max_retries=0, **at(victim)).remote(1)
        after = add.options(**at(victim)).remote(once, 1)
        rostral.wait([after], timeout=TIMEOUT_S)
        os.kill(victim.process.record.pid, signal.SIGKILL)
        for ref in (once, after):
            with pytest.raises(ObjectReconstructionFailedError, match="no retries left") as caught:
                rostral.get(ref, timeout=TIMEOUT_S)
            assert caught.value.object_ref_hex == once.hex()
        assert caught.value.reason == "spent"
        del ref, once, after, caught
        nothing_left(other, code=True)


def test_a_loss_during_the_recovery_is_recovered_from(tmp_path: Path) -> None:
    """1. A chain on one node, which dies. 2. Who makes it again dies too. 3. A third ends it."""
    marks = Marks(tmp_path)
    with cluster_of({"num_cpus": 1}, ARM, ARM, ARM) as cluster:
        ref = make.options(**at(cluster.worker_nodes[0])).remote(0, marks.path)
        for i in range(1, 10):
            ref = add.options(**at(cluster.worker_nodes[0])).remote(ref, i, marks.path)
        rostral.wait([ref], timeout=TIMEOUT_S)
        for victim in cluster.worker_nodes[:2]:
            enough = marks.count() + 3
            os.kill(victim.process.record.pid, signal.SIGKILL)
            until(functools.partial(marks.has, enough), "some ran again")
        assert is_value(ref, sum(range(10)))
