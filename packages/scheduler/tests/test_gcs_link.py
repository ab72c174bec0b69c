"""A node with a GCS: registered, leased, its jobs and actors written behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rostral_gcs import (
    ActorState,
    GcsClient,
    GcsConfig,
    GcsServer,
    JobState,
    NodeReport,
    NodeState,
)
from rostral_gcs.ids import ActorID, FunctionID, JobID, NodeID
from rostral_scheduler.errors import ActorAlreadyExistsError

from .node import Driver, LoopThread, eventually, running

TOKEN = "t" * 32


@pytest.fixture
def gcs(folder: Path) -> Iterator[str]:
    """The address of a GCS, on a loop thread of its own."""
    loop = LoopThread()

    async def serve() -> GcsServer:
        server = GcsServer(GcsConfig(data_dir=folder / "gcs", token=TOKEN))
        await server.start()
        return server

    server = loop.run(serve())
    yield server.address
    loop.run(server.stop())
    loop.close()


@pytest.fixture
def client(gcs: str) -> Iterator[GcsClient]:
    with GcsClient(gcs, TOKEN) as client:
        yield client


@pytest.mark.slow
def test_node_jobs_actors_and_functions_are_in_the_gcs(
    folder: Path, gcs: str, client: GcsClient
) -> None:
    """1. The node is ALIVE, and what it has. 2. That ends with the driver, 3. and the node."""
    with running(folder, gcs_address=gcs, gcs_token=TOKEN) as node:
        driver = Driver(node, namespace="space")
        node_id = NodeID(driver.welcome["node_id"])
        row = client.get_node(node_id)
        assert row is not None
        assert (row.state, dict(row.resources_total)) == (NodeState.ALIVE, {"CPU": 2.0})
        actor = driver.create_actor(name="tally", namespace="space")
        assert actor.call("add", 1) == 1
        actor_id, job_id = ActorID(actor.actor_id), JobID(driver.job_id)

        def states() -> tuple[object, object]:
            job, found = client.get_job(job_id), client.get_actor(actor_id)
            return job and job.state, found and found.state

        eventually(lambda: states() == (JobState.RUNNING, ActorState.ALIVE), "the rows")
        function = {"function_id": b"f" * FunctionID.SIZE, "name": "f", "blob": b"code"}
        driver.scheduler.send("export_function", function)
        driver.unregister()
        eventually(lambda: states() == (JobState.FINISHED, ActorState.DEAD), "their end")
        assert client.get_function(FunctionID(b"f" * FunctionID.SIZE)).blob == b"code"
        assert client.get_actor_by_name("tally", namespace="space") is None
        node.expect_nothing_left()
    row = client.get_node(node_id)
    assert row is not None
    assert row.state is NodeState.DEAD


@pytest.mark.slow
def test_what_waits_on_the_node_and_how_long_it_takes_is_in_its_row(
    folder: Path, gcs: str, client: GcsClient
) -> None:
    """1. Two CPUs, many tasks of 50 ms. 2. The row tells. 3. And that nothing waits any more."""
    settings = {"gcs_address": gcs, "gcs_token": TOKEN, "node_lease_s": 1.0}
    with running(folder, **settings) as node:
        driver = Driver(node)
        node_id = NodeID(driver.welcome["node_id"])
        queue = driver.queue()
        tasks = [driver.submit(queue, "rest", 0.05) for _ in range(200)]

        def report() -> NodeReport:
            row = client.get_node(node_id)
            assert row is not None
            return row.report

        eventually(lambda: report().run_time_s > 0 and report().queues, "a report")
        (waiting,) = report().queues
        assert waiting.resources == {"CPU": 1.0}
        assert 0 < waiting.length < 200
        assert 0.03 < report().run_time_s < 0.5
        for task in tasks:
            driver.get(task)
        eventually(lambda: not report().queues, "an empty report")
        driver.unregister()
        node.expect_nothing_left()


@pytest.mark.slow
def test_actor_names_are_unique_in_the_cluster(folder: Path, gcs: str) -> None:
    """Two nodes, one GCS, one name."""
    for name in ("a", "b"):
        (folder / name).mkdir()
    settings = {"gcs_address": gcs, "gcs_token": TOKEN}
    with (
        running(folder / "a", **settings) as first,
        running(folder / "b", **settings) as second,
    ):
        drivers = [Driver(first), Driver(second)]
        drivers[0].create_actor(name="only")
        with pytest.raises(ActorAlreadyExistsError, match="'only'"):
            drivers[1].create_actor(name="only")
        assert len(drivers[1].scheduler.call("nodes", {})["nodes"]) == 2
        total = drivers[0].scheduler.call("cluster_resources", {})
        assert total == {"resources": {"CPU": 4.0}}
        for driver in drivers:
            driver.unregister()
        second.expect_nothing_left()
