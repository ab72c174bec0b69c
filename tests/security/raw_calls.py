"""gRPC calls as anybody can make them: any method, any bytes, any header."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc

TIMEOUT_S = 20.0
# So that it is the server that finds a message too large.
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@contextlib.contextmanager
def channel(address: str) -> Iterator[Any]:
    """A channel. Not typed: what goes over it need not fit anything."""
    with grpc.insecure_channel(address, options=_OPTIONS) as opened:
        yield opened


def metadata_of(header: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of a call that shows the header; None: none."""
    return () if header is None else (("authorization", header),)


def outcome(
    opened: Any, method: str, body: bytes, header: str | None, *, timeout_s: float = TIMEOUT_S
) -> tuple[grpc.StatusCode, str]:
    """How a call ends: its status, and the text that came with it."""
    stub = opened.stream_stream(method)
    call: Any = stub(iter([body]), metadata=metadata_of(header), timeout=timeout_s)
    with contextlib.suppress(grpc.RpcError):
        list(call)
    return call.code(), call.details() or ""
