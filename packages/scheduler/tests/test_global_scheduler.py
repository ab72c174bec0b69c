"""Global schedulers as processes: found by their rows, asked, killed; and what if there is none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from click.testing import CliRunner

from rostral_gcs import AsyncGcsClient, GcsConfig, GcsServer, NodeReport, NodeRow, QueueReport
from rostral_gcs.errors import ConfigError, InsecureBindError, UnauthenticatedError
from rostral_gcs.ids import NodeID
from rostral_gcs.tokens import Tokens
from rostral_scheduler._proto import scheduler_pb2, scheduler_pb2_grpc
from rostral_scheduler.cli import main
from rostral_scheduler.core.placement_request import (
    Constraints,
    Infeasible,
    Later,
    Placed,
    TaskInput,
    TaskRequest,
)
from rostral_scheduler.global_.client import GlobalSchedulerClient
from rostral_scheduler.global_.config import GlobalSchedulerConfig, PlacingOptions
from rostral_scheduler.global_.daemon import GlobalScheduler
from rostral_scheduler.global_.rows import NAMESPACE, SchedulerRow, list_schedulers, write

TOKEN = "t" * 32
ONE_CPU = Constraints.of({"CPU": 1})

pytestmark = pytest.mark.slow


@dataclass
class Cluster:
    """A GCS with rows of nodes, and global schedulers as processes of their own."""

    folder: Path
    server: GcsServer
    gcs: AsyncGcsClient
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    async def add_node(self, number: int, **fields: object) -> NodeRow:
        row = NodeRow(
            node_id=NodeID(bytes([number]) * 16),
            address=f"10.0.0.{number}",
            resources_total={"CPU": 2.0},
            resources_available={"CPU": 2.0},
            lease_s=600.0,
            **fields,  # type: ignore[arg-type]
        )
        return await self.gcs.register_node(row)

    def spawn(self) -> subprocess.Popen[str]:
        token_file = self.folder / "token"
        if not token_file.exists():
            token_file.touch(0o600)
            token_file.write_text(TOKEN)
        return subprocess.Popen(
            [
                *(sys.executable, "-c", "from rostral_scheduler.cli import main; main()"),
                *("global", "--gcs", self.server.address, "--token-file", str(token_file)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def start_scheduler(self) -> str:
        """One more; its address, once it says that it is ready."""
        process = self.spawn()
        self.processes.append(process)
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert line.startswith("READY rostral-scheduler global at "), line
        return line.split()[-1]

    def end(self, index: int, number: signal.Signals) -> tuple[int, str]:
        process = self.processes[index]
        process.send_signal(number)
        _, stderr = process.communicate(timeout=20)
        return process.returncode, stderr


@contextlib.asynccontextmanager
async def cluster_in(folder: Path, nodes: int) -> AsyncIterator[Cluster]:
    server = GcsServer(GcsConfig(data_dir=folder / "gcs", token=TOKEN))
    await server.start()
    try:
        async with AsyncGcsClient(server.address, TOKEN) as gcs:
            cluster = Cluster(folder, server, gcs)
            for number in range(1, nodes + 1):
                await cluster.add_node(number)
            try:
                yield cluster
            finally:
                for process in cluster.processes:
                    process.kill()
                    process.communicate()
    finally:
        await server.stop()


Scenario = Callable[[Cluster], Coroutine[None, None, None]]
Play = Callable[..., None]


@pytest.fixture
def play(folder: Path) -> Iterator[Play]:
    """Runs a scenario on a cluster with so many nodes of two CPUs."""

    def run(scenario: Scenario, *, nodes: int = 3) -> None:
        async def whole() -> None:
            async with cluster_in(folder, nodes) as cluster:
                await scenario(cluster)

        asyncio.run(whole())

    yield run


@contextlib.asynccontextmanager
async def client_of(cluster: Cluster, **options: float) -> AsyncIterator[GlobalSchedulerClient]:
    client = GlobalSchedulerClient(cluster.gcs, PlacingOptions(**options))  # type: ignore[arg-type]
    try:
        yield client
    finally:
        await client.close()


def requests(count: int, first: int = 0, constraints: Constraints = ONE_CPU) -> list[TaskRequest]:
    return [
        TaskRequest(n.to_bytes(16, "big"), 0, constraints, run_time_s=0.01)
        for n in range(first, first + count)
    ]


def test_a_scheduler_answers_each_kind_of_request(play: Play) -> None:
    """1. Inputs, affinity and labels over the wire. 2. What cannot be. 3. The same answer again."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start_scheduler()
        async with client_of(cluster) as client:
            node = bytes([2]) * 16
            near = requests(1)[0]._replace(inputs=(TaskInput(b"o" * 20, 1 << 30, (node,)),))
            labelled = Constraints.of({"CPU": 1}, selector={"ray.io/node-id": node.hex()})
            impossible = Constraints.of({"CPU": 64})
            batch = [near, *requests(1, 1, labelled), *requests(1, 2, impossible)]
            placed, by_label, infeasible = await client.place(batch)
            for answer in (placed, by_label):
                assert isinstance(answer, Placed)
                assert (answer.node_id, answer.address) == (node, "10.0.0.2")
            assert isinstance(infeasible, Infeasible)
            assert infeasible.requested.as_floats() == {"CPU": 64}
            assert infeasible.best.as_floats() == {"CPU": 2}
            assert "{'CPU': 64.0}" in infeasible.message
            again = await client.place(batch)
            assert [type(one) for one in again] == [Placed, Placed, Infeasible]
            assert again[0][0] == again[1][0] == node
            assert client._own is None

    play(scenario)


