"""Nodes die on which actors live that others call."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.cluster_utils import Cluster, ClusterNode
from rostral.exceptions import ActorDiedError, ActorUnavailableError
from rostral.scheduling_strategies import NodeAffinitySchedulingStrategy
from rostral_gcs import ActorState, GcsClient
from rostral_gcs.auth import load_token
from rostral_gcs.ids import NodeID

from .nodes import Marks, cluster_of, log_of, nothing_left, status_of, until

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
TIMEOUT_S = 30
ARM = {"num_cpus": 2, "resources": {"arm": 2}}


class LogClass:
    """Notes what it is told, in its order."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def tell(self, what: Any) -> int:
        self.told.append(what)
        return len(self.told)

    def sleep(self, path: str, time_s: float) -> str:
        Path(path, f"{time.monotonic_ns()}").touch()
        time.sleep(time_s)
        return "slept"


Log: Any = rostral.remote(LogClass).options(resources={"arm": 0.5})


def test_the_death_of_its_node_ends_an_actor(tmp_path: Path) -> None:
    with cluster_of({"num_cpus": 2}, ARM) as cluster:
        log, other = Log.remote(), Log.remote()
        assert rostral.get(other.tell.remote(1), timeout=TIMEOUT_S) == 1
        sleeping = log.sleep.remote(str(tmp_path), 600.0)
        queued = log.tell.remote(1)
        until(Marks(tmp_path).count, "a call runs")
        (node,) = cluster.worker_nodes
        os.kill(node.process.record.pid, signal.SIGKILL)
        for ref in (sleeping, queued, other.tell.remote(2)):
            with pytest.raises(ActorDiedError, match=node.node_id):
                rostral.get(ref, timeout=TIMEOUT_S)
        cluster.remove_node(node, allow_graceful=False)


def gcs_of(cluster: Cluster) -> GcsClient:
    """A client of the cluster's GCS."""
    assert cluster.head_node is not None
    record = cluster.head_node.process.record
    assert record.token_file
    return GcsClient(record.address, load_token(record.token_file))


def recipes(cluster: Cluster) -> list[bytes]:
    """The keys under which the cluster knows how to make actors again."""
    with gcs_of(cluster) as gcs:
        return gcs.kv_keys(namespace="rostral.actors")


def is_alive(node: ClusterNode | None, count: int) -> bool:
    """Whether so many actors of a node have a process that takes calls."""
    assert node is not None
    states = [actor["state"] for actor in status_of(node)["actors"]]
    return states == ["ALIVE"] * count


def kill_node(cluster: Cluster, index: int) -> ClusterNode:
    """Ends a node at once, with all that runs there."""
    victim = cluster.worker_nodes[index]
    os.kill(victim.process.record.pid, signal.SIGKILL)
    return victim


def test_actors_that_may_be_restarted_live_on_elsewhere() -> None:
    with cluster_of({"num_cpus": 2}, ARM, ARM) as cluster:
        kind = Log.options(resources={"arm": 0.25}, max_restarts=1, max_task_retries=-1)
        actors = [kind.remote() for _ in range(6)]
        told = rostral.get([actor.tell.remote(0) for actor in actors], timeout=TIMEOUT_S)
        assert told == [1] * 6
        until(lambda: len(recipes(cluster)) == 6, "it is known how to make them again")
        first = kill_node(cluster, 0)
        told = rostral.get([actor.tell.remote(1) for actor in actors], timeout=TIMEOUT_S)
        # Those of the dead node begin anew.
        assert sorted(told) == [1, 1, 1, 2, 2, 2]
        left = cluster.worker_nodes[1]
        assert len(status_of(left)["actors"]) == 6
        del actors
        until(lambda: not status_of(left)["actors"], "they end with their handles")
        until(lambda: not recipes(cluster), "nobody could make them again")
        nothing_left(left, code=True)
        cluster.remove_node(first, allow_graceful=False)


def test_an_actor_comes_to_the_node_of_its_caller_and_calls_keep_their_order(
    tmp_path: Path,
) -> None:
    with cluster_of({"num_cpus": 2, "resources": {"arm": 2}}, ARM) as cluster:
        there = NodeAffinitySchedulingStrategy(cluster.worker_nodes[0].node_id, soft=True)
        kind = Log.options(scheduling_strategy=there, max_restarts=1)
        retried = kind.options(max_task_retries=-1).remote()
        once = kind.options(name="once", lifetime="detached").remote()
        assert rostral.get([retried.tell.remote(0), once.tell.remote(0)], timeout=30) == [1, 1]
        until(lambda: len(recipes(cluster)) == 2, "it is known how to make them again")
        out = once.sleep.remote(str(tmp_path), 600.0)
        until(Marks(tmp_path).count, "a call runs")
        first = kill_node(cluster, 0)
        told = [retried.tell.remote(count) for count in range(50)]
        assert rostral.get(told, timeout=TIMEOUT_S) == list(range(1, 51))
        with pytest.raises(ActorUnavailableError, match="being restarted"):
            rostral.get(out, timeout=TIMEOUT_S)
        # A call that comes while it has no process would raise, too.
        until(lambda: is_alive(cluster.head_node, 2), "both are there")
        assert rostral.get(once.tell.remote(1), timeout=TIMEOUT_S) == 1
        assert rostral.get(rostral.get_actor("once").tell.remote(1), timeout=TIMEOUT_S) == 2
        rostral.kill(once)
        del retried, once
        assert cluster.head_node is not None
        head = cluster.head_node
        until(lambda: not status_of(head)["actors"], "they end")
        until(lambda: not recipes(cluster), "nobody could make them again")
        cluster.remove_node(first, allow_graceful=False)


