"""Actors with checkpoints whose nodes die: what their callers have heard stays true."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.cluster_utils import Cluster, ClusterNode
from rostral.exceptions import ActorDiedError
from rostral.scheduling_strategies import NodeAffinitySchedulingStrategy
from rostral_gcs import GcsClient
from rostral_gcs.auth import load_token
from rostral_gcs.ids import ActorID

from .nodes import cluster_of, log_of, nothing_left, status_of, until

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
TIMEOUT_S = 60
ARM = {"num_cpus": 2, "resources": {"arm": 2}}
INTERVAL = 10


class LedgerClass:
    """Notes each call in its state, and each run of one in a file."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.notes: list[Any] = []
        self.restored = 0

    def __checkpoint__(self) -> Any:
        return self.notes

    def __restore__(self, notes: Any) -> None:
        self.notes = list(notes)
        self.restored += 1

    def note(self, value: Any) -> int:
        with Path(self.folder, "runs").open("a") as file:
            file.write("x")
        self.notes.append(value)
        return len(self.notes)

    def read(self) -> Any:
        return self.notes, self.restored

    def fill(self, size: int) -> None:
        self.notes = [bytes(size)]


Ledger: Any = rostral.remote(
    checkpoint_interval=INTERVAL,
    max_restarts=-1,
    max_task_retries=-1,
    resources={"arm": 0.5},
)(LedgerClass)


def gcs_of(cluster: Cluster) -> GcsClient:
    """A client of the cluster's GCS."""
    assert cluster.head_node is not None
    record = cluster.head_node.process.record
    assert record.token_file
    return GcsClient(record.address, load_token(record.token_file))


def kept(cluster: Cluster, actor_id: bytes) -> list[int]:
    """How many calls each checkpoint covers that the cluster has of an actor."""
    with gcs_of(cluster) as gcs:
        return [row.call_count for row in gcs.list_checkpoints(ActorID(actor_id))]


def nothing_kept(cluster: Cluster) -> bool:
    """Whether the cluster knows of no actor how to bring it back."""
    with gcs_of(cluster) as gcs:
        spaces = ("rostral.actors", "rostral.calls")
        return not any(gcs.kv_keys(namespace=space) for space in spaces)


def node_of_actor(cluster: Cluster) -> ClusterNode:
    """The node on which the one actor lives."""
    (node,) = (node for node in cluster.worker_nodes if status_of(node)["actors"])
    return node


def kill(node: ClusterNode) -> None:
    """Ends a node at once, with all that runs there."""
    os.kill(node.process.record.pid, signal.SIGKILL)


def test_an_actor_goes_on_elsewhere_from_its_checkpoint_and_the_calls_since(
    tmp_path: Path,
) -> None:
    with cluster_of({"num_cpus": 2}, ARM, ARM) as cluster:
        ledger = Ledger.remote(str(tmp_path))
        told = rostral.get([ledger.note.remote(n) for n in range(25)], timeout=TIMEOUT_S)
        assert told == list(range(1, 26))
        actor_id = ledger._actor_id
        until(lambda: kept(cluster, actor_id) == [20], "its checkpoint is safe")
        victim = node_of_actor(cluster)
        kill(victim)
        notes, restored = rostral.get(ledger.read.remote(), timeout=TIMEOUT_S)
        assert (notes, restored) == (list(range(25)), 1)
        assert len((tmp_path / "runs").read_text()) == 25 + 5
        told = rostral.get([ledger.note.remote(n) for n in range(25, 50)], timeout=TIMEOUT_S)
        assert told == list(range(26, 51))
        cluster.remove_node(victim, allow_graceful=False)
        left = node_of_actor(cluster)
        del ledger
        until(lambda: not status_of(left)["actors"], "it ends with its handle")
        until(lambda: nothing_kept(cluster), "nobody could bring it back")
        nothing_left(left, code=True)


