"""Remote functions that are coroutines."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import rostral

from .cancelling import append, cancelled, lines
from .waiting import until

pytestmark = pytest.mark.usefixtures("cluster")


@rostral.remote
async def doubled(value: int) -> int:
    await asyncio.sleep(0)
    return 2 * value


def test_its_result_is_what_the_coroutine_returns() -> None:
    assert rostral.get([doubled.remote(i) for i in range(10)]) == [2 * i for i in range(10)]
    assert rostral.get(doubled.remote(doubled.remote(rostral.put(3)))) == 12
    assert rostral.get(doubled.options(name="other").remote(4)) == 8


def test_several_results() -> None:
    @rostral.remote(num_returns=3)
    async def letters() -> str:
        return "abc"

    assert rostral.get(letters.remote()) == ["a", "b", "c"]


def test_it_awaits_references() -> None:
    @rostral.remote
    async def total(count: int) -> int:
        return sum(await asyncio.gather(*(doubled.remote(i) for i in range(count))))

    assert rostral.get(total.remote(10)) == 90


def test_more_of_them_than_cpus_await_tasks_that_need_a_cpu() -> None:
    @rostral.remote
    async def parent(value: int) -> int:
        return await doubled.remote(value)

    assert rostral.get([parent.remote(i) for i in range(8)], timeout=30) == [
        2 * i for i in range(8)
    ]


def test_what_it_raises_is_raised_by_get() -> None:
    @rostral.remote
    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        rostral.get(fails.remote())


def test_what_awaits_a_failed_task_fails_with_its_error() -> None:
    @rostral.remote
    async def fails() -> None:
        raise KeyError("mine")

    @rostral.remote
    async def awaits() -> None:
        await fails.remote()

    with pytest.raises(KeyError, match="mine"):
        rostral.get(awaits.remote())


def test_a_cancelled_error_of_its_own_is_the_tasks_error() -> None:
    @rostral.remote
    async def gives_up() -> None:
        raise asyncio.CancelledError("on its own")

    with pytest.raises((rostral.exceptions.TaskError, asyncio.CancelledError), match="on its own"):
        rostral.get(gives_up.remote())


def test_it_is_tried_again_after_exceptions_that_were_named(marks: Path) -> None:
    @rostral.remote(max_retries=3, retry_exceptions=[OSError])
    async def flaky() -> int:
        append(marks, "run")
        if len(lines(marks)) < 3:
            raise OSError("not yet")
        return len(lines(marks))

    assert rostral.get(flaky.remote()) == 3


def test_it_is_tried_again_after_its_worker_died(marks: Path) -> None:
    @rostral.remote(max_retries=1)
    async def dies() -> int:
        append(marks, "run")
        if len(lines(marks)) == 1:
            os._exit(1)
        return len(lines(marks))

    assert rostral.get(dies.remote()) == 2


@rostral.remote(max_retries=5)
async def sleeper(marks: Path) -> None:
    append(marks, "began")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        append(marks, "cancelled")
        raise
    finally:
        await asyncio.sleep(0)
        append(marks, "cleaned")


def test_cancelling_one_that_runs_cancels_it_in_its_loop(marks: Path) -> None:
    ref = sleeper.remote(marks)
    until(lambda: lines(marks), "the task's beginning")
    assert rostral.cancel(ref)
    with cancelled():
        rostral.get(ref, timeout=10)
    assert lines(marks) == ["began", "cancelled", "cleaned"]


def test_one_that_takes_no_notice_is_killed(marks: Path) -> None:
    @rostral.remote(max_retries=5)
    async def deaf() -> None:
        append(marks, "began")
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                append(marks, "noticed")

    ref = deaf.remote()
    until(lambda: lines(marks), "the task's beginning")
    assert rostral.cancel(ref, grace_s=0.2)
    with cancelled():
        rostral.get(ref, timeout=10)
    assert lines(marks) == ["began", "noticed"]


def test_what_it_leaves_running_ends_with_it(marks: Path) -> None:
    @rostral.remote
    async def leaves() -> int:
        async def background() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                append(marks, "ended")

        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        return id(task)

    rostral.get(leaves.remote())
    assert lines(marks) == ["ended"]


def test_it_knows_its_own_task() -> None:
    @rostral.remote
    async def own_id() -> Any:
        await asyncio.sleep(0)
        return rostral.get_runtime_context().get_task_id()

    ref = own_id.remote()
    assert rostral.get(ref) == ref.task_id().hex()
