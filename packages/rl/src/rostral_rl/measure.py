"""How fast this machine simulates, trains, acts and serves: what `rostral-rl bench` prints.

Everything is measured as a user has it, with the user's environment or policy, for some seconds of
wall-clock time. Nothing is compared with anything: that is what the benchmarks of the repository
are for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from rostral_rl import spaces
from rostral_rl.errors import InvalidSettingError, ServerError
from rostral_rl.serve.front import load
from rostral_rl.serve.load import Load, percentile

__all__ = ["Row", "acting", "serving", "simulation", "training"]

Row = dict[str, Any]
"""One measured line: plain values by name."""
STEPS_MAX = 10**12
"""A training that is only measured never comes to its end."""


def simulation(env: str, *, envs: int, seconds: float) -> Row:
    """Steps a second of environments in this process that take random actions.

    Args:
        env: Gymnasium id.
        envs: How many at once.
        seconds: For how long.

    Raises:
        UnknownNameError: No such id.
        InvalidSettingError: No environment, or no time.
        SimulationError: The environment failed.
    """
    from rostral_rl.simulate import Slab, make_vector

    _check_seconds(seconds)
    vector = make_vector(env, envs, seed=0)
    try:
        slab = Slab.allocate(
            16,
            envs,
            observation_space=vector.observation_space,
            action_space=vector.action_space,
        )
        vector.action_space.seed(0)
        for t in range(16):
            for b in range(envs):
                slab.actions[t, b] = vector.action_space.sample()
        vector.reset(slab.obs[0])
        start_s, steps = time.perf_counter(), 0
        while (now_s := time.perf_counter()) < start_s + seconds:
            for t in range(16):
                vector.step(slab, t)
            steps += 16 * envs
    finally:
        vector.close()
    return {"env": env, "envs": envs, "steps_per_s": steps / (now_s - start_s)}


def training(
    algorithm: str, env: str, settings: Mapping[str, object], *, workers: int, seconds: float
) -> Row:
    """Steps a second while learning, after the first update, and where the time goes.

    Args:
        algorithm: "ppo", ...
        env: Gymnasium id.
        settings: They win over the preset.
        workers: Rollout actors; 0 simulates in this process.
        seconds: For how long; one update at least.

    Raises:
        RLError: What `rl.train` raises.
    """
    from rostral_rl.train.algorithms import settings_for

    _check_seconds(seconds)
    chosen = settings_for(algorithm, env, settings)
    row: Row = {"algorithm": algorithm, "env": env, "workers": workers}
    start_s, first_steps = 0.0, 0
    with chosen.build(env, total_steps=STEPS_MAX, seed=0, workers=workers) as trainer:
        for iteration in trainer:
            now_s = time.perf_counter()
            if not start_s:
                start_s, first_steps = now_s, iteration.env_steps
            elif now_s >= start_s + seconds:
                row["steps_per_s"] = (iteration.env_steps - first_steps) / (now_s - start_s)
                row["simulating"] = iteration.metrics["simulate_share"]
                row["learning"] = iteration.metrics["learn_share"]
                break
    return row


def acting(policy: Any, *, batch: int, seconds: float) -> Row:
    """Latency of a policy that is called in this process.

    Args:
        policy: As `rl.load` returns it.
        batch: Observations in a call; random ones of its space.
        seconds: For how long.

    Raises:
        InvalidSettingError: No observation, or no time.
    """
    _check_seconds(seconds)
    if batch < 1:
        raise InvalidSettingError(f"batch must be >= 1, got {batch}")
    obs = _observations(policy.observation_space, batch)
    latencies_s = []
    until_s = time.perf_counter() + seconds
    while (start_s := time.perf_counter()) < until_s:
        policy(obs)
        latencies_s.append(time.perf_counter() - start_s)
    latencies_s.sort()
    return {
        "batch": batch,
        "p50_us": percentile(latencies_s, 0.5) * 1e6,
        "p99_us": percentile(latencies_s, 0.99) * 1e6,
        "observations_per_s": batch * len(latencies_s) / sum(latencies_s),
    }


def serving(url: str, *, clients: int, seconds: float, token: str | None = None) -> Row:
    """Requests a second, and their latency, of a server that clients ask without pause.

    Each has one connection, and asks for the action of one observation, as a raw tensor.

    Args:
        url: Of a running policy server.
        clients: How many.
        seconds: For how long.
        token: Where the server wants one.

    Raises:
        UnavailableError: Nobody answers there.
        UnauthenticatedError: The token is missing or wrong.
        InvalidSettingError: No client, or no time.
        ServerError: It refused requests; the first refusal is in the text.
    """
    from rostral_rl.serve.client import PolicyClient

    _check_seconds(seconds)
    if clients < 1:
        raise InvalidSettingError(f"clients must be >= 1, got {clients}")
    with PolicyClient(url, token=token) as client:
        described = client.policy()
    space = spaces.from_json(described["observation_space"])
    sessions = clients if described["recurrent"] else 0
    requests = [_request(url, space, token, i if sessions else None) for i in range(sessions or 1)]
    load = Load(requests)
    parts = urlsplit(url)
    asyncio.run(load.run(parts.hostname or "", parts.port or 80, clients=clients, seconds=seconds))
    found = load.summary(seconds)
    if found["failed"] or not found["requests"]:
        raise ServerError(
            f"{found['failed']} of {found['failed'] + found['requests']} requests were refused: "
            f"{found['first_failure'].splitlines()[0] if found['first_failure'] else 'no answer'}"
        )
    return {
        "clients": clients,
        "requests_per_s": found["requests"] / seconds,
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
    }


@contextlib.contextmanager
def server_of(folder: Path) -> Iterator[str]:
    """The URL of a server of that policy, in a process of its own.

    Raises:
        PolicyNotFoundError, ModelRejectedError: As for `rl.serve`.
        ServerError: It did not start; says why.
    """
    load(folder)  # Its errors are better raised here than told by another process.
    command = [sys.executable, "-m", "rostral_rl", "serve", os.fspath(folder), "--http", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()  # Ends with the process, where that fails.
            if not line:
                said = process.stderr.read().strip()
                raise ServerError(said.removeprefix("rostral-rl: ") or "the server did not start")
            yield line.strip().rpartition(" ")[2]
        finally:
            process.terminate()


def _request(url: str, space: spaces.Space, token: str | None, session: int | None) -> bytes:
    from rostral_rl.serve import wire

    body, headers = wire.encode_raw(_observations(space, 1)[0])
    headers |= {"host": urlsplit(url).netloc, "content-length": str(len(body))}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    if session is not None:
        headers[wire.SESSION_HEADER] = f"bench-{session}"
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(("POST /v1/act HTTP/1.1", *lines, "", "")).encode() + body


def _observations(space: spaces.Space, count: int) -> Any:
    """So many observations, as a policy stores them; always the same ones."""
    stored = spaces.stored(space)
    stored.seed(0)
    return np.stack([np.asarray(stored.sample(), stored.dtype) for _ in range(count)])


def _check_seconds(seconds: float) -> None:
    if not 0.0 < seconds < float("inf"):
        raise InvalidSettingError(f"seconds must be > 0, got {seconds:g}")
