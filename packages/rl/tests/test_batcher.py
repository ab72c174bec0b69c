"""Batching: the limit against a latency objective, and a queue that refuses instead of growing."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import DeadlineError, InvalidSettingError, OverloadedError
from rostral_rl.serve.batcher import INLINE_S_MAX, BatchConfig, Batcher, BatchLimit, Current


def test_the_limit_rises_by_one_and_backs_off_by_a_tenth() -> None:
    limit = BatchLimit(slo_s=0.01, batch_max=100)
    seen = [limit.rows]
    for _ in range(20):
        limit.record(limit.rows, latency_s=0.001, saturated=True)
        seen.append(limit.rows)
    assert seen == list(range(1, 22))
    limit.record(21, latency_s=0.02, saturated=True)
    assert limit.rows == 18
    limit.record(18, latency_s=0.02, saturated=True)
    assert limit.rows == 17


def test_the_limit_stays_between_one_and_its_bound() -> None:
    limit = BatchLimit(slo_s=0.01, batch_max=3)
    for _ in range(10):
        limit.record(limit.rows, latency_s=0.001, saturated=True)
    assert limit.rows == 3
    for _ in range(100):
        limit.record(limit.rows, latency_s=0.02 * limit.rows, saturated=True)
    assert limit.rows == 1


def test_a_batch_that_could_not_have_been_larger_does_not_raise_the_limit() -> None:
    limit = BatchLimit(slo_s=0.01, batch_max=100)
    for _ in range(5):
        limit.record(limit.rows, latency_s=0.001, saturated=True)
    limit.record(5, latency_s=0.001, saturated=False)
    assert limit.rows == 6


def test_the_limit_settles_where_latency_meets_the_objective() -> None:
    """Simulated: 1 ms and 0.1 ms a row, so that 40 rows take the 5 ms allowed."""
    limit = BatchLimit(slo_s=0.005, batch_max=1000)
    seen = []
    for _ in range(500):
        latency_s = 0.001 + 0.0001 * limit.rows
        limit.record(limit.rows, latency_s=latency_s, saturated=True)
        seen.append(limit.rows)
    assert 36 <= min(seen[100:]) <= max(seen[100:]) <= 42


def test_who_is_behind_catches_up_by_larger_batches() -> None:
    """Simulated: 7 ms and 0.01 ms a row, where 5 ms are allowed and requests queue for 50 ms."""
    limit = BatchLimit(slo_s=0.005, batch_max=200)
    for _ in range(400):
        latency_s = 0.007 + 0.00001 * limit.rows
        limit.record(limit.rows, latency_s=latency_s, saturated=True, waited_s=0.05)
    assert limit.rows == 200
    limit.record(200, latency_s=0.009, saturated=True, waited_s=0.004)
    assert limit.rows == 180


def test_one_slow_pass_does_not_move_a_fast_policy_off_the_loop_but_three_of_five_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a clock of its own, which only passes move on."""
    threads: list[int] = []
    passes_s = [0.0, 0.0, 0.01, 0.0, 0.0, 0.01, 0.01, 0.01, 0.01]
    clock = types.SimpleNamespace(now_s=0.0)
    clock.perf_counter = clock.monotonic = lambda: clock.now_s
    monkeypatch.setattr(sys.modules[Batcher.__module__], "time", clock)

    def act(obs: SpaceArray) -> SpaceArray:
        clock.now_s += passes_s[len(threads)]
        threads.append(threading.get_ident())
        return obs[:, 0]

    async def main() -> None:
        batcher = Batcher(current(act), BatchConfig())
        for _ in passes_s:
            await ask(batcher, rows(1.0))
        await batcher.close()

    asyncio.run(main())
    loop = threading.get_ident()
    assert [thread == loop for thread in threads] == [True] * 7 + [False] * 2


