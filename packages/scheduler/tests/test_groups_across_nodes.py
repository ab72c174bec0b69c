"""Placement groups over real nodes and a real GCS: all bundles or none, whoever dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rostral_gcs import (
    BundleRow,
    GcsClient,
    GcsConfig,
    GcsServer,
    JobRow,
    PlacementGroupRow,
    PlacementGroupState,
)
from rostral_gcs.ids import JobID, NodeID, PlacementGroupID
from rostral_scheduler.global_.config import GlobalSchedulerConfig
from rostral_scheduler.global_.daemon import GlobalScheduler
from rostral_scheduler.group_rows import VOTES

from .node import LoopThread, Node, eventually, running

TOKEN = "t" * 32

pytestmark = pytest.mark.slow


class Cluster:
    """A GCS, nodes of two CPUs each, and global schedulers, in threads of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = LoopThread()
        self.server = self.loop.run(self._serve())
        self.gcs = GcsClient(self.server.address, TOKEN)
        self.stack = contextlib.ExitStack()
        self.nodes: list[Node] = []

    async def _serve(self) -> GcsServer:
        server = GcsServer(GcsConfig(data_dir=self.folder / "gcs", token=TOKEN))
        await server.start()
        return server

    def add_node(self) -> Node:
        folder = self.folder / f"n{len(self.nodes)}"
        folder.mkdir()
        settings = {
            "gcs_address": self.server.address,
            "gcs_token": TOKEN,
            "node_lease_s": 1.0,
            "group_hold_s": 0.5,
            "prestart_count": 0,
        }
        node = self.stack.enter_context(running(folder, **settings))
        self.nodes.append(node)
        return node

    def add_scheduler(self) -> None:
        config = GlobalSchedulerConfig(gcs_address=self.server.address, token=TOKEN)

        async def start() -> GlobalScheduler:
            scheduler = GlobalScheduler(config)
            await scheduler.start()
            return scheduler

        scheduler = self.loop.run(start())
        self.stack.callback(lambda: self.loop.run(scheduler.stop()))

    def add_group(
        self, strategy: str, *cpus: float, job_id: JobID | None = None, detached: bool = False
    ) -> PlacementGroupID:
        row = PlacementGroupRow(
            group_id=PlacementGroupID(os.urandom(16)),
            job_id=job_id or JobID.from_random(),
            detached=detached,
            bundles=tuple(BundleRow(resources={"CPU": one}) for one in cpus),
            strategy=strategy,
        )
        self.call("add_placement_group", row)
        return row.group_id

    def call(self, method: str, *arguments: object) -> PlacementGroupRow:
        """One of the asynchronous client's methods on placement groups."""
        core = self.gcs._core
        work = getattr(core, method)(*arguments)
        row: PlacementGroupRow = self.gcs._wait(work)
        return row

    def row(self, group_id: PlacementGroupID) -> PlacementGroupRow:
        return self.call("get_placement_group", group_id)

    def remove(self, group_id: PlacementGroupID) -> None:
        def removed(row: PlacementGroupRow) -> PlacementGroupRow:
            return replace(row, state=PlacementGroupState.REMOVED)

        self.call("change_placement_group", group_id, removed)

    def free(self) -> list[float]:
        """The CPUs that each living node has free."""
        return [free_of(node) for node in self.nodes]

    def close(self) -> None:
        self.stack.close()
        self.gcs.close()
        self.loop.run(self.server.stop())
        self.loop.close()


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.close()


def node_id_of(node: Node) -> NodeID:
    return NodeID(node.on_loop(lambda: node.scheduler.memory.node_id))


def free_of(node: Node) -> float:
    return node.on_loop(lambda: node.scheduler.policy.available_floats()["CPU"])


def created(cluster: Cluster, group_id: PlacementGroupID) -> bool:
    return cluster.row(group_id).state is PlacementGroupState.CREATED


@pytest.mark.parametrize("schedulers", [1, 2])
def test_bundles_are_set_aside_on_all_nodes_and_given_back(
    cluster: Cluster, schedulers: int
) -> None:
    """1. One on each of three nodes. 2. Two on one. 3. What does not fit waits. 4. Removed."""
    for _ in range(3):
        cluster.add_node()
    for _ in range(schedulers):
        cluster.add_scheduler()
    spread = cluster.add_group("STRICT_SPREAD", 1, 1, 1)
    eventually(lambda: created(cluster, spread), "the group")
    nodes = [bundle.node_id for bundle in cluster.row(spread).bundles]
    assert len(set(nodes)) == 3
    assert cluster.free() == [1.0, 1.0, 1.0]
    too_much = cluster.add_group("STRICT_PACK", 1, 1)
    pack = cluster.add_group("PACK", 1, 1)
    eventually(lambda: created(cluster, pack), "the second group")
    assert sorted(cluster.free()) == [0.0, 0.0, 1.0]
    assert cluster.row(too_much).state is PlacementGroupState.PENDING
    cluster.remove(spread)
    eventually(lambda: created(cluster, too_much), "the group that waited")
    for group_id in (pack, too_much):
        cluster.remove(group_id)
    eventually(lambda: cluster.free() == [2.0, 2.0, 2.0], "everything free")
    eventually(lambda: cluster.gcs.kv_keys(namespace=VOTES) == [], "no vote left")
    for node in cluster.nodes:
        node.check()


