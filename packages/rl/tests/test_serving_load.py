"""The policy server under load over HTTP: swaps, sessions, full queues, deadlines, and SIGTERM."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.errors import DeadlineError, OverloadedError, UnavailableError
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.batcher import BatchConfig
from rostral_rl.serve.config import ServeConfig
from rostral_rl.serve.engine import EngineConfig
from rostral_rl.serve.http import PolicyServer

BOX = spaces.Box(-np.inf, np.inf, (1,), np.float32)
OBS = np.zeros(1, np.float32)


def policy(version: int) -> Policy:
    """Version v always takes action v % 8."""
    bias = np.zeros(8, np.float32)
    bias[version % 8] = 1.0
    return Policy(
        observation_space=BOX,
        action_space=spaces.Discrete(8),
        spec=forward.NetSpec(inputs=1, hidden=(), outputs=8, activation="tanh", head="categorical"),
        weights={"pi.0.weight": np.zeros((1, 8), np.float32), "pi.0.bias": bias},
        info=PolicyInfo(version=version),
    )


class Summing:
    """Acts by the sum of all that its session has seen, and by its own sign."""

    observation_space = BOX
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    state_width = 1

    def __init__(self, version: int) -> None:
        self.info = PolicyInfo(version=version)

    def step(self, batch: SpaceArray, state: FloatArray) -> tuple[SpaceArray, FloatArray]:
        after = np.asarray(state + batch, np.float32)
        return after * (-1) ** self.info.version, after


class Slow:
    """Takes 10 ms a pass."""

    observation_space = BOX
    action_space = spaces.Discrete(2)
    info = PolicyInfo(version=1)

    def act(self, batch: SpaceArray) -> SpaceArray:
        time.sleep(0.01)
        return np.zeros(len(batch), np.int64)


def together(count: int, play: Callable[[int], None]) -> list[threading.Thread]:
    """Starts so many threads."""
    threads = [threading.Thread(target=play, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.slow
def test_no_request_is_lost_and_none_answered_by_two_versions_while_weights_are_swapped() -> None:
    """Eight clients ask without pause while 100 versions go by, in JSON and as raw tensors."""
    wrong: list[object] = []
    answered: Counter[int] = Counter()
    done = threading.Event()

    with PolicyServer(policy(1), ServeConfig(port=0)) as server:

        def play(number: int) -> None:
            seen = 0
            with rl.PolicyClient(server.url) as client:
                while not done.is_set():
                    try:
                        actions = client.act(np.zeros((1 + number % 3, 1), np.float32))
                    except Exception as error:
                        wrong.append(error)
                        return
                    if set(actions.tolist()) != {client.version % 8} or client.version < seen:
                        wrong.append((actions, client.version, seen))
                    seen = client.version
                    answered[number] += 1

        threads = together(8, play)
        for version in range(2, 102):
            assert server.swap(policy(version)) == version
            enough = sum(answered.values()) + 8
            while sum(answered.values()) < enough and not wrong:
                time.sleep(0.001)  # Every version is asked.
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        [tally] = [tally for _, tally, _, _ in server.engine.tallies().values()]
        assert tally.requests == sum(answered.values())
        assert (tally.failed, tally.refused, tally.late) == (0, 0, 0)


@pytest.mark.slow
def test_sessions_keep_their_memory_while_others_ask_and_weights_are_swapped() -> None:
    wrong: list[object] = []
    done = threading.Event()
    with PolicyServer(Summing(1), ServeConfig(port=0)) as server:

        def play(number: int) -> None:
            with rl.PolicyClient(server.url) as client:
                total, step = 0.0, 0
                while not done.is_set():
                    reset = step % 50 == 0
                    total = number + (0.0 if reset else total)
                    got = client.act([float(number)], session=f"s{number}", reset=reset)
                    if got.tolist() != [total * (-1) ** client.version]:
                        wrong.append((number, got, total, client.version))
                    step += 1
                steps.append(step)

        steps: list[int] = []
        threads = together(6, play)
        for version in range(2, 40):
            server.swap(Summing(version))
            time.sleep(0.005)
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert min(steps) > 1
        assert server.engine.describe()["default"]["sessions"] == 6


@pytest.mark.slow
def test_past_its_limits_a_server_refuses_at_once_and_what_it_takes_it_answers() -> None:
    """Thirty clients of a policy that can serve four at a time, half of them in a hurry."""
    counts: Counter[str] = Counter()
    refused_s: list[float] = []
    lock = threading.Lock()
    batch = BatchConfig(slo_ms=10_000.0, batch_max=4, queue_rows_max=12)
    with PolicyServer(Slow(), ServeConfig(port=0, engine=EngineConfig(batch=batch))) as server:

        def play(number: int) -> None:
            with rl.PolicyClient(server.url) as client:
                for _ in range(10):
                    start_s = time.monotonic()
                    outcome = "answered"
                    try:
                        client.act(OBS, deadline_ms=15.0 if number % 2 else None)
                    except OverloadedError as error:
                        assert 0.0 < error.retry_after_s < 5.0
                        outcome = "refused"
                    except DeadlineError:
                        outcome = "late"
                    with lock:
                        counts[outcome] += 1
                        if outcome == "refused":
                            refused_s.append(time.monotonic() - start_s)

        for thread in together(30, play):
            thread.join()
        [tally] = [tally for _, tally, _, _ in server.engine.tallies().values()]
    assert sum(counts.values()) == 300
    assert (tally.requests, tally.refused, tally.late) == (
        *(counts["answered"], counts["refused"], counts["late"]),
    )
    assert min(counts["answered"], counts["refused"], counts["late"]) > 0


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_answers_every_request_that_reached_it(
    tmp_path: Path,
) -> None:
    """Twelve clients ask a process without pause; after SIGTERM each gets its last answer."""
    policy(3).save(tmp_path)
    lost: list[object] = []
    answered: Counter[int] = Counter()
    command = [sys.executable, "-m", "rostral_rl", "serve", str(tmp_path), "--http", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip().rpartition(" ")[2]
            address = url.removeprefix("http://")

            def play(number: int) -> None:
                connection = http.client.HTTPConnection(address, timeout=20)
                headers = {"content-type": "application/json"}
                if number % 3 == 0:
                    headers["x-session"] = "any"  # Not by the short cut.
                try:
                    while True:
                        connection.request("POST", "/v1/act", b'{"obs": [0.0]}', headers)
                        response = connection.getresponse()
                        if b'"action":3' not in response.read():
                            lost.append((number, response.status))
                        answered[number] += 1
                        if response.headers["connection"] == "close":
                            return
                except (http.client.HTTPException, OSError) as error:
                    lost.append((number, error))
                finally:
                    connection.close()

            threads = together(12, play)
            while len(answered) < 12 and not lost:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join(30.0)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert lost == []
    with pytest.raises(UnavailableError), rl.PolicyClient(url) as client:
        client.act(OBS)
