"""A policy server at a port that another process holds, as a service manager does."""

from __future__ import annotations

import socket
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from rostral.services import ConfigError
from rostral_rl import forward
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.config import ServeConfig
from rostral_rl.serve.http import PolicyServer

POLICY = Policy(
    observation_space=spaces.Box(-np.inf, np.inf, (2,), np.float32),
    action_space=spaces.Discrete(2),
    spec=forward.NetSpec(inputs=2, hidden=(), outputs=2, activation="tanh", head="categorical"),
    weights={"pi.0.weight": np.eye(2, dtype=np.float32), "pi.0.bias": np.zeros(2, np.float32)},
    info=PolicyInfo(version=7),
)
REQUEST = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"


def test_who_asks_between_two_servers_is_answered_by_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        config = ServeConfig(port=held.getsockname()[1])
        for _ in range(2):
            with socket.create_connection(held.getsockname(), timeout=30) as waiting:
                waiting.sendall(REQUEST)
                with PolicyServer(POLICY, config, listener=held.dup()) as server:
                    assert server.port == config.port
                    assert waiting.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_a_port_that_is_not_that_of_the_settings_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        config = ServeConfig(port=held.getsockname()[1])
        for other in (replace(config, port=1), replace(config, host="::1")):
            with pytest.raises(ConfigError, match="the socket unit listens at 127"):
                PolicyServer(POLICY, other, listener=held)