def test_what_nodes_report_reaches_the_scheduler(play: Play) -> None:
    """1. Two nodes say that much waits there. 2. One drains. 3. It dies: nothing goes there."""

    async def scenario(cluster: Cluster) -> None:
        await cluster.start_scheduler()
        queue = QueueReport(resources={"CPU": 1.0}, length=100, run_time_s=1.0)
        busy = NodeReport(queues=(queue,), run_time_s=1.0)
        for number in (1, 2):
            await cluster.gcs.renew_node_lease(
                NodeID(bytes([number]) * 16), 1, resources_available={"CPU": 0.0}, report=busy
            )
        async with client_of(cluster) as client:
            first = 0

            async def chosen() -> set[int]:
                nonlocal first
                first += 10
                answers = await client.place(requests(10, first))
                return {answer.node_id[0] for answer in answers if isinstance(answer, Placed)}

            await until(lambda: chosen(), {3})
            third = NodeID(bytes([3]) * 16)
            await cluster.gcs.renew_node_lease(third, 1, report=NodeReport(is_draining=True))
            await until(lambda: chosen(), {1, 2})
            await cluster.gcs.mark_node_dead(NodeID(bytes([1]) * 16), "unplugged")
            await until(lambda: chosen(), {2})

    play(scenario)


async def until(read: Callable[[], Coroutine[None, None, set[int]]], expected: set[int]) -> None:
    """Reads again until it is what is expected."""
    deadline_s = time.monotonic() + 20
    while (found := await read()) != expected:
        assert time.monotonic() < deadline_s, (found, expected)
        await asyncio.sleep(0.02)


def test_one_of_two_schedulers_is_killed_in_a_burst_and_nothing_is_lost(play: Play) -> None:
    """RELIABILITY R11. 1. 10,000 tasks from 8 askers. 2. kill -9 amidst. 3. All are placed."""

    async def scenario(cluster: Cluster) -> None:
        for _ in range(2):
            await cluster.start_scheduler()
        # A loaded machine may take long to answer; who is killed is refused at once.
        async with client_of(cluster, call_timeout_s=30.0, timeout_s=60.0) as client:
            answered = 0

            async def ask(asker: int) -> list[object]:
                nonlocal answered
                answers: list[object] = []
                for at in range(0, 1250, 50):
                    answers += await client.place(requests(50, asker * 1250 + at))
                    answered += 50
                    if answered == 2000:
                        os.kill(cluster.processes[0].pid, signal.SIGKILL)
                return answers

            found = await asyncio.gather(*(ask(asker) for asker in range(8)))
            answers = [answer for part in found for answer in part]
            assert len(answers) == 10_000
            assert all(isinstance(answer, Placed) for answer in answers)
            assert cluster.processes[0].poll() is not None
            assert client._own is None, "the other scheduler answers"

    play(scenario)


