"""The garbage collector of a service: full collections at its own times only."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator

import pytest

from rostral_gcs.services import collector


@contextlib.asynccontextmanager
async def running_collector() -> AsyncIterator[None]:
    task = asyncio.create_task(collector.run_collector())
    await asyncio.sleep(0)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_what_exists_is_left_out_until_the_end() -> None:
    async def scenario() -> None:
        async with running_collector():
            assert gc.get_freeze_count() > 1000
            assert gc.get_threshold() == collector.THRESHOLDS

    before = gc.get_threshold()
    asyncio.run(scenario())
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == before


def test_garbage_that_has_grown_old_is_collected_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "FULL_EVERY_S", 0.001)
    full = asyncio.Event()

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            full.set()

    async def scenario() -> None:
        async with running_collector():
            await asyncio.wait_for(full.wait(), 10)

    gc.callbacks.append(note)
    try:
        asyncio.run(scenario())
    finally:
        gc.callbacks.remove(note)
