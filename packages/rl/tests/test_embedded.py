"""Policies in an actor: asked by drivers and tasks, swapped meanwhile, and killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

import rostral
from rostral_rl import forward
from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import (
    ModelRejectedError,
    NotServedError,
    PolicyNotFoundError,
    ShapeError,
    UnavailableError,
)
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.batcher import BatchConfig
from rostral_rl.serve.embedded import EmbeddedPolicy, embed, packed, unpacked
from rostral_rl.serve.engine import EngineConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with rostral.init("local", num_cpus=2):
        yield


def policy(action: int, version: int = 1, *, inputs: int = 4) -> Policy:
    """Always takes the same of eight actions."""
    bias = np.zeros(8, np.float32)
    bias[action] = 1.0
    return Policy(
        observation_space=spaces.Box(-np.inf, np.inf, (inputs,), np.float32),
        action_space=spaces.Discrete(8),
        spec=forward.NetSpec(
            inputs=inputs, hidden=(), outputs=8, activation="tanh", head="categorical"
        ),
        weights={"pi.0.weight": np.zeros((inputs, 8), np.float32), "pi.0.bias": bias},
        info=PolicyInfo(version=version),
    )


class Slow:
    """Takes 5 ms a pass; acts by the size of its batch."""

    observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = spaces.Discrete(1_000)
    info = PolicyInfo(version=1)

    def act(self, batch: SpaceArray) -> SpaceArray:
        time.sleep(0.005)
        return np.full(len(batch), len(batch), np.int64)


@pytest.fixture
def served() -> Iterator[EmbeddedPolicy]:
    embedded = embed({"default": policy(1), "other": policy(2)})
    yield embedded
    embedded.close()


def test_driver_and_tasks_ask_one_actor(served: EmbeddedPolicy) -> None:
    @rostral.remote
    def ask(policy: EmbeddedPolicy) -> int:
        return int(policy.act(np.zeros(4), model="other"))

    assert served.act(np.zeros(4)) == 1
    assert served.act(np.zeros((3, 4), np.float32)).tolist() == [1, 1, 1]
    assert rostral.get([ask.remote(served) for _ in range(4)]) == [2] * 4
    assert served.describe()["other"]["observations"] == 4


def test_observations_of_every_form_arrive_as_they_were(served: EmbeddedPolicy) -> None:
    for obs in ([0.0] * 4, np.zeros(4), np.zeros((300, 4), np.float32), np.zeros(8)[::2]):
        assert np.all(served.act(obs) == 1)
    space = spaces.Dict({"n": spaces.Discrete(2), "x": spaces.Box(-1, 1, (2,), np.float32)})
    nested = replace(policy(3), observation_space=space)
    apart = replace(nested, observation_space=spaces.Tuple(space.spaces.values()))
    both = embed({"default": nested, "apart": apart})
    assert both.act({"n": 1, "x": np.zeros(2)}) == 3
    assert both.act((1, np.zeros(2)), model="apart") == 3
    both.close()
    with pytest.raises(ShapeError):
        served.act([[0.0] * 4, ["x"] * 4])


@pytest.mark.parametrize(
    "array",
    [
        np.float32(1.5),
        np.arange(6, dtype=np.float64).reshape(2, 3).T,
        np.zeros((0, 4), np.float32),
        np.array([True, False]),
        np.arange(3, dtype=np.uint8),
        np.arange(3, dtype=">i4"),
        np.array(["up", "down"]),
        np.zeros(400, np.float32),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_arrays_travel_as_they_are(array: SpaceArray) -> None:
    array = np.asarray(array)
    found, number = unpacked(packed(array, -7))
    assert number == -7
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


def test_who_asks_a_slow_policy_meanwhile_shares_its_next_batch() -> None:
    """The actor goes on taking requests while a pass runs; those share the one after it."""
    limits = EngineConfig(batch=BatchConfig(slo_ms=1_000.0, eager=True))
    slow = embed(Slow(), config=limits)
    obs = np.zeros(4, np.float32)
    sizes: list[int] = []
    for _ in range(10):
        pending = [slow.submit(obs) for _ in range(8)]
        sizes += [int(p.reply(20.0).actions) for p in pending]
    assert max(sizes) > 1
    slow.close()


def test_refusals_are_the_engines(served: EmbeddedPolicy) -> None:
    with pytest.raises(ShapeError, match="expected shape"):
        served.act(np.zeros(3))
    with pytest.raises(NotServedError, match="version 9"):
        served.act(np.zeros(4), version=9)
    with pytest.raises(ModelRejectedError, match="observation_space"):
        served.swap(policy(1, inputs=5))
    with pytest.raises(PolicyNotFoundError):
        embed("no-such-folder")


def test_no_request_is_lost_while_weights_are_swapped(served: EmbeddedPolicy) -> None:
    """Version v acts v % 8; two threads ask while 50 versions go by."""
    done = threading.Event()
    wrong: list[object] = []
    counts = []

    def ask() -> None:
        seen = [1]
        while not done.is_set():
            reply = served.submit(np.zeros(4, np.float32)).reply(10.0)
            if reply.actions != reply.version % 8 or reply.version < seen[-1]:
                wrong.append(reply)
            seen.append(reply.version)
        counts.append(len(seen))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in range(2, 52):
        assert served.swap(policy(version % 8, version)) == version
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(counts) == 2
    assert served.submit(np.zeros(4)).reply().version == 51


def test_a_killed_actor_is_unavailable_and_comes_back_with_its_first_weights(
    served: EmbeddedPolicy,
) -> None:
    served.swap(policy(3, 3))
    pid = rostral.get(served._actor.__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 20.0
    while True:  # Calls fail until the next process is there.
        try:
            assert served.act(np.zeros(4)) in (1, 3)
            if served.submit(np.zeros(4)).reply().version == 1:
                break
        except UnavailableError:
            assert time.monotonic() < until
    assert served.act(np.zeros(4)) == 1
    served.close()
    with pytest.raises(UnavailableError):
        served.act(np.zeros(4))
