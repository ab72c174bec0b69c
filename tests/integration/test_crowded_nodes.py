"""Tasks that would wait long on their node leave it, and only those that may."""

from __future__ import annotations

import sys
import time

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.scheduling_strategies import NodeAffinitySchedulingStrategy
from rostral.util import placement_group

from .nodes import cluster_of

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
TIMEOUT_S = 60


@rostral.remote(max_retries=0)
def where(seconds: float) -> str:
    time.sleep(seconds)
    return str(rostral.get_runtime_context().get_node_id())


def test_what_would_wait_long_runs_on_another_node_as_well() -> None:
    with cluster_of({"num_cpus": 1}, {"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        begin_s = time.monotonic()
        found = rostral.get([where.remote(0.1) for _ in range(90)], timeout=TIMEOUT_S)
        took_s = time.monotonic() - begin_s
        assert set(found) == {node.node_id for node in cluster.list_all_nodes()}
        # One node alone takes 9 s, three together 3 s and what it takes to notice.
        assert took_s < 7.5


def test_short_queues_stay_where_they_are() -> None:
    with cluster_of({"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        assert cluster.head_node is not None
        for _ in range(5):
            refs = [where.remote(0.01) for _ in range(30)]
            assert set(rostral.get(refs, timeout=TIMEOUT_S)) == {cluster.head_node.node_id}


def test_tasks_whose_cpus_a_placement_group_takes_go_back_and_run_elsewhere() -> None:
    """1. Tasks wait on two nodes. 2. On one of them a group takes the only CPU, for good.

    3. What waits there cannot run there any more: it runs on the other one, and no retry is spent.
    """
    far = {"num_cpus": 1, "resources": {"far": 1}}

    @rostral.remote(num_cpus=0)
    def take_the_cpu() -> bool:
        group = placement_group([{"CPU": 1}])
        return bool(rostral.get(group.ready(), timeout=TIMEOUT_S))

    with cluster_of({"num_cpus": 1}, far, far) as cluster:
        taken, other = (node.node_id for node in cluster.worker_nodes)
        waiting = where.options(resources={"far": 0.01})
        refs = [waiting.remote(0.1) for _ in range(60)]
        on_one = NodeAffinitySchedulingStrategy(taken, soft=False)
        assert rostral.get(
            take_the_cpu.options(scheduling_strategy=on_one).remote(), timeout=TIMEOUT_S
        )
        found = rostral.get(refs, timeout=TIMEOUT_S)
        assert set(found) <= {taken, other}
        assert found.count(other) > found.count(taken)
