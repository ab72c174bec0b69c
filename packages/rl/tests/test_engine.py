"""The engine behind all fronts: models, versions, swaps under load, and memory by session."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rostral_rl import forward
from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.errors import (
    InvalidSettingError,
    ModelRejectedError,
    NotServedError,
    OverloadedError,
    RequestError,
    ShapeError,
    TooLargeError,
)
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.engine import Engine, EngineConfig
from rostral_rl.serve.servable import AnyServable
from rostral_rl.serve.sessions import SessionConfig, Sessions

BOX = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def policy(action: int, version: int = 1, *, actions: int = 8) -> Policy:
    """Always takes the same action."""
    bias = np.zeros(actions, np.float32)
    bias[action] = 1.0
    return Policy(
        observation_space=BOX,
        action_space=spaces.Discrete(actions),
        spec=forward.NetSpec(
            inputs=1, hidden=(), outputs=actions, activation="tanh", head="categorical"
        ),
        weights={"pi.0.weight": np.zeros((1, actions), np.float32), "pi.0.bias": bias},
        info=PolicyInfo(version=version),
    )


@dataclasses.dataclass
class Summing:
    """Acts by the sum of all it has seen since its state was zero."""

    observation_space = BOX
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    info = PolicyInfo(version=1)
    state_width: int = 1
    gain: float = 1.0

    def step(self, batch: SpaceArray, state: FloatArray) -> tuple[SpaceArray, FloatArray]:
        after = state + batch
        return after * np.float32(self.gain), after


def run(
    models: dict[str, AnyServable],
    scenario: Callable[[Engine], Coroutine[Any, Any, None]],
    config: EngineConfig | None = None,
) -> None:
    async def main() -> None:
        engine = Engine(models, config or EngineConfig())
        try:
            await scenario(engine)
        finally:
            await engine.close()

    asyncio.run(main())


async def acted(engine: Engine, **which: Any) -> tuple[int, int]:
    """Action and version."""
    actions, version = await engine.act([0.0], **which)
    return int(actions), version


def test_models_answer_by_name_and_versions_by_number() -> None:
    async def scenario(engine: Engine) -> None:
        assert (await engine.act([0.0])).actions == 1
        assert (await engine.act([0.0], model="other")).actions == 2
        assert engine.swap(policy(3, version=9)) == 9
        assert engine.swap(policy(4, version=9)) == 10
        assert engine.swap(policy(5), version=20) == 20
        assert await acted(engine) == (5, 20)
        assert await acted(engine, version=9) == (3, 9)
        assert await acted(engine, version=10) == (4, 10)
        with pytest.raises(NotServedError, match=r"version 1 of default.*9, 10, 20"):
            await engine.act([0.0], version=1)
        with pytest.raises(NotServedError, match="default, other"):
            await engine.act([0.0], model="third")
        with pytest.raises(InvalidSettingError, match="not newer than 20"):
            engine.swap(policy(5), version=20)
        with pytest.raises(NotServedError):
            engine.swap(policy(5), model="third")

    run({"default": policy(1), "other": policy(2)}, scenario, EngineConfig(versions_max=3))


def test_weights_of_other_spaces_are_rejected_and_the_old_ones_go_on() -> None:
    async def scenario(engine: Engine) -> None:
        with pytest.raises(ModelRejectedError, match="action_space"):
            engine.swap(policy(1, actions=9))
        broken = policy(1)
        broken.weights["pi.0.weight"].shape = (8, 1)
        with pytest.raises(ModelRejectedError, match="first observation"):
            engine.swap(dataclasses.replace(broken))
        assert await acted(engine) == (1, 1)

    run({"default": policy(1)}, scenario)


def test_no_request_is_lost_and_none_mixes_weights_while_they_are_swapped() -> None:
    """32 clients ask without pause while another thread swaps 300 times; version v acts v % 8."""
    done = threading.Event()

    def swap(engine: Engine) -> None:
        for version in range(2, 302):
            assert engine.swap(policy(version % 8), version=version) == version
        done.set()

    async def scenario(engine: Engine) -> None:
        async def client() -> list[int]:
            seen = []
            while not done.is_set():
                actions, version = await engine.act([[0.0], [1.0]])
                assert actions.tolist() == [version % 8] * 2
                seen.append(version)
            return seen

        swapping = asyncio.create_task(asyncio.to_thread(swap, engine))
        clients = [asyncio.create_task(client()) for _ in range(32)]
        await swapping
        for client_task in clients:
            seen = await client_task
            assert seen == sorted(seen)
        assert await acted(engine) == (301 % 8, 301)

    run({"default": policy(1)}, scenario)


def test_a_session_remembers_until_it_is_reset_or_ended() -> None:
    async def scenario(engine: Engine) -> None:
        async def act(value: float, session: str, *, reset: bool = False) -> float:
            return float((await engine.act([value], session=session, reset=reset)).actions[0])

        assert [await act(1.0, "a"), await act(2.0, "a")] == [1.0, 3.0]
        assert await act(5.0, "b") == 5.0
        assert await act(4.0, "a") == 7.0
        assert await act(1.0, "a", reset=True) == 1.0
        assert engine.end_session("b")
        assert not engine.end_session("b")
        assert await act(1.0, "b") == 1.0
        # All at once: one after the other within a session, batched between sessions.
        sums = await asyncio.gather(*(act(1.0, f"s{i % 3}") for i in range(12)))
        assert sums == [float(i // 3 + 1) for i in range(12)]
        engine.swap(Summing(gain=10.0))
        assert await act(1.0, "a") == 20.0
        with pytest.raises(RequestError, match="names no session"):
            await engine.act([0.0])
        with pytest.raises(RequestError, match="printable"):
            await act(0.0, "")
        with pytest.raises(ShapeError, match="1 rows of state, the batch has 2"):
            await engine.act([[0.0], [0.0]], session="a")
        with pytest.raises(ModelRejectedError, match="width"):
            engine.swap(Summing(state_width=2))

    run({"default": Summing()}, scenario)


def test_sessions_are_bounded_and_expire() -> None:
    now = [0.0]
    sessions = Sessions(SessionConfig(sessions_max=2, idle_s=10.0), lambda: now[0])
    first = sessions.use("a", reset=False)
    first.state = np.ones((1, 1), np.float32)
    now[0] = 4.0
    sessions.use("b", reset=False)
    with pytest.raises(OverloadedError, match="2 sessions") as full:
        sessions.use("c", reset=False)
    assert full.value.retry_after_s == 6.0
    assert sessions.use("a", reset=False) is first
    now[0] = 14.0  # "b" was used 10 s ago, "a" too, at the same moment.
    assert sessions.use("c", reset=False).state is None
    assert len(sessions) == 1
    assert sessions.use("a", reset=False).state is None


@pytest.mark.parametrize("name", ["sessions_max", "idle_s"])
def test_session_limits_must_be_positive(name: str) -> None:
    with pytest.raises(InvalidSettingError, match=name):
        SessionConfig(**{name: 0})


def test_what_no_batch_can_hold_is_too_large() -> None:
    async def scenario(engine: Engine) -> None:
        with pytest.raises(TooLargeError, match="1025 observations, the limit is 1024"):
            await engine.act(np.zeros((1025, 1)))
        with pytest.raises(ShapeError, match="empty"):
            await engine.act(np.zeros((0, 1)))
        assert engine.problem is None
        await engine.close()
        assert engine.problem == "stopping"

    run({"default": policy(1)}, scenario)


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 65])
def test_a_model_has_a_name_that_fits_a_path(name: str) -> None:
    with pytest.raises(InvalidSettingError):
        Engine({name: policy(1)}, EngineConfig())