def test_a_coordinator_that_dies_between_the_phases_leaves_nothing(cluster: Cluster) -> None:
    """1. It chose nodes and asked them. 2. They take it back. 3. Another one comes."""
    for _ in range(2):
        cluster.add_node()
    ids = [node_id_of(node) for node in cluster.nodes]
    group_id = cluster.add_group("STRICT_SPREAD", 2, 2)
    row = cluster.row(group_id)
    bundles = tuple(
        replace(bundle, node_id=node_id) for bundle, node_id in zip(row.bundles, ids, strict=True)
    )
    prepared = replace(row, bundles=bundles, state=PlacementGroupState.PREPARED)
    cluster.call("update_placement_group", prepared)
    eventually(lambda: cluster.free() == [0.0, 0.0], "the bundles of both")
    eventually(lambda: cluster.free() == [2.0, 2.0], "the end of the attempt")
    row = cluster.row(group_id)
    assert row.state is PlacementGroupState.PENDING
    assert all(bundle.node_id is None for bundle in row.bundles)
    cluster.add_scheduler()
    eventually(lambda: created(cluster, group_id), "the group")
    assert cluster.free() == [0.0, 0.0]


def test_a_coordinator_that_dies_after_the_commit_is_not_missed(cluster: Cluster) -> None:
    cluster.add_node()
    node_id = node_id_of(cluster.nodes[0])
    group_id = cluster.add_group("PACK", 2)
    row = cluster.row(group_id)
    bundle = replace(row.bundles[0], node_id=node_id)
    row = cluster.call(
        "update_placement_group",
        replace(row, bundles=(bundle,), state=PlacementGroupState.PREPARED),
    )
    eventually(lambda: cluster.free() == [0.0], "the bundle")
    cluster.call("update_placement_group", replace(row, state=PlacementGroupState.CREATED))
    member = cluster.nodes[0].scheduler.group_link.member
    eventually(lambda: member.parts[group_id.binary()].committed, "the commit")
    assert cluster.free() == [0.0]


def test_a_node_that_is_gone_is_replaced(cluster: Cluster) -> None:
    """1. Two nodes have it. 2. One stops; a third comes. 3. The lost bundle lies there."""
    for _ in range(2):
        cluster.add_node()
    cluster.add_scheduler()
    group_id = cluster.add_group("STRICT_SPREAD", 1, 1)
    eventually(lambda: created(cluster, group_id), "the group")
    before = cluster.row(group_id)
    lost = node_id_of(cluster.nodes[0])
    cluster.gcs.mark_node_dead(lost, "unplugged")
    eventually(lambda: cluster.row(group_id).state is PlacementGroupState.RESCHEDULING, "the loss")
    cluster.add_node()
    eventually(lambda: created(cluster, group_id), "the group again")
    after = cluster.row(group_id)
    kept = [one for one in before.bundles if one.node_id != lost]
    assert kept[0] in after.bundles
    assert lost not in [bundle.node_id for bundle in after.bundles]


def test_groups_end_with_their_job_but_for_detached_ones(cluster: Cluster) -> None:
    """1. Two groups of one job; it ends. 2. One stays. 3. A group that comes too late ends too."""
    cluster.add_node()
    cluster.add_scheduler()
    job_id = JobID.from_random()
    cluster.gcs.add_job(JobRow(job_id=job_id))
    detached = cluster.add_group("PACK", 1, job_id=job_id, detached=True)
    ending = cluster.add_group("PACK", 1, job_id=job_id)
    eventually(lambda: cluster.free() == [0.0], "both groups")
    cluster.gcs.finish_job(job_id)
    eventually(lambda: cluster.free() == [1.0], "the end of one")
    late = cluster.add_group("PACK", 1, job_id=job_id)
    removed = PlacementGroupState.REMOVED
    eventually(lambda: cluster.row(ending).state is removed, "its end")
    eventually(lambda: cluster.row(late).state is removed, "the end of the late one")
    assert created(cluster, detached)
    eventually(lambda: cluster.free() == [1.0], "no more than one group")


def test_bundles_take_what_idle_workers_hold(cluster: Cluster) -> None:
    """Workers keep their grants while they idle; a group that wants the CPUs gets them."""
    from .node import Driver

    node = cluster.add_node()
    driver = Driver(node)
    tasks = [driver.submit(driver.queue(), "add", n, n) for n in range(20)]
    assert [driver.get(task) for task in tasks] == [2 * n for n in range(20)]
    cluster.add_scheduler()
    group_id = cluster.add_group("STRICT_PACK", 1, 1)
    eventually(lambda: created(cluster, group_id), "the group")
    assert cluster.free() == [0.0]
    cluster.remove(group_id)
    eventually(lambda: cluster.free() == [2.0], "the CPUs")
    driver.unregister()
