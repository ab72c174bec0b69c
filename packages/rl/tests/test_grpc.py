"""The gRPC front on a real socket: the same answers, refusals by code, the same engine as HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl._proto import policy_pb2, policy_pb2_grpc
from rostral_rl.errors import InvalidSettingError, PortUnavailableError
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.batcher import BatchConfig
from rostral_rl.serve.config import ServeConfig
from rostral_rl.serve.engine import EngineConfig
from rostral_rl.serve.grpc import from_tensor, to_tensor
from rostral_rl.serve.http import PolicyServer

# Takes actions 0 or 1 by the sign of the first of two numbers.
POLICY = Policy(
    observation_space=spaces.Box(-np.inf, np.inf, (2,), np.float32),
    action_space=spaces.Discrete(2),
    spec=forward.NetSpec(inputs=2, hidden=(), outputs=2, activation="tanh", head="categorical"),
    weights={
        "pi.0.weight": np.array([[-1.0, 1.0], [0.0, 0.0]], np.float32),
        "pi.0.bias": np.zeros(2, np.float32),
    },
    info=PolicyInfo(version=7),
)
TOKEN = "a token of the tests"


@pytest.fixture(scope="module")
def server() -> Iterator[PolicyServer]:
    config = ServeConfig(
        port=0,
        grpc_port=0,
        token=TOKEN,
        engine=EngineConfig(batch=BatchConfig(queue_rows_max=64, batch_max=128)),
    )
    with PolicyServer(POLICY, config) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: PolicyServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


# Generated, and untyped.
PolicyStub: Any = policy_pb2_grpc.PolicyStub


def act(channel: grpc.Channel, obs: Any, *, token: str = TOKEN, **more: Any) -> Any:
    stub = PolicyStub(channel)
    tensor = obs if isinstance(obs, policy_pb2.Tensor) else to_tensor(np.asarray(obs, np.float32))
    metadata = (("authorization", f"Bearer {token}"),)
    return stub.Act(policy_pb2.ActRequest(obs=tensor, **more), timeout=10.0, metadata=metadata)


def test_one_observation_and_a_batch_are_answered(channel: grpc.Channel) -> None:
    reply = act(channel, [3.0, 0.0])
    assert (from_tensor(reply.action), reply.version) == (1, 7)
    assert from_tensor(act(channel, [[3.0, 0.0], [-3.0, 0.0]]).action).tolist() == [1, 0]
    assert act(channel, [3.0, 0.0], version=7, model="default").version == 7


def test_http_and_grpc_share_an_engine(server: PolicyServer, channel: grpc.Channel) -> None:
    with rl.PolicyClient(server.url, token=TOKEN) as client:
        before = client.policy()["observations"]
        act(channel, [3.0, 0.0])
        client.act([3.0, 0.0])
        assert client.policy()["observations"] == before + 2


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        ({"obs": [1.0, 2.0, 3.0]}, "INVALID_ARGUMENT", "INVALID_OBSERVATION"),
        ({"obs": [np.nan, 2.0]}, "INVALID_ARGUMENT", "INVALID_OBSERVATION"),
        (
            {"obs": policy_pb2.Tensor(dtype="object", shape=[1], data=b"12345678")},
            "INVALID_ARGUMENT",
            "INVALID_OBSERVATION",
        ),
        (
            {"obs": policy_pb2.Tensor(dtype="float32", shape=[2**31, 2**31], data=b"1234")},
            "INVALID_ARGUMENT",
            "INVALID_OBSERVATION",
        ),
        ({"obs": np.zeros((129, 2))}, "INVALID_ARGUMENT", "TOO_LARGE"),
        ({"obs": np.zeros((100, 2))}, "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"),
        ({"obs": [3.0, 0.0], "model": "other"}, "NOT_FOUND", "NOT_FOUND"),
        ({"obs": [3.0, 0.0], "version": 6}, "NOT_FOUND", "NOT_FOUND"),
        ({"obs": [3.0, 0.0], "token": "wrong"}, "UNAUTHENTICATED", "UNAUTHENTICATED"),
    ],
)
def test_refusals_have_status_and_code(
    channel: grpc.Channel, call: dict[str, Any], status: str, code: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        act(channel, **call)
    said: Any = refused.value.trailing_metadata()
    trailing = dict(said)
    assert (refused.value.code().name, trailing["rostral-code"]) == (status, code)
    assert refused.value.details()
    assert ("retry-after-s" in trailing) == (code == "RESOURCE_EXHAUSTED")
    assert act(channel, [3.0, 0.0]).version == 7


def test_a_session_that_is_not_there_cannot_be_ended(channel: grpc.Channel) -> None:
    stub = PolicyStub(channel)
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    with pytest.raises(grpc.RpcError) as refused:
        stub.EndSession(policy_pb2.EndSessionRequest(session="a"), timeout=10.0, metadata=metadata)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_port_in_use_is_a_typed_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnavailableError, match=f"127.0.0.1:{port}"):
            rl.serve(POLICY, http=0, grpc=port)
    with pytest.raises(InvalidSettingError, match="grpc_port"):
        rl.serve(POLICY, http=0, grpc=70_000)