def test_an_actor_lives_on_whose_node_dies_before_the_cluster_has_heard_of_it() -> None:
    with cluster_of({"num_cpus": 2}, ARM, ARM, ARM) as cluster:
        kind = Log.options(max_restarts=-1, max_task_retries=-1)
        for node in cluster.worker_nodes[:2]:
            there = NodeAffinitySchedulingStrategy(node.node_id, soft=True)
            log = kind.options(scheduling_strategy=there).remote()
            assert rostral.get(log.tell.remote(0), timeout=TIMEOUT_S) == 1
            # At once: what a node says of its actors it gathers for a moment.
            os.kill(node.process.record.pid, signal.SIGKILL)
            assert rostral.get(log.tell.remote(1), timeout=TIMEOUT_S) == 1
            assert rostral.get(log.tell.remote(2), timeout=TIMEOUT_S) == 2
            cluster.remove_node(node, allow_graceful=False)
            del log
        until(lambda: not recipes(cluster), "nobody could make them again")


def test_an_actor_that_was_given_to_a_full_node_lives_on_where_there_is_room() -> None:
    with cluster_of({"num_cpus": 2}, ARM, ARM, ARM) as cluster:
        full, first, _ = (node.node_id for node in cluster.worker_nodes)
        kind = Log.options(resources={"arm": 2}, max_restarts=-1, max_task_retries=-1)
        actors = [
            kind.options(scheduling_strategy=NodeAffinitySchedulingStrategy(at, soft=True)).remote()
            for at in (full, first)
        ]
        told = rostral.get([actor.tell.remote(0) for actor in actors], timeout=TIMEOUT_S)
        assert told == [1, 1]
        until(lambda: len(recipes(cluster)) == 2, "it is known how to make them again")
        with gcs_of(cluster) as gcs:
            until(lambda: {row.state for row in gcs.list_actors()} == {ActorState.ALIVE}, "so too")
            (row,) = [row for row in gcs.list_actors() if row.node_id == NodeID.from_hex(first)]
            # As a node decides that has an old report of what the other has free.
            to = NodeID.from_hex(full)
            gcs.update_actor(replace(row, node_id=to, state=ActorState.RESTARTING, restarts=1))
        died = kill_node(cluster, 1)
        told = rostral.get([actor.tell.remote(1) for actor in actors], timeout=TIMEOUT_S)
        assert told == [2, 1]
        assert [len(status_of(cluster.worker_nodes[at])["actors"]) for at in (0, 2)] == [1, 1]
        cluster.remove_node(died, allow_graceful=False)


def test_an_actor_is_restarted_no_more_often_than_it_may_be() -> None:
    with cluster_of({"num_cpus": 2}, ARM, ARM, ARM) as cluster:
        log = Log.options(max_restarts=1, max_task_retries=-1).remote()
        for _ in range(2):
            assert rostral.get(log.tell.remote(0), timeout=TIMEOUT_S) == 1
            until(lambda: recipes(cluster), "it is known how to make it again")
            (at,) = [
                index
                for index, node in enumerate(cluster.worker_nodes)
                if status_of(node)["actors"]
            ]
            cluster.remove_node(kill_node(cluster, at), allow_graceful=False)
        with pytest.raises(ActorDiedError, match="restarted 1 of 1 times"):
            rostral.get(log.tell.remote(0), timeout=TIMEOUT_S)
        until(lambda: not recipes(cluster), "nobody could make it again")


def test_an_actor_made_from_too_much_ends_with_its_node() -> None:
    class HeavyClass(LogClass):
        def __init__(self, data: bytes) -> None:
            super().__init__()
            self.size = len(data)

    with cluster_of({"num_cpus": 2}, ARM, ARM) as cluster:
        heavy: Any = rostral.remote(HeavyClass)
        kind = heavy.options(resources={"arm": 0.5}, max_restarts=-1, max_task_retries=-1)
        log = kind.remote(bytes(17 << 20))
        assert rostral.get(log.tell.remote(0), timeout=TIMEOUT_S) == 1
        (at,) = [i for i, node in enumerate(cluster.worker_nodes) if status_of(node)["actors"]]
        node = cluster.worker_nodes[at]
        until(lambda: "cannot be made again elsewhere" in log_of(node), "it is said")
        kill_node(cluster, at)
        with pytest.raises(ActorDiedError, match="how it was made is not known elsewhere"):
            rostral.get(log.tell.remote(1), timeout=TIMEOUT_S)
        assert recipes(cluster) == []
        cluster.remove_node(node, allow_graceful=False)
