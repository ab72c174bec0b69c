"""One table of refusals: each is typed, says limit and remedy, and leaves the service well."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from rostral_gcs import (
    KV,
    NODES,
    TASKS,
    ActorRow,
    AsyncGcsClient,
    CheckpointRow,
    EventRow,
    GcsServer,
    JobRow,
    NodeReport,
    NodeRow,
    QueueReport,
    TaskRow,
    WatchPosition,
    errors,
)
from rostral_gcs._proto import gcs_pb2
from rostral_gcs.ids import ActorID, FunctionID, JobID, NodeID, ObjectID, TaskID
from rostral_gcs.tables.registry import TABLES
from rostral_gcs.tokens import Tokens

Call = Callable[[AsyncGcsClient], Awaitable[object]]

NODE = NodeRow(node_id=NodeID.from_random(), address="h")
ACTOR = ActorRow(actor_id=ActorID.from_random(), job_id=JobID.from_random())


async def _write(client: AsyncGcsClient, **op: object) -> object:
    request = gcs_pb2.WriteRequest(request_id=bytes(16))
    request.ops.add(**op)
    reply = await client._connection.call("Write", request, gcs_pb2.WriteReply)
    if reply.results[0].HasField("error"):
        from rostral_gcs.error_wire import error_from_detail

        raise error_from_detail(reply.results[0].error)
    return reply


async def _raw(client: AsyncGcsClient, method: str, request: object) -> object:
    kinds = {"Scan": gcs_pb2.ScanReply, "Read": gcs_pb2.ReadReply, "Write": gcs_pb2.WriteReply}
    kinds["RenewNodeLease"] = gcs_pb2.RenewNodeLeaseReply
    return await client._connection.call(method, request, kinds[method])


@dataclass(frozen=True)
class _Body:
    """A request that is sent as it is."""

    body: bytes

    def SerializeToString(self) -> bytes:
        return self.body


@dataclass(frozen=True)
class Refusal:
    """A call, and how it must be refused."""

    name: str
    call: Call
    error: type[errors.GcsError]
    says: str


async def _columns(client: AsyncGcsClient, **fields: object) -> object:
    wanted: dict[str, Any] = {"request_id": bytes(16), "table": "tasks", **fields}
    request = gcs_pb2.WriteColumnsRequest(**wanted)
    return await client._connection.call("WriteColumns", request, gcs_pb2.WriteColumnsReply)


async def _watch(client: AsyncGcsClient, sequence: int) -> object:
    position = WatchPosition(client.cluster_id, (sequence,))
    return await anext(client.watch(KV, position=position, resync=False))


async def _second(events: AsyncGenerator[object, None]) -> object:
    await anext(events)  # RESYNC is the client's own; the server is asked after it.
    return await anext(events)


async def _as_old_epoch(client: AsyncGcsClient) -> object:
    request = gcs_pb2.WriteRequest(request_id=b"e" * 16)
    request.ops.add(table="kv", key=b"\0k", value=b"v")
    request.writer.node_id = FENCED.binary()
    request.writer.epoch = 1
    return await client._connection.call("Write", request, gcs_pb2.WriteReply)


FENCED = NodeID.from_random()
STORED = FunctionID.from_random()


async def _prepare(client: AsyncGcsClient) -> None:
    """A node that is in its second life, and a function."""
    await client.register_node(replace(NODE, node_id=FENCED))
    await client.mark_node_dead(FENCED, "for the test")
    await client.register_node(replace(NODE, node_id=FENCED, lease_s=3600.0))
    await client.put_function(STORED, "f", b"code")


REFUSALS = [
    Refusal("lower epoch", _as_old_epoch, errors.FencedError, "epoch 1 is fenced"),
    Refusal(
        "live node registered again",
        lambda c: c.register_node(replace(NODE, node_id=FENCED)),
        errors.AlreadyExistsError,
        "a live node has the id",
    ),
    Refusal(
        "lease of an unknown node",
        lambda c: c.renew_node_lease(NodeID.from_random(), 1),
        errors.NotFoundError,
        "register it again",
    ),
    Refusal(
        "lease under an old epoch",
        lambda c: c.renew_node_lease(FENCED, 1),
        errors.FencedError,
        "stop all work",
    ),
    Refusal(
        "heartbeat with a negative load",
        lambda c: c.renew_node_lease(FENCED, 2, report=NodeReport(run_time_s=-1.0)),
        errors.InvalidArgumentError,
        "report.",
    ),
    Refusal(
        "heartbeat with resources that are no number",
        lambda c: c.renew_node_lease(FENCED, 2, resources_available={"CPU": float("nan")}),
        errors.InvalidArgumentError,
        "a number from 0 to 1e6",
    ),
    *(
        Refusal(
            f"body with {what}",
            lambda c, body=body: _raw(c, "Read", _Body(body)),  # type: ignore[misc]
            errors.InvalidArgumentError,
            "the body of a call of Read cannot be read",
        )
        for what, body in (
            ("text that is not UTF-8", b"\x0a\x02\xff\xfe"),
            ("bytes behind its end", gcs_pb2.ReadRequest(table="kv").SerializeToString() + b"\x0a"),
        )
    ),
    Refusal(
        "immutable row with other bytes",
        lambda c: c.put_function(STORED, "f", b"other code"),
        errors.ImmutableError,
        "written already, with other bytes",
    ),
    Refusal(
        "watch from the future",
        lambda c: _watch(c, 10**9),
        errors.OutOfRangeError,
        "in the future",
    ),
    Refusal(
        "watch from a position that was trimmed",
        lambda c: _watch(c, 0),
        errors.ResyncRequiredError,
        "has been trimmed; it begins after",
    ),
    Refusal(
        "watch of a table without history",
        lambda c: _second(c.watch(TASKS)),
        errors.InvalidArgumentError,
        "cannot be watched",
    ),
    Refusal(
        "key of the wrong size",
        lambda c: _write(c, table="tasks", key=b"short", value=b"v"),
        errors.InvalidKeyError,
        "its keys have 16",
    ),
    Refusal(
        "the table of shards",
        lambda c: _write(c, table="shards", key=b"owners", value=b"v"),
        errors.InvalidArgumentError,
        "is the store's own",
    ),
    Refusal(
        "task deleted",
        lambda c: _write(c, table="tasks", key=b"k" * 16),
        errors.InvalidArgumentError,
        "cannot be deleted",
    ),
    Refusal("columns without keys", _columns, errors.InvalidKeyError, "at least one"),
    Refusal(
        "columns with half a key",
        lambda c: _columns(c, keys=b"k" * 24, sizes=[1], values=b"v"),
        errors.InvalidKeyError,
        "16 each",
    ),
    Refusal(
        "columns with too few values",
        lambda c: _columns(c, keys=b"k" * 32, sizes=[1], values=b"v"),
        errors.InvalidArgumentError,
        "1 sizes, 1 bytes in all, for 2 keys",
    ),
    Refusal(
        "columns with too many bytes",
        lambda c: _columns(c, keys=b"k" * 16, sizes=[1], values=b"vv"),
        errors.InvalidArgumentError,
        "2 bytes of values",
    ),
    Refusal(
        "columns with a value too large",
        lambda c: _columns(c, keys=b"k" * 16, sizes=[600_000], values=bytes(600_000)),
        errors.TooLargeError,
        "the limit is 524288",
    ),
    Refusal(
        "too many columns",
        lambda c: _columns(c, keys=b"k" * 16 * 10_001, sizes=[0] * 10_001),
        errors.TooLargeError,
        "the limit is 10000",
    ),
    Refusal(
        "columns of a table without fixed keys",
        lambda c: _columns(c, table="kv", keys=b"k" * 16, sizes=[0]),
        errors.InvalidArgumentError,
        "cannot be written by columns",
    ),
    Refusal(
        "tasks deleted by columns",
        lambda c: _columns(c, keys=b"k" * 16, delete=True),
        errors.InvalidArgumentError,
        "cannot be deleted",
    ),
    Refusal(
        "columns of no table",
        lambda c: _columns(c, table="nonsense", keys=b"k" * 16, sizes=[0]),
        errors.NoSuchTableError,
        "no table 'nonsense'",
    ),
    Refusal(
        "columns without a request id",
        lambda c: _columns(c, request_id=b"", keys=b"k" * 16, sizes=[0]),
        errors.InvalidArgumentError,
        "request_id has 0 bytes",
    ),
    Refusal(
        "prefix that names no shard",
        lambda c: _raw(c, "Read", gcs_pb2.ReadRequest(table="kv", prefixes=[b"p"])),
        errors.InvalidArgumentError,
        "cannot be read by prefixes this short",
    ),
    Refusal(
        "too many prefixes",
        lambda c: _raw(
            c, "Read", gcs_pb2.ReadRequest(table="objects", prefixes=[b"p" * 20] * 10_001)
        ),
        errors.InvalidArgumentError,
        "the limit is 10000",
    ),
    *(
        Refusal(
            f"task submitted at {time_s}",
            lambda c, time_s=time_s: c.record_tasks(  # type: ignore[misc]
                [TaskRow(task_id=TaskID.from_random(), job_id=ACTOR.job_id, submit_time_s=time_s)]
            ),
            errors.InvalidArgumentError,
            "finite numbers, 0 or more",
        )
        for time_s in (float("nan"), float("inf"), -1.0)
    ),
    Refusal(
        "event without a kind",
        lambda c: c.record_events([EventRow(time_s=1.0, kind="")]),
        errors.InvalidArgumentError,
        "allowed: a kind",
    ),
    Refusal(
        "checkpoint with a negative number",
        lambda c: c.add_checkpoint(
            CheckpointRow(actor_id=ACTOR.actor_id, number=-1, call_count=0, location="")
        ),
        errors.InvalidArgumentError,
        "number of a checkpoint",
    ),
    Refusal("empty key", lambda c: c.kv_put(b"", b"v"), errors.InvalidKeyError, "key is empty"),
    Refusal(
        "empty raw key",
        lambda c: _write(c, table="kv", key=b"", value=b"v"),
        errors.InvalidKeyError,
        "1 byte or more",
    ),
    Refusal("key too long", lambda c: c.kv_put(b"k" * 1024, b"v"), errors.TooLargeError, "is 1024"),
    Refusal(
        "value too large",
        lambda c: c.kv_put(b"k", bytes(512 * 1024 + 1)),
        errors.TooLargeError,
        "the limit is 524288",
    ),
    Refusal(
        "unknown table",
        lambda c: _write(c, table="nonsense", key=b"k", value=b"v"),
        errors.NoSuchTableError,
        "no table 'nonsense'; tables are nodes, jobs",
    ),
    Refusal(
        "unknown table in a read",
        lambda c: _raw(c, "Read", gcs_pb2.ReadRequest(table="x", keys=[b"k"])),
        errors.NoSuchTableError,
        "check the spelling",
    ),
    Refusal(
        "stale version",
        lambda c: c.kv_put(b"k", b"v", expected_version=99),
        errors.ConflictError,
        "has version 0, expected 99",
    ),
    Refusal(
        "no request id",
        lambda c: _raw(c, "Write", gcs_pb2.WriteRequest(request_id=b"short")),
        errors.InvalidArgumentError,
        "request_id has 5 bytes",
    ),
    Refusal(
        "too many operations",
        lambda c: _raw(
            c,
            "Write",
            gcs_pb2.WriteRequest(request_id=bytes(16), ops=[gcs_pb2.WriteOp()] * 10_001),
        ),
        errors.TooLargeError,
        "the limit is 10000",
    ),
    Refusal(
        "too many keys",
        lambda c: _raw(c, "Read", gcs_pb2.ReadRequest(table="kv", keys=[b"k"] * 10_001)),
        errors.InvalidArgumentError,
        "the limit is 10000",
    ),
    Refusal(
        "scan limit 0",
        lambda c: _raw(c, "Scan", gcs_pb2.ScanRequest(table="kv", limit=0)),
        errors.InvalidArgumentError,
        "allowed: 1 to 10000",
    ),
    Refusal(
        "scan limit too high",
        lambda c: _raw(c, "Scan", gcs_pb2.ScanRequest(table="kv", limit=10_001)),
        errors.InvalidArgumentError,
        "allowed: 1 to 10000",
    ),
    Refusal(
        "prefix without table",
        lambda c: _raw(c, "Scan", gcs_pb2.ScanRequest(prefix=b"p", limit=1)),
        errors.NoSuchTableError,
        "no table ''",
    ),
    Refusal(
        "node id of the wrong length",
        lambda c: _raw(c, "RenewNodeLease", gcs_pb2.RenewNodeLeaseRequest(node_id=b"abc")),
        errors.InvalidArgumentError,
        "needs 16 bytes, got 3",
    ),
    Refusal(
        "a node's value that is none",
        lambda c: _write(c, table="nodes", key=b"k" * 16, value=b"\xff\xff"),
        errors.InvalidArgumentError,
        "not a row of table nodes",
    ),
    Refusal(
        "lease out of bounds",
        lambda c: c.register_node(replace(NODE, lease_s=1e9)),
        errors.InvalidArgumentError,
        "allowed: 0.1 to 3600.0",
    ),
    *(
        Refusal(
            f"resource {amount}",
            lambda c, amount=amount: c.register_node(  # type: ignore[misc]
                replace(NODE, resources_total={"CPU": amount})
            ),
            errors.InvalidArgumentError,
            "a number from 0 to 1e6",
        )
        for amount in (-1.0, float("nan"), float("inf"), True, 1e7)
    ),
    Refusal(
        "resource name",
        lambda c: c.register_node(replace(NODE, resources_total={"a b": 1.0})),
        errors.InvalidArgumentError,
        "resource name 'a b'",
    ),
    *(
        Refusal(
            f"report {report}",
            lambda c, report=report: c.register_node(  # type: ignore[misc]
                replace(NODE, report=report)
            ),
            errors.InvalidArgumentError,
            "report.",
        )
        for report in (
            NodeReport(run_time_s=-1.0),
            NodeReport(resources_held={"CPU": float("inf")}),
            NodeReport(bandwidth_bytes_per_s=float("nan")),
            NodeReport(queues=(QueueReport(resources={"CPU": -1.0}, length=1),)),
            NodeReport(queues=(QueueReport(resources={}, length=-1),)),
            NodeReport(run_times_s={n.to_bytes(2, "big"): 1.0 for n in range(1001)}),
        )
    ),
    Refusal(
        "actor name with a slash",
        lambda c: c.register_actor(replace(ACTOR, name="a/b")),
        errors.InvalidArgumentError,
        "no slash",
    ),
    Refusal(
        "actor restarts below -1",
        lambda c: c.register_actor(replace(ACTOR, max_restarts=-2)),
        errors.InvalidArgumentError,
        "-1 (without end) or more",
    ),
    Refusal(
        "namespace with NUL",
        lambda c: c.kv_put(b"k", b"v", namespace="a\0b"),
        errors.InvalidArgumentError,
        "no control characters",
    ),
    Refusal(
        "function blob too large",
        lambda c: c.put_function(FunctionID.from_random(), "f", bytes(100_000_001)),
        errors.TooLargeError,
        "the limit is 100000000",
    ),
    Refusal(
        "object size negative",
        lambda c: c.add_object_locations(NODE.node_id, {ObjectID.from_random(): -1}),
        errors.InvalidArgumentError,
        "allowed: 0 to 2**48",
    ),
    Refusal(
        "job with a bad namespace",
        lambda c: c.add_job(JobRow(job_id=JobID.from_random(), namespace="a/b")),
        errors.InvalidArgumentError,
        "namespace is 'a/b'",
    ),
]


def test_every_refusal_is_typed_prompt_and_without_effect(
    play: Callable[..., None], backend: dict[str, object]
) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
        await _prepare(client)
        before = await state_of(server)
        for refusal in REFUSALS:
            started_s = time.monotonic()
            with pytest.raises(refusal.error) as caught:
                await refusal.call(client)
            took_s = time.monotonic() - started_s
            text = str(caught.value)
            assert type(caught.value) is refusal.error, refusal.name
            assert refusal.says in text, (refusal.name, text)
            assert caught.value.hint, refusal.name
            assert text.startswith(f"{refusal.error.code}: "), refusal.name
            assert len(text) < 400, refusal.name
            # Far above the 50 ms that a refusal may take, for loaded machines.
            assert took_s < 2.0, refusal.name
            assert await state_of(server) == before, refusal.name
            # Whatever came, the next good call is answered.
            assert await client.get_node(FENCED) is not None, refusal.name
        assert await client.kv_put(b"still", b"well") > 0

    # Nothing is kept of the history, so that a position that was trimmed is at hand.
    play(scenario, history_count_max=1, **backend)


async def state_of(server: GcsServer) -> str:
    """A hash over every row of every table, and over how many writes there were."""
    digest = hashlib.sha256()
    for spec in TABLES.values():
        rows, more = await server._store.scan(spec, prefix=b"", after_key=b"", limit=1000)
        assert not more
        for row in rows:
            digest.update(b"%d %d" % (spec.number, row.version) + row.key + row.value)
    digest.update(b"%d" % server._store._shards[0].last_sequence)
    return digest.hexdigest()


def test_one_bad_write_does_not_spoil_its_batch(play: Callable[..., None]) -> None:
    async def scenario(_: GcsServer, client: AsyncGcsClient) -> None:
        outcomes = await asyncio.gather(
            client.kv_put(b"a", b"1"),
            client.kv_put(b"b", bytes(600_000)),
            client.kv_put(b"c", b"3", expected_version=7),
            client.kv_put(b"d", b"4"),
            return_exceptions=True,
        )
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [int, errors.TooLargeError, errors.ConflictError, int]
        assert await client.kv_keys() == [b"a", b"d"]

    play(scenario)


@pytest.mark.parametrize("token", ["wrong-token-wrong-token", ""])
def test_a_wrong_token_is_refused_on_every_call(play: Callable[..., None], token: str) -> None:
    async def scenario(server: GcsServer, good: AsyncGcsClient) -> None:
        stranger = AsyncGcsClient(server.address, token)
        with pytest.raises(errors.UnauthenticatedError, match="token"):
            await stranger.connect()
        # As one who skips the greeting would: with an open channel and a bad token.
        good._connection.tokens = Tokens.of(token)
        calls: list[Call] = [
            lambda c: c.kv_put(b"k", b"v"),
            lambda c: c.kv_get(b"k"),
            lambda c: c.list_nodes(),
            lambda c: c.renew_node_lease(NODE.node_id, 1),
        ]
        for call in calls:
            with pytest.raises(errors.UnauthenticatedError):
                await call(good)
        events = good.watch(NODES)
        await anext(events)  # RESYNC is the client's own; the server is asked after it.
        with pytest.raises(errors.UnauthenticatedError):
            await anext(events)

    play(scenario)
