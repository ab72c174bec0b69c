"""Tasks, events and locations through a real client and server: in bulk, once, in order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rostral_gcs import (
    AsyncGcsClient,
    ClientOptions,
    EventRow,
    EventSeverity,
    GcsClient,
    GcsServer,
    NodeRow,
    TaskRow,
    TaskState,
)
from rostral_gcs._proto import gcs_pb2
from rostral_gcs.errors import ConflictError, FencedError, InvalidArgumentError
from rostral_gcs.ids import FunctionID, JobID, NodeID, ObjectID, TaskID
from rostral_gcs.tables.tasks import TASKS

Play = Callable[..., None]
JOB = JobID.from_random()


@pytest.fixture(params=[1, 3], ids=["one-shard", "three-shards"])
def shard_count(request: pytest.FixtureRequest) -> int:
    """Lineage must not care how many shards there are."""
    count: int = request.param
    return count


def _task(at: int = 0, **changes: object) -> TaskRow:
    row = TaskRow(task_id=TaskID.from_random(), job_id=JOB, name=f"task {at}", spec=b"%d" % at)
    return replace(row, **changes)  # type: ignore[arg-type]


def test_tasks_are_read_back_as_they_were_recorded(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        full = _task(
            parent_id=TaskID.from_random(),
            function_id=FunctionID.from_random(),
            node_id=NodeID.from_random(),
            state=TaskState.FAILED,
            attempt=3,
            submit_time_s=1.5,
            start_time_s=2.5,
            end_time_s=3.5,
            cause="it broke: ü",
            name="größe",
            spec=os.urandom(300),
        )
        rows = [full, *(_task(at) for at in range(2500))]
        await client.record_tasks(rows)
        found = await client.get_tasks([row.task_id for row in rows] + [TaskID.from_random()])
        assert found == {row.task_id: row for row in rows}
        assert all(row.version > 0 for row in found.values())
        await client.record_tasks([])

    play(scenario, shard_count=shard_count)


def test_a_later_row_of_a_task_wins(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        row = _task()
        states = (TaskState.PENDING, TaskState.RUNNING, TaskState.FINISHED)
        # Not awaited one by one: what is given later is written later.
        await asyncio.gather(
            *(client.record_tasks([replace(row, state=state)]) for state in states)
        )
        assert (await client.get_tasks([row.task_id]))[row.task_id].state is TaskState.FINISHED
        again = [replace(row, attempt=1), replace(row, attempt=2)]
        await client.record_tasks(again)
        assert (await client.get_tasks([row.task_id]))[row.task_id].attempt == 2

    play(scenario, shard_count=shard_count)


def test_the_producer_of_an_object_is_found_by_its_id(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        row = _task()
        await client.record_tasks([row])
        first, second = ObjectID.for_task(row.task_id, 0), ObjectID.for_task(row.task_id, 1)
        unknown = ObjectID.from_random()
        found = await client.get_producers([first, unknown, second])
        assert found == {first: row, second: row}

    play(scenario)


def test_a_task_can_be_compared_and_set(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        row = _task()
        key = TASKS.key_of(row)
        first = await client._rows.write_one("tasks", key, TASKS.encode(row), 0)
        await client.record_tasks([replace(row, attempt=1)])
        with pytest.raises(ConflictError) as caught:
            await client._rows.write_one("tasks", key, TASKS.encode(row), first)
        second = caught.value.current_version
        third = await client._rows.write_one("tasks", key, TASKS.encode(row), second)
        assert first < second < third

    play(scenario)


def test_columns_sent_again_are_applied_once(play: Play, shard_count: int) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        rows = [_task(at) for at in range(50)]
        values = [TASKS.encode(row) for row in rows]
        request = gcs_pb2.WriteColumnsRequest(
            request_id=b"r" * 16,
            table="tasks",
            keys=b"".join(row.task_id.binary() for row in rows),
            sizes=[len(value) for value in values],
            values=b"".join(values),
        )
        call = client._connection.call
        for _ in range(3):
            reply = await call("WriteColumns", request, gcs_pb2.WriteColumnsReply)
            assert reply.count == 50
        assert sum(shard.last_sequence for shard in server._store._shards) == 50

    play(scenario, shard_count=shard_count)


def test_columns_of_a_fenced_node_are_refused(play: Play) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        node = await client.register_node(NodeRow(node_id=NodeID.from_random(), address="h"))
        async with AsyncGcsClient(server.address, client_token(client)) as writer:
            writer.act_as(node.node_id, node.epoch)
            await writer.record_tasks([_task()])
            await client.mark_node_dead(node.node_id, "for the test")
            late = _task()
            with pytest.raises(FencedError):
                await writer.record_tasks([late])
            with pytest.raises(FencedError):
                await writer.add_object_locations(node.node_id, {ObjectID.from_random(): 1})
        assert await client.get_tasks([late.task_id]) == {}

    play(scenario)


def client_token(client: AsyncGcsClient) -> str:
    """The token that the client shows."""
    ((_, value),) = client._connection.metadata
    return value.removeprefix("Bearer ")


@pytest.mark.parametrize(
    "changes",
    [{"submit_time_s": float("nan")}, {"end_time_s": -1.0}, {"attempt": -1}, {"name": "n" * 257}],
    ids=str,
)
def test_a_bad_task_is_refused_and_nothing_of_its_batch_written(
    play: Play, changes: dict[str, Any]
) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        good = _task()
        with pytest.raises(InvalidArgumentError, match="allowed"):
            await client.record_tasks([good, _task(**changes)])
        assert await client.get_tasks([good.task_id]) == {}

    play(scenario)


def test_events_are_listed_by_time_page_by_page(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        events = [
            EventRow(
                time_s=1000.0 + at,
                kind="node_died",
                message=f"{at}",
                severity=EventSeverity.ERROR,
                node_id=NodeID.from_random(),
                job_id=JOB,
                subject_id=b"s",
                attributes={"why": "unknown"},
                source="test",
            )
            for at in range(20)
        ]
        await client.record_events(list(reversed(events)))
        assert await client.list_events() == events
        assert await client.list_events(1005.0, limit=3) == events[5:8]
        assert await client.list_events(2000.0) == []
        with pytest.raises(InvalidArgumentError, match="allowed: 1 to 10000"):
            await client.list_events(limit=0)

    play(scenario, shard_count=shard_count)


def test_small_writes_under_way_together_share_requests(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        sent: list[int] = []
        connection = client._connection
        call = connection._call

        async def counting(method: str, request: Any, *rest: Any, **named: Any) -> object:
            sent.append(len(request.sizes))
            return await call(method, request, *rest, **named)

        connection._call = counting  # type: ignore[method-assign,assignment]
        await asyncio.gather(*(client.record_tasks([_task(at)]) for at in range(500)))
        assert sum(sent) == 500
        assert len(sent) < 10

    play(scenario)


@pytest.mark.slow
def test_kill_9_loses_no_acknowledged_task(serve: Callable[..., Any]) -> None:
    server = serve()
    acknowledged: list[TaskRow] = []

    async def record_until_killed() -> None:
        options = ClientOptions(call_timeout_s=0.3)
        async with AsyncGcsClient(server.address, server.token, options=options) as client:

            async def record() -> None:
                while True:
                    rows = [_task(at) for at in range(100)]
                    await client.record_tasks(rows)
                    acknowledged.extend(rows)
                    if len(acknowledged) >= 20_000:
                        os.kill(server.process.pid, signal.SIGKILL)

            await asyncio.gather(*(record() for _ in range(4)), return_exceptions=True)

    asyncio.run(record_until_killed())
    again = serve()
    with GcsClient(again.address, again.token) as client:
        found = client.get_tasks([row.task_id for row in acknowledged])
    assert len(acknowledged) >= 20_000
    assert found == {row.task_id: row for row in acknowledged}


def test_without_batching_each_call_is_a_request(play: Play) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        options = ClientOptions(batching=False, batch_ops_max=40)
        async with AsyncGcsClient(server.address, client_token(client), options=options) as single:
            sent: list[int] = []
            call = single._connection._call

            async def counting(method: str, request: Any, *rest: Any, **named: Any) -> object:
                sent.append(len(getattr(request, "sizes", ())) + len(getattr(request, "ops", ())))
                return await call(method, request, *rest, **named)

            single._connection._call = counting  # type: ignore[method-assign,assignment]
            rows = [_task(at) for at in range(100)]
            await asyncio.gather(*(single.record_tasks([row]) for row in rows[:20]))
            await single.record_tasks(rows[20:])
            await asyncio.gather(*(single.kv_put(b"%d" % at, b"v") for at in range(10)))
            assert sorted(sent) == [1] * 30 + [40] * 2
            assert len(await client.get_tasks([row.task_id for row in rows])) == 100

    play(scenario)
