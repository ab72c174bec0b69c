"""Every table's methods, through a real client and server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from rostral_gcs import (
    NODES,
    ActorRow,
    ActorState,
    AsyncGcsClient,
    GcsServer,
    JobRow,
    JobState,
    NodeReport,
    NodeRow,
    NodeState,
    QueueReport,
)
from rostral_gcs.errors import (
    AlreadyExistsError,
    ConflictError,
    FencedError,
    ImmutableError,
    NotFoundError,
)
from rostral_gcs.ids import ActorID, FunctionID, JobID, NodeID, ObjectID, TaskID
from rostral_gcs.tokens import Tokens

Play = Callable[..., None]


@pytest.fixture(params=[1, 3], ids=["one-shard", "three-shards"])
def shard_count(request: pytest.FixtureRequest) -> int:
    """The tables must not care how many shards there are."""
    count: int = request.param
    return count


def _node(**changes: object) -> NodeRow:
    row = NodeRow(
        node_id=NodeID.from_random(),
        address="127.0.0.1",
        hostname="box",
        store_socket="/run/store",
        scheduler_socket="/run/scheduler",
        resources_total={"CPU": 2.0, "memory": 5e9},
        resources_available={"CPU": 2.0},
        labels={"zone": "a"},
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def _actor(**changes: object) -> ActorRow:
    row = ActorRow(actor_id=ActorID.from_random(), job_id=JobID.from_random(), class_name="C")
    return replace(row, **changes)  # type: ignore[arg-type]


def test_a_node_registers_renews_and_dies(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        row = await client.register_node(_node())
        assert (row.state, row.epoch) == (NodeState.ALIVE, 1)
        assert await client.get_node(row.node_id) == row
        assert await client.renew_node_lease(row.node_id, 1) == row.lease_s
        await client.renew_node_lease(row.node_id, 1, resources_available={"CPU": 0.5})
        changed = await client.get_node(row.node_id)
        assert changed == replace(row, resources_available={"CPU": 0.5})
        report = NodeReport(
            queues=(QueueReport(resources={"CPU": 1.0}, length=7, run_time_s=0.5),),
            run_time_s=0.25,
            run_times_s={b"f" * 16: 1.5},
            bandwidth_bytes_per_s=1e9,
            is_draining=True,
            resources_held={"CPU": 1.5},
        )
        await client.renew_node_lease(row.node_id, 1, report=report)
        assert await client.get_node(row.node_id) == replace(changed, report=report)
        await client.renew_node_lease(row.node_id, 1, report=NodeReport())
        dead = await client.mark_node_dead(row.node_id, "unplugged")
        assert (dead.state, dead.death_cause) == (NodeState.DEAD, "unplugged")
        assert await client.mark_node_dead(row.node_id, "again") == dead
        assert await client.list_nodes() == [dead]

    play(scenario, shard_count=shard_count)


def test_a_node_that_does_not_renew_is_found_dead(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        row = await client.register_node(_node(lease_s=0.1))
        events = client.watch(NODES)
        async for event in events:
            if event.row is not None and event.row.state is NodeState.DEAD:
                assert "did not renew" in event.row.death_cause
                break
        await events.aclose()
        with pytest.raises(FencedError, match="register it again"):
            await client.renew_node_lease(row.node_id, row.epoch)

    play(scenario, lease_check_interval_s=0.02)


def test_a_returning_node_fences_its_former_self(play: Play) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        first = await client.register_node(_node())
        client.act_as(first.node_id, first.epoch)
        await client.kv_put(b"k", b"by the first")
        async with AsyncGcsClient(server.address, client_token) as other:
            await other.mark_node_dead(first.node_id, "cut off")
            with pytest.raises(FencedError) as caught:
                await client.kv_put(b"k", b"too late")
            second = await other.register_node(first)
            assert (caught.value.current_epoch, second.epoch) == (1, 2)
            with pytest.raises(FencedError):
                await client.kv_put(b"k", b"still too late")
            found = await other.kv_get(b"k")
            assert found is not None
            assert found.value == b"by the first"

    client_token = ""

    async def with_token(server: GcsServer, client: AsyncGcsClient) -> None:
        nonlocal client_token
        client_token = Tokens.of(server._config.token).current()
        await scenario(server, client)

    play(with_token)


def test_a_live_node_id_cannot_be_registered_twice(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        row = await client.register_node(_node())
        with pytest.raises(AlreadyExistsError, match=row.node_id.hex()):
            await client.register_node(row)

    play(scenario)


def test_renewing_an_unknown_node_says_register(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        with pytest.raises(NotFoundError, match="register it again"):
            await client.renew_node_lease(NodeID.from_random(), 1)

    play(scenario)


def test_a_job_is_added_once_and_finishes_once(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        row = JobRow(
            job_id=JobID.from_random(),
            driver_pid=7,
            namespace="ns",
            entrypoint="x.py",
            node_id=NodeID.from_random(),
        )
        added = await client.add_job(row)
        assert (added.state, added.driver_pid) == (JobState.RUNNING, 7)
        with pytest.raises(AlreadyExistsError):
            await client.add_job(row)
        done = await client.finish_job(row.job_id)
        assert done.state is JobState.FINISHED
        assert done.end_time_s >= added.start_time_s > 0
        assert await client.finish_job(row.job_id) == done
        assert await client.list_jobs() == [done]
        assert await client.get_job(row.job_id) == done
        assert await client.get_job(JobID.from_random()) is None
        with pytest.raises(NotFoundError):
            await client.finish_job(JobID.from_random())

    play(scenario, shard_count=shard_count)


@pytest.mark.parametrize("size", [0, 1000, 256 * 1024 + 1, 5_000_000])
def test_a_function_of_any_size_comes_back_whole(play: Play, shard_count: int, size: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        function_id = FunctionID.from_random()
        blob = bytes(range(256)) * (size // 256) + bytes(size % 256)
        await client.put_function(function_id, "module.f", blob)
        await client.put_function(function_id, "module.f", blob)
        found = await client.get_function(function_id)
        assert (found.name, found.blob) == ("module.f", blob)
        with pytest.raises(ImmutableError):
            await client.put_function(function_id, "module.f", blob + b"!")
        with pytest.raises(NotFoundError):
            await client.get_function(FunctionID.from_random())

    play(scenario, shard_count=shard_count)


def test_an_actor_name_belongs_to_one_live_actor(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        rows = [_actor(name="counter", namespace="ns") for _ in range(8)]
        outcomes = await asyncio.gather(
            *(client.register_actor(row) for row in rows), return_exceptions=True
        )
        (winner,) = [row for row in outcomes if isinstance(row, ActorRow)]
        losers = [error for error in outcomes if isinstance(error, AlreadyExistsError)]
        assert len(losers) == 7
        assert {error.owner for error in losers} == {winner.actor_id.hex()}
        assert await client.list_actors() == [winner]
        assert await client.get_actor_by_name("counter", namespace="ns") == winner
        assert await client.get_actor_by_name("counter", namespace="other") is None

        def die(row: ActorRow) -> ActorRow:
            return replace(row, state=ActorState.DEAD, death_cause="killed")

        await client.change_actor(winner.actor_id, die)
        assert await client.get_actor_by_name("counter", namespace="ns") is None
        heir = await client.register_actor(_actor(name="counter", namespace="ns"))
        assert await client.get_actor_by_name("counter", namespace="ns") == heir

    play(scenario, shard_count=shard_count)


def test_an_actor_row_is_updated_by_compare_and_set(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        row = await client.register_actor(_actor(max_restarts=-1, detached=True))
        alive = await client.update_actor(
            replace(row, state=ActorState.ALIVE, node_id=NodeID.from_random(), worker_pid=9)
        )
        assert await client.get_actor(row.actor_id) == alive
        with pytest.raises(ConflictError) as caught:
            await client.update_actor(replace(row, worker_pid=10))
        assert caught.value.current_version == alive.version
        with pytest.raises(AlreadyExistsError):
            await client.register_actor(row)

    play(scenario)


def test_object_locations_add_up_and_go(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        here, there = NodeID.from_random(), NodeID.from_random()
        task_id = TaskID.from_random()
        first, second = ObjectID.for_task(task_id, 0), ObjectID.for_task(task_id, 1)
        await client.add_object_locations(here, {first: 10, second: 20})
        await client.add_object_locations(there, {first: 10})
        await client.add_object_locations(there, {first: 10})
        found = await client.get_object_locations([first, second, ObjectID.from_random()])
        assert found[first].node_ids == {here, there}
        assert (found[second].node_ids, found[second].size_bytes) == (frozenset({here}), 20)
        assert len(found) == 2
        await client.remove_object_locations(here, [first, second])
        await client.remove_object_locations(here, [first, second])
        found = await client.get_object_locations([first, second])
        assert set(found) == {first}
        assert found[first].node_ids == {there}

    play(scenario, shard_count=shard_count)


@pytest.mark.slow
def test_more_locations_than_fit_in_a_page_are_all_written(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        node_id = NodeID.from_random()
        sizes = {ObjectID.from_random(): at for at in range(2500)}
        await client.add_object_locations(node_id, sizes)
        found = await client.get_object_locations(list(sizes))
        assert {object_id: row.size_bytes for object_id, row in found.items()} == sizes

    play(scenario, shard_count=shard_count)


def test_keys_are_namespaced_and_versioned(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        first = await client.kv_put(b"k", b"1", namespace="a", expected_version=0)
        await client.kv_put(b"k", b"other", namespace="b")
        with pytest.raises(ConflictError) as caught:
            await client.kv_put(b"k", b"2", namespace="a", expected_version=0)
        assert caught.value.current_version == first
        second = await client.kv_put(b"k", b"2", namespace="a", expected_version=first)
        found = await client.kv_get(b"k", namespace="a")
        assert found is not None
        assert (found.value, found.version) == (b"2", second)
        with pytest.raises(ConflictError):
            await client.kv_delete(b"k", namespace="a", expected_version=first)
        await client.kv_delete(b"k", namespace="a", expected_version=second)
        await client.kv_delete(b"k", namespace="a")
        assert await client.kv_get(b"k", namespace="a") is None
        assert await client.kv_keys(namespace="b") == [b"k"]

    play(scenario, shard_count=shard_count)


@pytest.mark.slow
def test_keys_are_listed_in_order_over_all_pages_and_shards(play: Play, shard_count: int) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        keys = [b"p%05d" % at for at in range(2300)]
        await asyncio.gather(*(client.kv_put(key, b"", namespace="n") for key in keys))
        await client.kv_put(b"q", b"", namespace="n")
        assert await client.kv_keys(b"p", namespace="n") == keys

    play(scenario, shard_count=shard_count)


def test_a_request_sent_again_is_applied_once(play: Play, shard_count: int) -> None:
    from rostral_gcs._proto import gcs_pb2

    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        ops = [
            gcs_pb2.WriteOp(table="kv", key=b"\0%d" % at, value=b"v", expected_version=0)
            for at in range(20)
        ]
        request = gcs_pb2.WriteRequest(request_id=b"r" * 16, ops=ops)
        call = client._connection.call
        first = await call("Write", request, gcs_pb2.WriteReply)
        again = await call("Write", request, gcs_pb2.WriteReply)
        assert first == again
        assert not any(result.HasField("error") for result in again.results)

    play(scenario, shard_count=shard_count)


def test_concurrent_small_writes_share_requests(play: Play) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        sent: list[int] = []
        connection = client._connection
        call = connection.call

        async def counting(method: str, request: object, *rest: object, **named: object) -> object:
            sent.append(len(getattr(request, "ops", ())))
            return await call(method, request, *rest, **named)  # type: ignore[arg-type]

        connection.call = counting  # type: ignore[method-assign,assignment]
        await asyncio.gather(*(client.kv_put(b"%d" % at, b"v") for at in range(500)))
        assert sum(sent) == 500
        assert len(sent) < 10

    play(scenario)
