"""Inputs of tasks that run here, fetched from other nodes' stores: each once, whoever needs it.

This file owns which fetches are under way, and which tasks wait for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.messages import Input
from rostral_scheduler.between.transit_memory import TransitMemory

__all__ = ["Bringing"]


class Bringing:
    """Fetches, on the running event loop.

    Args:
        transit: The node's memory.
        threads: In which fetches wait.
        failed: Called with an input that could not be had, why, and the ids of tasks that need it.
    """

    def __init__(
        self,
        transit: TransitMemory,
        threads: Executor,
        failed: Callable[[Input, RostralError, set[bytes]], None],
    ) -> None:
        self._transit, self._threads, self._failed = transit, threads, failed
        self._waiting: dict[bytes, set[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Begins nothing any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def bring(self, task_id: bytes, given: Input) -> None:
        """Has the store fetch an input. Its tasks wait for it like for any other."""
        waiting = self._waiting.setdefault(given.id, set())
        waiting.add(task_id)
        if len(waiting) == 1:
            task = asyncio.create_task(self._fetch(given))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fetch(self, given: Input) -> None:
        loop = asyncio.get_running_loop()
        fetch = self._transit.fetch
        try:
            await loop.run_in_executor(self._threads, fetch, given.id, given.holders, given.size)
        except RostralError as error:
            self._failed(given, error, self._waiting[given.id])
        finally:
            del self._waiting[given.id]