def test_a_stopped_scheduler_costs_one_timeout_and_is_avoided(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        for _ in range(2):
            await cluster.start_scheduler()
        async with client_of(cluster, call_timeout_s=0.5, avoid_s=60.0) as client:
            await client.place(requests(1))
            cluster.processes[0].send_signal(signal.SIGSTOP)
            started_s = time.monotonic()
            for at in range(1, 41):
                (answer,) = await client.place(requests(1, at))
                assert isinstance(answer, Placed)
            assert time.monotonic() - started_s < 5
            cluster.processes[0].send_signal(signal.SIGCONT)

    play(scenario)


def test_with_no_scheduler_the_client_places_by_itself(play: Play) -> None:
    """And once there is one, it is asked."""

    async def scenario(cluster: Cluster) -> None:
        async with client_of(cluster, refresh_s=0.01) as client:
            answers = await client.place(requests(6))
            assert {a.address for a in answers if isinstance(a, Placed)} == {
                "10.0.0.1",
                "10.0.0.2",
                "10.0.0.3",
            }
            assert client._own is not None
            await cluster.start_scheduler()
            await asyncio.sleep(0.02)
            await client.place(requests(1, 6))
            assert [peer.failed_at_s < 0 for peer in client._peers.values()] == [True]

    play(scenario)


def test_schedulers_and_clients_ride_through_a_restart_of_the_gcs(folder: Path) -> None:
    """1. It places. 2. The GCS is away: it places on. 3. Back, with one node more: it is used."""

    async def scenario() -> None:
        config = GcsConfig(data_dir=folder / "gcs", token=TOKEN)
        server = GcsServer(config)
        port = await server.start()
        async with AsyncGcsClient(server.address, TOKEN) as gcs:
            cluster = Cluster(folder, server, gcs)
            await cluster.add_node(1)
            scheduler = GlobalScheduler(
                GlobalSchedulerConfig(gcs_address=server.address, token=TOKEN)
            )
            await scheduler.start()
            async with client_of(cluster, refresh_s=0.05, call_timeout_s=0.3) as client:
                assert isinstance((await client.place(requests(1)))[0], Placed)
                await server.stop()
                assert isinstance((await client.place(requests(1, 1)))[0], Placed)
                server = GcsServer(GcsConfig(data_dir=config.data_dir, token=TOKEN, port=port))
                await server.start()
                await cluster.add_node(2)
                first = 10

                async def chosen() -> set[int]:
                    nonlocal first
                    first += 6
                    answers = await client.place(requests(6, first))
                    return {answer.node_id[0] for answer in answers if isinstance(answer, Placed)}

                await until(chosen, {1, 2})
            await scheduler.stop()
        await server.stop()

    asyncio.run(scenario())


def test_the_row_of_a_killed_scheduler_is_removed_and_of_a_stopped_one_at_once(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        config = GlobalSchedulerConfig(
            gcs_address=cluster.server.address, token=TOKEN, row_lease_s=0.3
        )
        await cluster.gcs.kv_put(b"garbage", b"\xc1", namespace=NAMESPACE)
        await write(cluster.gcs, SchedulerRow(key=b"k" * 16, address="127.0.0.1:1", lease_s=0.3))
        living = GlobalScheduler(config)
        await living.start()
        assert len(await list_schedulers(cluster.gcs)) == 2
        deadline_s = time.monotonic() + 10
        while len(rows := await list_schedulers(cluster.gcs)) == 2:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.05)
        assert [row.address for row in rows] == [living.address]
        await living.stop()
        assert await list_schedulers(cluster.gcs) == {}

    play(scenario)


def test_schedulers_know_how_many_they_are(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        config = GlobalSchedulerConfig(
            gcs_address=cluster.server.address, token=TOKEN, row_lease_s=1.0
        )
        first, second = GlobalScheduler(config), GlobalScheduler(config)

        async def known() -> set[int]:
            return {first.placer.policy.scheduler_count}

        await first.start()
        await second.start()
        await until(known, {2})
        await second.stop()
        await until(known, {1})
        await first.stop()

    play(scenario)


def test_who_does_not_know_the_token_is_refused(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        address = await cluster.start_scheduler()
        async with client_of(cluster) as client:
            cluster.gcs._connection.tokens = Tokens.of("wrong")
            client._peers[address] = client._connect(address)
            client._read_at_s = asyncio.get_running_loop().time() + 60
            with pytest.raises(UnauthenticatedError):
                await client.place(requests(1))

    play(scenario)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (scheduler_pb2.PlaceRequest(tasks=[{"task_id": b"short"}]), "tasks[0].task_id has 5"),
        (scheduler_pb2.PlaceRequest(tasks=[{"task_id": bytes(16)}]), "there are 0"),
        (
            scheduler_pb2.PlaceRequest(constraints=[{"resources": {"CPU": -1.0}}]),
            "resource 'CPU' is -1.0",
        ),
        (
            scheduler_pb2.PlaceRequest(constraints=[{"affinity": {"node_id": b"x"}}]),
            "affinity.node_id has 1 bytes",
        ),
        (
            scheduler_pb2.PlaceRequest(
                constraints=[{}], tasks=[{"task_id": bytes(16), "run_time_s": float("nan")}]
            ),
            "run_time_s is nan",
        ),
        (
            scheduler_pb2.PlaceRequest(constraints=[{}], tasks=[{"task_id": bytes(16)}] * 10_001),
            "10001 tasks in one call",
        ),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_name(
    play: Play, message: scheduler_pb2.PlaceRequest, says: str
) -> None:
    async def scenario(cluster: Cluster) -> None:
        scheduler = GlobalScheduler(
            GlobalSchedulerConfig(gcs_address=cluster.server.address, token=TOKEN),
            gcs=cluster.gcs,
        )
        await scheduler.start()
        async with grpc.aio.insecure_channel(scheduler.address) as channel:
            make: Callable[[grpc.aio.Channel], Any] = scheduler_pb2_grpc.GlobalSchedulerStub
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await make(channel).Place(message, metadata=cluster.gcs.call_metadata)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert says in (caught.value.details() or "")
        await scheduler.stop()

    play(scenario, nodes=1)


def test_until_the_node_table_is_read_nothing_is_said(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        from rostral_scheduler.global_.placer import Placer

        (answer,) = Placer(cluster.gcs).place(requests(1))
        assert isinstance(answer, Later)
        assert "not been read" in answer.reason

    play(scenario)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_cleanly(play: Play, number: signal.Signals) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start_scheduler()
        assert await asyncio.to_thread(cluster.end, 0, number) == (0, "")
        assert await list_schedulers(cluster.gcs) == {}

    play(scenario)


def test_wrong_configuration_is_refused_before_anything_starts(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        GlobalScheduler(
            GlobalSchedulerConfig(
                gcs_address="nowhere", token="short", bind="x", port=-1, calls_max=0
            )
        )
    assert len(caught.value.problems) == 5
    with pytest.raises(InsecureBindError):
        GlobalSchedulerConfig(
            gcs_address="h:1", token=TOKEN, bind="0.0.0.0", advertise="h"
        ).validate()
    with pytest.raises(ConfigError, match="without advertise"):
        GlobalSchedulerConfig(gcs_address="h:1", token=TOKEN, bind="0.0.0.0").validate()
    with pytest.raises(ConfigError, match="timeout_s is 0"):
        PlacingOptions(timeout_s=0.0).validate()
    missing = ["global", "--gcs", "h:1", "--token-file", str(folder / "missing")]
    result = CliRunner().invoke(main, missing)
    assert result.exit_code == 78
    assert "cannot open token file" in result.output