def test_calls_under_way_when_nodes_die_have_their_effect_once(tmp_path: Path) -> None:
    """Node after node dies under a stream of calls, once right after another."""
    with cluster_of({"num_cpus": 2}, ARM, ARM, ARM, ARM) as cluster:
        ledger = Ledger.remote(str(tmp_path))
        refs: list[Any] = []
        for death in range(3):
            refs += [ledger.note.remote(len(refs) + n) for n in range(60)]
            rostral.get(refs[60 * death + 7 * death], timeout=TIMEOUT_S)
            victim = node_of_actor(cluster)
            kill(victim)
            refs += [ledger.note.remote(len(refs) + n) for n in range(60)]
            cluster.remove_node(victim, allow_graceful=False)
            rostral.get(refs[-1], timeout=TIMEOUT_S)
        assert rostral.get(refs, timeout=TIMEOUT_S) == list(range(1, len(refs) + 1))
        assert rostral.get(ledger.read.remote(), timeout=TIMEOUT_S)[0] == list(range(len(refs)))


def test_an_actor_that_comes_to_its_callers_node_runs_no_call_twice(tmp_path: Path) -> None:
    with cluster_of({"num_cpus": 2, "resources": {"arm": 2}}, ARM) as cluster:
        (victim,) = cluster.worker_nodes
        there = NodeAffinitySchedulingStrategy(victim.node_id, soft=True)
        ledger = Ledger.options(scheduling_strategy=there).remote(str(tmp_path))
        refs = [ledger.note.remote(n) for n in range(100)]
        rostral.get(refs[33], timeout=TIMEOUT_S)
        kill(victim)
        refs += [ledger.note.remote(n) for n in range(100, 150)]
        assert rostral.get(refs, timeout=TIMEOUT_S) == list(range(1, 151))
        notes, _ = rostral.get(ledger.read.remote(), timeout=TIMEOUT_S)
        assert notes == list(range(150))
        cluster.remove_node(victim, allow_graceful=False)


def test_what_callers_on_the_dead_node_did_is_there_if_anybody_has_seen_it(tmp_path: Path) -> None:
    @rostral.remote(num_cpus=0, resources={"arm": 0.01})
    def note_here(ledger: Any, count: int) -> Any:
        return rostral.get([ledger.note.remote(f"near {n}") for n in range(count)])

    with cluster_of({"num_cpus": 2}, ARM, ARM) as cluster:
        ledger = Ledger.options(checkpoint_interval=1000).remote(str(tmp_path))
        assert rostral.get(ledger.note.remote("far"), timeout=TIMEOUT_S) == 1
        victim = node_of_actor(cluster)
        near = NodeAffinitySchedulingStrategy(victim.node_id, soft=False)
        noted = note_here.options(scheduling_strategy=near).remote(ledger, 7)
        assert rostral.get(noted, timeout=TIMEOUT_S) == list(range(2, 9))
        seen, _ = rostral.get(ledger.read.remote(), timeout=TIMEOUT_S)
        assert seen == ["far", *(f"near {n}" for n in range(7))]
        kill(victim)
        assert rostral.get(ledger.read.remote(), timeout=TIMEOUT_S)[0] == seen
        cluster.remove_node(victim, allow_graceful=False)


def test_a_checkpoint_that_is_too_large_is_no_wrong_state_elsewhere(tmp_path: Path) -> None:
    with cluster_of({"num_cpus": 2}, ARM, ARM) as cluster:
        ledger = Ledger.options(checkpoint_interval=1).remote(str(tmp_path))
        assert rostral.get(ledger.note.remote(0), timeout=TIMEOUT_S) == 1
        rostral.get(ledger.fill.remote(17 << 20), timeout=TIMEOUT_S)
        victim = node_of_actor(cluster)
        until(lambda: "cannot be brought elsewhere" in log_of(victim), "it is said")
        kill(victim)
        with pytest.raises(ActorDiedError, match="its state is lost"):
            rostral.get(ledger.read.remote(), timeout=TIMEOUT_S)
        cluster.remove_node(victim, allow_graceful=False)
        until(lambda: nothing_kept(cluster), "nobody could bring it back")
