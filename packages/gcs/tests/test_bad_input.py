"""One table of refusals: each is typed, says limit and remedy, and leaves the service well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from rostral_gcs import (
    NODES,
    ActorRow,
    AsyncGcsClient,
    GcsServer,
    JobRow,
    NodeReport,
    NodeRow,
    QueueReport,
    errors,
)
from rostral_gcs._proto import gcs_pb2
from rostral_gcs.ids import ActorID, FunctionID, JobID, NodeID, ObjectID

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
class Refusal:
    """A call, and how it must be refused."""

    name: str
    call: Call
    error: type[errors.GcsError]
    says: str


REFUSALS = [
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


def test_every_refusal_is_typed_prompt_and_without_effect(play: Callable[..., None]) -> None:
    async def scenario(server: GcsServer, client: AsyncGcsClient) -> None:
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
            assert server._store._shards[0].last_sequence == 0, refusal.name
        assert await client.kv_put(b"still", b"well") == 1

    play(scenario)


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
        good._connection.metadata = (("authorization", f"Bearer {token}"),)
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
