"""`rostral-rl bench`: measures what the user has, prints a line or JSON, refuses in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from gymnasium import spaces

from rostral_rl import forward, measure
from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.cli import main
from rostral_rl.errors import InvalidSettingError, UnauthenticatedError, UnavailableError
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.config import ServeConfig
from rostral_rl.serve.http import PolicyServer

QUICK = ("--seconds", "0.1")
POLICY = Policy(
    observation_space=spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 1, (2,))}),
    action_space=spaces.Discrete(2),
    spec=forward.NetSpec(inputs=5, hidden=(), outputs=2, activation="tanh", head="categorical"),
    weights={"pi.0.weight": np.ones((5, 2), np.float32), "pi.0.bias": np.zeros(2, np.float32)},
    info=PolicyInfo(version=1),
)


class Counting:
    """Acts by how often its session has asked."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    info = PolicyInfo(version=1)
    state_width = 1

    def step(self, batch: SpaceArray, state: FloatArray) -> tuple[SpaceArray, FloatArray]:
        return state + 1, state + 1


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ("bench", *arguments))


def measured(*arguments: str) -> list[dict[str, Any]]:
    result = run(*arguments, *QUICK, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_environments_and_trainings_are_measured_in_steps_a_second() -> None:
    [simulated] = measured("simulate", "CartPole-v1", "--envs", "8")
    assert simulated["steps_per_s"] > 0
    [trained] = measured("train", "ppo", "CartPole-v1", "--set", "epochs=1")
    assert trained["steps_per_s"] > 0
    assert 0 < trained["simulating"] + trained["learning"] <= 1
    assert "8 at once: " in run("simulate", "CartPole-v1", "--envs", "8", *QUICK).stdout


def test_a_policy_is_measured_by_calls(tmp_path: Path) -> None:
    POLICY.save(tmp_path)
    [called] = measured("act", str(tmp_path), "--batch", "7")
    assert called["batch"] == 7
    assert 0 < called["p50_us"] <= called["p99_us"]


@pytest.mark.slow
def test_a_folder_is_served_and_asked_by_so_many_clients(tmp_path: Path) -> None:
    POLICY.save(tmp_path)
    one, many = measured("serve", str(tmp_path), "--clients", "1", "--clients", "9")
    assert (one["clients"], many["clients"]) == (1, 9)
    assert one["requests_per_s"] > 0
    assert one["p50_ms"] <= one["p99_ms"]


def test_a_running_server_is_asked_by_session_and_with_its_token() -> None:
    with PolicyServer(Counting(), ServeConfig(port=0, token="0123456789abcdef")) as server:
        found = measure.serving(server.url, clients=3, seconds=0.1, token="0123456789abcdef")
        assert found["requests_per_s"] > 0
        assert server.engine.describe()["default"]["sessions"] == 3
        with pytest.raises(UnauthenticatedError):
            measure.serving(server.url, clients=1, seconds=0.1)
        with pytest.raises(InvalidSettingError, match="clients"):
            measure.serving(server.url, clients=0, seconds=0.1)
    with pytest.raises(UnavailableError):
        measure.serving(server.url, clients=1, seconds=0.1)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("simulate", "CartPole-v11"), 2, "did you mean CartPole-v1"),
        (("simulate", "CartPole-v1", "--envs", "0"), 2, "environments must be > 0"),
        (("simulate", "CartPole-v1", "--seconds", "0"), 2, "seconds must be > 0"),
        (("train", "pppo", "CartPole-v1"), 2, "did you mean ppo"),
        (("train", "ppo", "CartPole-v1", "--set", "gama=1"), 2, "did you mean gamma"),
        (("act", "no-such-folder"), 1, "no policy folder at no-such-folder"),
        (("serve", "no-such-folder"), 1, "no policy folder at no-such-folder"),
        (("serve", "http://127.0.0.1:1"), 1, "127.0.0.1:1"),
        (("serve", "https://127.0.0.1:1"), 2, "ca.crt"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
