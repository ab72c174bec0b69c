"""What comes in on ports that speak HTTP, as bytes: a policy server's and a page of metrics."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
from typing import Any, Final

import numpy as np
import uvicorn
from google.protobuf.message import DecodeError
from gymnasium import spaces
from uvicorn.server import ServerState

from rostral.exceptions import RostralError
from rostral_gcs.services.metrics_page import MetricsPage, _Request
from rostral_rl import forward
from rostral_rl._proto import policy_pb2
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.access import Access
from rostral_rl.serve.engine import Engine, EngineConfig
from rostral_rl.serve.grpc import from_tensor
from rostral_rl.serve.http_app import PolicyApp
from rostral_rl.serve.http_protocol import PolicyProtocol

from .frame_wire import TOKEN, Wire

ANSWERED_WITHIN_S: Final = 5.0
BODY_BYTES_MAX: Final = 1 << 16
POLICY: Final = Policy(
    observation_space=spaces.Box(-np.inf, np.inf, (2,), np.float32),
    action_space=spaces.Discrete(2),
    spec=forward.NetSpec(inputs=2, hidden=(), outputs=2, activation="tanh", head="categorical"),
    weights={
        "pi.0.weight": np.array([[-1.0, 1.0], [0.0, 0.0]], np.float32),
        "pi.0.bias": np.zeros(2, np.float32),
    },
    info=PolicyInfo(algorithm="ppo", version=7),
)


class _PolicyServer:
    """A policy server without its socket."""

    def __init__(self) -> None:
        app = PolicyApp(
            Engine({"default": POLICY}, EngineConfig()),
            access=Access(TOKEN),
            hosts=("127.0.0.1",),
            body_bytes_max=BODY_BYTES_MAX,
            metrics=None,
        )
        self._config = uvicorn.Config(
            app,
            http=PolicyProtocol,
            log_config=None,
            access_log=False,
            ws="none",
            log_level="critical",
        )
        self._config.load()

    async def play(self, data: bytes) -> bytes:
        """What it answers to who sends so much and hangs up."""
        state, wire = ServerState(), Wire()
        protocol = PolicyProtocol(config=self._config, server_state=state, app_state={})
        protocol.connection_made(wire)
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            if part and not wire.is_closing():
                protocol.data_received(part)
                await asyncio.sleep(0)
        # Whole requests are answered; a body that never ends is waited for until the end below.
        answered = {task for task in state.tasks if not _wants_more(protocol)}
        if answered:
            await asyncio.wait(answered, timeout=ANSWERED_WITHIN_S)
        protocol.connection_lost(None)
        left = set(state.tasks)
        if left:
            _, unfinished = await asyncio.wait(left, timeout=ANSWERED_WITHIN_S)
            assert not unfinished, "a request outlives its client"
        return bytes(wire.written)


def _wants_more(protocol: PolicyProtocol) -> bool:
    cycle: Any = protocol.cycle  # None before the first request.
    return cycle is not None and cycle.more_body


@functools.cache
def _policy_server() -> tuple[asyncio.AbstractEventLoop, _PolicyServer]:
    return asyncio.new_event_loop(), _PolicyServer()


def policy_http(data: bytes) -> None:
    """A connection of the policy server, from its first byte."""
    loop, server = _policy_server()
    answer = loop.run_until_complete(server.play(data))
    assert b"HTTP/1.1 500" not in answer, answer


def policy_grpc(data: bytes) -> None:
    """A message of gRPC to the policy server."""
    try:
        found = from_tensor(policy_pb2.ActRequest.FromString(data).obs)
    except (DecodeError, RostralError):
        return
    assert isinstance(found, np.ndarray)


class _Nothing:
    def collect(self) -> list[Any]:
        """No metric."""
        return []


@functools.cache
def _page() -> MetricsPage:
    return MetricsPage("127.0.0.1", 0, _Nothing(), TOKEN, extra="rostral-gcs[metrics]")


class _Socket:
    """As much of a socket as a handler of requests uses."""

    def __init__(self, data: bytes) -> None:
        self._incoming = io.BytesIO(data)
        self.written = bytearray()

    def makefile(self, *_: object) -> io.BytesIO:
        return self._incoming

    def sendall(self, data: bytes) -> None:
        self.written += data

    def settimeout(self, _: float) -> None:
        """It never waits."""


def metrics_http(data: bytes) -> None:
    """A connection of a page of metrics, from its first byte."""
    with_socket: Any = _Socket(data)
    with contextlib.suppress(OSError):
        _Request(with_socket, ("127.0.0.1", 1), _page()._server)
    assert b"HTTP/1.1 500" not in with_socket.written


def http_seeds() -> dict[str, list[bytes]]:
    """By target."""
    body = b'{"obs": [0.5, 1]}'
    head = (
        b"POST /v1/act HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n"
    ) % (TOKEN.encode(), len(body))
    raw = (
        b"POST /v1/models/default/act HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/octet-stream\r\nx-tensor-dtype: float32\r\n"
        b"x-tensor-shape: 1,2\r\nx-deadline-ms: 500\r\ncontent-length: 8\r\n\r\n"
    ) % TOKEN.encode()
    request = policy_pb2.ActRequest(
        obs=policy_pb2.Tensor(dtype="float32", shape=[1, 2], data=bytes(8)), model="default"
    )
    get = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n"
    return {
        # The second of two equal heads takes the short cut.
        "policy_http": [
            2 * (head + b"\r\n" + body),
            head + b"x-session: s\r\n\r\n" + body,
            raw + bytes(8),
            b"DELETE /v1/models/default/sessions/s HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        ],
        "policy_grpc": [request.SerializeToString()],
        "metrics_http": [get % TOKEN.encode()],
    }