def test_an_idle_batcher_that_is_eager_answers_in_the_callers_own_turn() -> None:
    sizes: list[int] = []

    def act(obs: SpaceArray) -> SpaceArray:
        sizes.append(len(obs))
        return obs[:, 0]

    async def main() -> None:
        batcher = Batcher(current(act), BatchConfig(eager=True))
        asking = batcher.submit(rows(1.0))
        with pytest.raises(StopIteration) as answered:
            asking.send(None)
        assert answered.value.value.actions.tolist() == [1.0]
        assert batcher.tally.requests == 1
        batcher._pass_s = 1.0  # As after a measured slow pass.
        waiting = [asyncio.ensure_future(ask(batcher, rows(i))) for i in (2.0, 3.0)]
        assert [(await w).tolist() for w in waiting] == [[2.0], [3.0]]
        await batcher.close()

    asyncio.run(main())


def test_a_large_request_that_was_fast_is_evidence_for_its_size() -> None:
    limit = BatchLimit(slo_s=0.01, batch_max=100)
    limit.record(50, latency_s=0.001, saturated=True)
    assert limit.rows == 51


def current(act: Callable[[SpaceArray], SpaceArray]) -> Callable[[], Current]:
    """What a batcher asks for a policy without memory."""
    return lambda: Current(lambda obs, state: (act(obs), None), 0)


async def ask(batcher: Batcher, obs: SpaceArray, *, deadline_s: float | None = None) -> SpaceArray:
    return (await batcher.submit(obs, deadline_s=deadline_s)).actions


def run(scenario: Callable[[Batcher, list[int]], Any], **config: float) -> list[int]:
    """Runs a scenario with a batcher that adds one; returns the sizes of its batches."""
    sizes: list[int] = []

    def act(obs: SpaceArray) -> SpaceArray:
        sizes.append(len(obs))
        return obs[:, 0] + 1

    async def main() -> None:
        batcher = Batcher(current(act), BatchConfig(**config))  # type: ignore[arg-type]
        try:
            await scenario(batcher, sizes)
        finally:
            await batcher.close()

    asyncio.run(main())
    return sizes


def rows(*values: float) -> SpaceArray:
    return np.array(values)[:, None]


def test_a_lone_request_is_answered_at_once_and_alone() -> None:
    async def scenario(batcher: Batcher, sizes: list[int]) -> None:
        assert (await ask(batcher, rows(5.0))).tolist() == [6.0]
        assert sizes == [1]

    run(scenario)


def test_requests_of_one_moment_share_batches_up_to_the_limit_and_get_their_own_rows() -> None:
    async def scenario(batcher: Batcher, sizes: list[int]) -> None:
        for _ in range(30):
            answers = await asyncio.gather(*(ask(batcher, rows(i, i + 0.5)) for i in range(8)))
            assert [a.tolist() for a in answers] == [[i + 1, i + 1.5] for i in range(8)]

    sizes = run(scenario, slo_ms=10_000)
    assert sum(sizes) == 30 * 16
    assert sizes[0] == 2, "the first limit is one, and a request is never torn apart"
    assert max(sizes) == 16


def test_a_full_queue_refuses_at_once() -> None:
    async def scenario(batcher: Batcher, sizes: list[int]) -> None:
        waiting = [asyncio.ensure_future(ask(batcher, rows(i, i))) for i in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="limit of 4"):
            await ask(batcher, rows(1.0))
        assert [(await w).tolist() for w in waiting] == [[1, 1], [2, 2]]

    run(scenario, queue_rows_max=4)


def test_a_request_whose_deadline_has_passed_is_dropped() -> None:
    async def scenario(batcher: Batcher, sizes: list[int]) -> None:
        with pytest.raises(DeadlineError, match="deadline"):
            await ask(batcher, rows(1.0), deadline_s=-1.0)
        assert sizes == []

    run(scenario)


def test_a_request_that_was_cancelled_is_not_computed() -> None:
    async def scenario(batcher: Batcher, sizes: list[int]) -> None:
        gone = asyncio.ensure_future(ask(batcher, rows(1.0)))
        stays = asyncio.ensure_future(ask(batcher, rows(2.0)))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).tolist() == [3.0]
        assert sizes == [1]

    run(scenario)


