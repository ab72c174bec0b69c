"""Dynamic batching: how many requests may share one forward pass, and the queue in front of it.

`BatchLimit` is the policy, pure: Clipper's additive increase, multiplicative decrease (NSDI'17
section 4.3), which found it as good as quantile regression and simpler. `Batcher` is the shell, for
one event loop. A lone request never waits: batches form from what has arrived while the last one
ran, or within one turn of the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rostral_rl.arrays import SpaceArray
from rostral_rl.errors import DeadlineError, InvalidSettingError, OverloadedError

BACK_OFF = 0.9
"""Small, because the best size moves little; Clipper's figure."""
INLINE_S_MAX = 1e-3
"""Passes faster than this run on the event loop: the way to a thread and back costs as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Limits of one batcher.

    Attributes:
        slo_ms: Latency objective of a forward pass in milliseconds; drives the batch limit.
        batch_max: Rows in a batch, at most, whatever the objective would allow. Bounds memory.
        queue_rows_max: Rows waiting, at most; a request beyond is refused at once and not late.
        deadline_ms: A request that waited longer is dropped unanswered: its client has given up.
    """

    slo_ms: float = 5.0
    batch_max: int = 1024
    queue_rows_max: int = 8192
    deadline_ms: float = 1000.0

    def __post_init__(self) -> None:
        for name in ("slo_ms", "batch_max", "queue_rows_max", "deadline_ms"):
            if not getattr(self, name) > 0:
                raise InvalidSettingError(f"{name} must be > 0, got {getattr(self, name)!r}")


class BatchLimit:
    """The batch size that the latency objective allows just now.

    Invariant: 1 <= `rows` <= `batch_max`.

    Args:
        slo_s: Objective in seconds.
        batch_max: Upper bound.
    """

    def __init__(self, *, slo_s: float, batch_max: int) -> None:
        self._slo_s = slo_s
        self._batch_max = batch_max
        self._limit = 1.0

    @property
    def rows(self) -> int:
        """Rows that the next batch may have."""
        return int(self._limit)

    def record(self, rows: int, *, latency_s: float, saturated: bool) -> None:
        """Learns from one batch.

        Args:
            rows: Its size; more than the limit where a single request was larger.
            latency_s: Seconds its forward pass took.
            saturated: Whether the limit kept it from being larger. A batch that was small because
                nobody else asked says nothing about larger ones, and does not raise the limit.
        """
        if latency_s > self._slo_s:
            self._limit = max(1.0, self._limit * BACK_OFF)
        elif saturated:
            self._limit = min(float(self._batch_max), max(self._limit, float(rows)) + 1.0)


@dataclass(frozen=True, slots=True)
class _Request:
    obs: SpaceArray
    deadline_s: float
    reply: asyncio.Future[SpaceArray]


class Batcher:
    """Collects requests of one event loop into batches.

    Not thread-safe; call `close` on the loop at the end.

    Args:
        act: Maps (N, *obs_shape) to (N, *action_shape); called on the loop, or in one thread where
            it is slow.
        config: Limits.
    """

    def __init__(self, act: Callable[[SpaceArray], SpaceArray], config: BatchConfig) -> None:
        self._act = act
        self._config = config
        self._limit = BatchLimit(slo_s=config.slo_ms / 1e3, batch_max=config.batch_max)
        self._waiting: deque[_Request] = deque()
        self._rows = 0
        self._scheduled = False
        self._pass_s = 0.0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rostral-rl-act")
        self._running: asyncio.Task[None] | None = None
        self.batches = 0
        self.rows_served = 0

    @property
    def limit_rows(self) -> int:
        """The batch limit just now."""
        return self._limit.rows

    async def submit(self, obs: SpaceArray, *, deadline_s: float | None = None) -> SpaceArray:
        """Acts on a batch of observations, together with whoever else asks.

        Args:
            obs: (N, *obs_shape), known to fit.
            deadline_s: Seconds from now after which nobody waits any more; the configured one by
                default.

        Raises:
            OverloadedError: The queue is full.
            DeadlineError: The deadline passed before the request's turn came.
        """
        if self._rows + len(obs) > self._config.queue_rows_max:
            raise OverloadedError(
                f"{self._rows} observations are waiting, {len(obs)} more would pass the limit of "
                f"{self._config.queue_rows_max}",
                hint="send again after a pause",
            )
        loop = asyncio.get_running_loop()
        wait_s = self._config.deadline_ms / 1e3 if deadline_s is None else deadline_s
        request = _Request(obs, loop.time() + wait_s, loop.create_future())
        self._waiting.append(request)
        self._rows += len(obs)
        self._schedule()
        return await request.reply

    async def close(self) -> None:
        """Answers what is waiting, then stops."""
        while self._waiting or self._running is not None:
            if self._running is not None:
                await asyncio.wait([self._running])
            else:
                await asyncio.sleep(0)
        self._thread.shutdown()

    def _schedule(self) -> None:
        # One turn later, so that all requests that this turn reads from sockets share the batch.
        if not self._scheduled and self._running is None and self._waiting:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        batch = self._take()
        if not batch:
            self._schedule()
            return
        if self._pass_s <= INLINE_S_MAX:
            try:
                actions = self._measured(batch)
            except Exception as error:
                _fail(batch, error)
            else:
                _answer(batch, actions)
            self._schedule()
            return
        self._running = asyncio.get_running_loop().create_task(self._run_in_thread(batch))

    async def _run_in_thread(self, batch: list[_Request]) -> None:
        try:
            actions = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._measured, batch
            )
        except Exception as error:
            _fail(batch, error)
        else:
            _answer(batch, actions)
        finally:
            self._running = None
            self._schedule()

    def _take(self) -> list[_Request]:
        """Takes whole requests up to the limit; one that is larger than the limit goes alone."""
        now = asyncio.get_running_loop().time()
        batch: list[_Request] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0].obs) <= self._limit.rows):
            request = self._waiting.popleft()
            self._rows -= len(request.obs)
            if request.reply.cancelled():  # The client has gone.
                continue
            if now > request.deadline_s:
                request.reply.set_exception(
                    DeadlineError("the request's deadline passed while it waited")
                )
                continue
            batch.append(request)
            rows += len(request.obs)
        return batch

    def _measured(self, batch: list[_Request]) -> SpaceArray:
        obs = batch[0].obs if len(batch) == 1 else np.concatenate([r.obs for r in batch])
        start = time.perf_counter()
        actions = self._act(obs)
        took_s = time.perf_counter() - start
        # Smoothed, so that one preemption does not move a fast policy to the thread.
        self._pass_s += 0.1 * (took_s - self._pass_s)
        saturated = len(obs) >= self._limit.rows or bool(self._waiting)
        self._limit.record(len(obs), latency_s=took_s, saturated=saturated)
        self.batches += 1
        self.rows_served += len(obs)
        return actions


def _answer(batch: list[_Request], actions: SpaceArray) -> None:
    start = 0
    for request in batch:
        end = start + len(request.obs)
        if not request.reply.cancelled():
            request.reply.set_result(actions[start:end])
        start = end


def _fail(batch: list[_Request], error: Exception) -> None:
    for request in batch:
        if not request.reply.cancelled():
            request.reply.set_exception(error)
