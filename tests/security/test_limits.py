"""S22: whoever belongs to the cluster can still not use up what the others need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from rostral_gcs._proto import gcs_pb2
from rostral_gcs.auth import load_token

from .raw_calls import channel, metadata_of, outcome
from .services import Service, gcs

METHOD = "/rostral.gcs.v1.Gcs/"


@pytest.fixture(scope="module")
def small(folder: Path) -> Iterator[tuple[Service, str]]:
    """A GCS with few watches."""
    environment = {"ROSTRAL_GCS_WATCHERS_MAX": "8"}
    with gcs(folder, environment=environment) as (running, token_file):
        yield running, load_token(token_file)


def refusal(small: tuple[Service, str], name: str, message: Message) -> grpc.StatusCode:
    running, token = small
    with channel(running.address) as opened:
        return outcome(opened, METHOD + name, message.SerializeToString(), f"Bearer {token}")[0]


def write(**op: Any) -> gcs_pb2.WriteRequest:
    return gcs_pb2.WriteRequest(request_id=b"r" * 16, ops=[gcs_pb2.WriteOp(table="kv", **op)])


def test_more_watches_than_allowed_are_refused_and_the_others_go_on(
    small: tuple[Service, str],
) -> None:
    running, token = small
    request = gcs_pb2.WatchRequest(table="nodes").SerializeToString()
    metadata = metadata_of(f"Bearer {token}")
    with contextlib.ExitStack() as stack:
        codes = []
        for _ in range(20):
            opened = stack.enter_context(channel(running.address))
            watch = opened.unary_stream(METHOD + "Watch")(request, metadata=metadata, timeout=60)
            stack.callback(watch.cancel)
            with contextlib.suppress(grpc.RpcError):
                next(watch)
                codes.append(grpc.StatusCode.OK)
                continue
            codes.append(watch.code())
        assert codes == [grpc.StatusCode.OK] * 8 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 12
        scan = gcs_pb2.ScanRequest(table="nodes", limit=10)
        assert refusal(small, "Scan", scan) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Scan", gcs_pb2.ScanRequest(table="kv", limit=0)),
        ("Scan", gcs_pb2.ScanRequest(table="kv", limit=2**31)),
        ("Scan", gcs_pb2.ScanRequest(table="kv", limit=1, prefix=b"p" * 2000)),
        ("Scan", gcs_pb2.ScanRequest(table="t" * 1_000_000, limit=1)),
        ("Read", gcs_pb2.ReadRequest(table="kv", keys=[b"k"] * 20_000)),
        ("Read", gcs_pb2.ReadRequest(table="kv", keys=[b"k" * 2000])),
        ("Write", gcs_pb2.WriteRequest(request_id=b"short")),
        ("Write", write(key=b"k", value=b"v" * (65 << 20))),
    ],
)
def test_requests_over_a_limit_are_refused(
    small: tuple[Service, str], name: str, message: Message
) -> None:
    assert refusal(small, name, message) in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
    assert small[0].is_alive()