def test_an_error_of_the_policy_reaches_its_caller_and_the_next_is_served() -> None:
    def act(obs: SpaceArray) -> SpaceArray:
        if obs[0, 0] < 0:
            raise ArithmeticError("negative")
        return obs[:, 0]

    async def main() -> None:
        batcher = Batcher(current(act), BatchConfig())
        with pytest.raises(ArithmeticError, match="negative"):
            await ask(batcher, rows(-1.0))
        assert (await ask(batcher, rows(1.0))).tolist() == [1.0]
        await batcher.close()

    asyncio.run(main())


def test_a_slow_policy_runs_off_the_loop_and_requests_gather_meanwhile() -> None:
    started, release = threading.Event(), threading.Event()
    sizes: list[int] = []

    def act(obs: SpaceArray) -> SpaceArray:
        sizes.append(len(obs))
        started.set()
        assert release.wait(10.0)
        return obs[:, 0]

    async def main() -> None:
        batcher = Batcher(current(act), BatchConfig(slo_ms=60_000))
        batcher._pass_s = 1.0  # As after a measured slow pass.
        first = asyncio.ensure_future(ask(batcher, rows(0.0)))
        await asyncio.to_thread(started.wait, 10.0)
        others = [asyncio.ensure_future(ask(batcher, rows(i))) for i in range(1, 5)]
        await asyncio.sleep(0)
        assert sizes == [1], "the loop is free while the pass runs, and nothing else starts"
        release.set()
        assert (await first).tolist() == [0.0]
        assert [(await o).tolist() for o in others] == [[1.0], [2.0], [3.0], [4.0]]
        assert sizes[1] == 2, "one more than before, for the first was fast enough"
        await batcher.close()

    asyncio.run(main())


def test_slow_passes_follow_each_other_while_the_loop_is_busy() -> None:
    third = threading.Event()
    sizes: list[int] = []

    def act(obs: SpaceArray) -> SpaceArray:
        sizes.append(len(obs))
        time.sleep(2 * INLINE_S_MAX)
        if len(sizes) == 3:
            third.set()
        return obs[:, 0]

    async def main() -> None:
        batcher = Batcher(current(act), BatchConfig(slo_ms=60_000, batch_max=1))
        batcher._pass_s = 1.0  # As after a measured slow pass.
        asking = [asyncio.ensure_future(ask(batcher, rows(i))) for i in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert third.wait(10.0), "the loop is not asked between two passes"
        assert not any(one.done() for one in asking)
        assert [(await one).tolist() for one in asking] == [[0.0], [1.0], [2.0]]
        assert (batcher.rows_waiting, batcher.tally.requests, batcher.tally.rows) == (0, 3, 3)
        await batcher.close()

    asyncio.run(main())
    assert sizes == [1, 1, 1]


def test_a_deadline_that_passes_while_a_slow_pass_runs_is_told() -> None:
    started, release = threading.Event(), threading.Event()

    def act(obs: SpaceArray) -> SpaceArray:
        started.set()
        assert release.wait(10.0)
        return obs[:, 0]

    async def main() -> None:
        batcher = Batcher(current(act), BatchConfig(slo_ms=60_000))
        batcher._pass_s = 1.0  # As after a measured slow pass.
        first = asyncio.ensure_future(ask(batcher, rows(0.0)))
        await asyncio.to_thread(started.wait, 10.0)
        late = asyncio.ensure_future(ask(batcher, rows(1.0), deadline_s=0.0))
        last = asyncio.ensure_future(ask(batcher, rows(2.0)))
        await asyncio.sleep(0)
        release.set()
        assert (await first).tolist() == [0.0]
        with pytest.raises(DeadlineError):
            await late
        assert (await last).tolist() == [2.0]
        assert (batcher.tally.late, batcher.tally.requests, batcher.rows_waiting) == (1, 2, 0)
        await batcher.close()

    asyncio.run(main())


@pytest.mark.parametrize("name", ["slo_ms", "batch_max", "queue_rows_max", "deadline_ms"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(InvalidSettingError, match=name):
        BatchConfig(**{name: 0})  # type: ignore[arg-type]
