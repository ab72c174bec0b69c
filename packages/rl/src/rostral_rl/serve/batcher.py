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
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from rostral_rl.arrays import FloatArray, SpaceArray
from rostral_rl.errors import DeadlineError, InvalidSettingError, OverloadedError
from rostral_rl.serve.tally import Tally

BACK_OFF = 0.9
"""Small, because the best size moves little; Clipper's figure."""
INLINE_S_MAX = 1e-3
"""Passes faster than this run on the event loop: the way to a thread and back costs as much."""

EAGER_S_MAX = 1e-4
RECENT_PASSES = 5
RETRY_S_MAX = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Limits of one batcher.

    Attributes:
        slo_ms: Latency objective of a request in milliseconds; drives the batch limit. A request
            waits for at most one pass before its own, so that each may take half of it.
        batch_max: Rows in a batch and in one request, at most, whatever the objective would allow.
            Bounds memory.
        queue_rows_max: Rows waiting, at most; a request beyond is refused at once and not late.
        deadline_ms: A request that waited longer is dropped unanswered: its client has given up.
        eager: Answer a request that finds nobody before it at once, in its own coroutine, while
            passes take less than `EAGER_S_MAX`. Right where requests come one by one, as calls of
            an actor do, and a turn of the loop costs more than a pass; wrong where many are read
            from sockets in one turn.
    """

    slo_ms: float = 5.0
    batch_max: int = 1024
    queue_rows_max: int = 8192
    deadline_ms: float = 1000.0
    eager: bool = False

    def __post_init__(self) -> None:
        for name in ("slo_ms", "batch_max", "queue_rows_max", "deadline_ms"):
            if not getattr(self, name) > 0:
                raise InvalidSettingError(f"{name} must be > 0, got {getattr(self, name)!r}")


class BatchLimit:
    """The batch size that the latency objective allows just now.

    Departs from Clipper where requests waited longer than a pass may take: we are behind then, and
    smaller batches would only lengthen the queue, on a busy machine without end. So the limit rises
    until the queue is short again.

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

    def record(
        self, rows: int, *, latency_s: float, saturated: bool, waited_s: float = 0.0
    ) -> None:
        """Learns from one batch.

        Args:
            rows: Its size; more than the limit where a single request was larger.
            latency_s: Seconds its forward pass took.
            saturated: Whether the limit kept it from being larger. A batch that was small because
                nobody else asked says nothing about larger ones, and does not raise the limit.
            waited_s: Seconds that its oldest request had waited before the pass.
        """
        if latency_s > self._slo_s and waited_s <= self._slo_s:
            self._limit = max(1.0, self._limit * BACK_OFF)
        elif saturated:
            self._limit = min(float(self._batch_max), max(self._limit, float(rows)) + 1.0)


Pass: TypeAlias = Callable[[SpaceArray, FloatArray | None], tuple[SpaceArray, FloatArray | None]]
"""Observations (N, *shape) and states (N, S), or None, to actions (N, ...) and the next states."""


class Current(NamedTuple):
    """What answers just now."""

    run: Pass
    version: int


class Answer(NamedTuple):
    """One request's share of a batch.

    Attributes:
        actions: (N, ...), a view of the batch's.
        state: (N, S), or None without memory.
        version: Of the weights that acted; the same for all rows.
    """

    actions: SpaceArray
    state: FloatArray | None
    version: int


class Asker(Protocol):
    """Who waits for an answer: a future, or a connection that writes it out itself.

    Called on the batcher's event loop, once at most, but for `cancelled`, which any thread may ask.
    The two that answer must not raise: others wait behind.
    """

    def cancelled(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, answer: Answer, /) -> None:
        """Takes the answer."""

    def set_exception(self, error: Exception, /) -> None:
        """Learns why there is none."""


class _Request(NamedTuple):
    obs: SpaceArray
    state: FloatArray | None
    deadline_s: float
    arrived_s: float
    asker: Asker


class Batcher:
    """Collects requests of one event loop into batches.

    Not thread-safe; call `close` on the loop at the end.

    Args:
        current: Asked once for each batch, so that weights may change between two and no batch
            mixes them. What it returns is called on the loop, or in one thread where it is slow.
        config: Limits.
        tally: Counts what is served; by default one that nobody reads.
    """

    def __init__(
        self, current: Callable[[], Current], config: BatchConfig, tally: Tally | None = None
    ) -> None:
        self._current = current
        self._config = config
        self._limit = BatchLimit(slo_s=config.slo_ms / 2e3, batch_max=config.batch_max)
        self._waiting: deque[_Request] = deque()
        # Rows that ever came, which the loop counts, and that were ever taken, which whoever takes
        # counts: a single number would be changed by two threads.
        self._rows_come = 0
        self._rows_taken = 0
        self._scheduled = False
        self._pass_s = 0.0
        # Of the batch under way: whether the limit made it smaller, and its oldest request's wait.
        self._left_some = False
        self._waited_s = 0.0
        self._recent_s: deque[float] = deque(maxlen=RECENT_PASSES)
        self._row_s = 0.0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rostral-rl-act")
        # Done when the thread that makes pass after pass has come to rest; None while it rests.
        self._running: asyncio.Future[None] | None = None
        self.tally = tally or Tally()

    @property
    def limit_rows(self) -> int:
        """The batch limit just now."""
        return self._limit.rows

    @property
    def rows_waiting(self) -> int:
        """Rows in the queue just now."""
        return self._rows_come - self._rows_taken

    @property
    def is_full(self) -> bool:
        """Whether a single row more would be refused."""
        return self.rows_waiting >= self._config.queue_rows_max

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits and nothing runs."""
        return not self._waiting and self._running is None

    def at_once(self, obs: SpaceArray, state: FloatArray | None = None) -> Answer | None:
        """Answers in the caller's own turn of the loop, where the batcher is eager and at rest.

        None: another is before, or passes are slow; `submit` waits for its turn then.

        Args:
            obs: As for `submit`.
            state: As for `submit`.
        """
        if self._waiting or self._pass_s > EAGER_S_MAX or self._running is not None:
            return None
        if not self._config.eager:
            return None
        try:
            self._left_some, self._waited_s = False, 0.0
            answer = self._pass(obs, state)
        except Exception:
            self.tally.failed += 1
            raise
        self.tally.count_answer(self._pass_s)
        return answer

    async def submit(
        self,
        obs: SpaceArray,
        *,
        state: FloatArray | None = None,
        deadline_s: float | None = None,
    ) -> Answer:
        """Acts on a batch of observations, together with whoever else asks.

        Args:
            obs: (N, *obs_shape), known to fit.
            state: (N, S) of a policy with memory; all requests have one, or none has.
            deadline_s: Seconds from now after which nobody waits any more; the configured one by
                default.

        Raises:
            OverloadedError: The queue is full.
            DeadlineError: The deadline passed before the request's turn came.
        """
        answer = self.at_once(obs, state)
        if answer is not None:
            return answer
        reply: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.enqueue(obs, reply, state=state, deadline_s=deadline_s)
        return await reply

    def enqueue(
        self,
        obs: SpaceArray,
        asker: Asker,
        *,
        state: FloatArray | None = None,
        deadline_s: float | None = None,
    ) -> None:
        """As `submit`, but tells `asker`, in a later turn of the loop; costs no coroutine.

        Args:
            obs: As for `submit`.
            asker: Is answered, or told of a deadline that passed.
            state: As for `submit`.
            deadline_s: As for `submit`.

        Raises:
            OverloadedError: The queue is full; the asker hears no more.
        """
        rows = self.rows_waiting
        if rows + len(obs) > self._config.queue_rows_max:
            self.tally.refused += 1
            raise OverloadedError(
                f"{rows} observations are waiting, {len(obs)} more would pass the limit of "
                f"{self._config.queue_rows_max}",
                hint="send again after a pause",
                # What waits takes so long; no less than a scheduler's slice, no more than is
                # worth waiting for.
                retry_after_s=min(max(rows * self._row_s, 0.01), RETRY_S_MAX),
            )
        now = time.monotonic()  # The loop's own clock may be as coarse as a millisecond.
        wait_s = self._config.deadline_ms / 1e3 if deadline_s is None else deadline_s
        self._rows_come += len(obs)
        self._waiting.append(_Request(obs, state, now + wait_s, now, asker))
        # One turn later, so that all requests that this turn reads from sockets share the batch.
        self._schedule()

    async def close(self) -> None:
        """Answers what is waiting, then stops."""
        while not self.is_idle:
            if self._running is not None:
                await asyncio.wait([self._running])
            else:
                await asyncio.sleep(0)
        self.stop()

    def stop(self) -> None:
        """Gives up the thread of a batcher that is idle, for good."""
        self._thread.shutdown()

    def _schedule(self) -> None:
        if not self._scheduled and self._running is None and self._waiting:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        if self._pass_s > INLINE_S_MAX:
            loop = asyncio.get_running_loop()
            self._running = loop.create_future()
            self._thread.submit(self._pass_after_pass, loop)
            return
        batch, late = self._take()
        self._drop(late)
        if batch:
            try:
                answer = self._measured(batch)
            except Exception as error:
                self._fail(batch, error)
            else:
                self._answer(batch, answer)
        self._schedule()

    def _pass_after_pass(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: goes on as long as somebody waits and passes are slow.

        The loop writes out one pass's answers while the next pass runs; were it asked to begin each
        pass, the policy would idle meanwhile.
        """
        tell = loop.call_soon_threadsafe
        try:
            while self._waiting and self._pass_s > INLINE_S_MAX:
                batch, late = self._take()
                if late:
                    tell(self._drop, late)
                if not batch:
                    continue
                try:
                    answer = self._measured(batch)
                except Exception as error:
                    tell(self._fail, batch, error)
                else:
                    tell(self._answer, batch, answer)
        finally:
            tell(self._rest)

    def _rest(self) -> None:
        assert self._running is not None
        self._running.set_result(None)
        self._running = None
        self._schedule()

    def _take(self) -> tuple[list[_Request], list[_Request]]:
        """Takes whole requests up to the limit, one that is larger alone, and those too late."""
        now = time.monotonic()
        limit = self._limit.rows
        batch: list[_Request] = []
        late: list[_Request] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0].obs) <= limit):
            request = self._waiting.popleft()
            self._rows_taken += len(request.obs)
            if request.asker.cancelled():  # The client has gone.
                continue
            if now > request.deadline_s:
                late.append(request)
                continue
            batch.append(request)
            rows += len(request.obs)
        self._left_some = bool(self._waiting)
        self._waited_s = now - batch[0].arrived_s if batch else 0.0
        return batch, late

    def _drop(self, late: list[_Request]) -> None:
        self.tally.late += len(late)
        for request in late:
            if not request.asker.cancelled():
                request.asker.set_exception(
                    DeadlineError("the request's deadline passed while it waited")
                )

    def _measured(self, batch: list[_Request]) -> Answer:
        first = batch[0]
        obs, state = first.obs, first.state
        if len(batch) > 1:
            obs = np.concatenate([r.obs for r in batch])
            if state is not None:
                state = np.concatenate([r.state for r in batch if r.state is not None])
        return self._pass(obs, state)

    def _pass(self, obs: SpaceArray, state: FloatArray | None) -> Answer:
        run, version = self._current()
        start = time.perf_counter()
        actions, state = run(obs, state)
        took_s = time.perf_counter() - start
        # The median: one pass that was preempted shall not move a fast policy to the thread.
        self._recent_s.append(took_s)
        self._pass_s = sorted(self._recent_s)[len(self._recent_s) // 2]
        self._row_s += 0.1 * (took_s / len(obs) - self._row_s)
        saturated = len(obs) >= self._limit.rows or self._left_some
        self._limit.record(len(obs), latency_s=took_s, saturated=saturated, waited_s=self._waited_s)
        self.tally.count_pass(len(obs), took_s)
        return Answer(actions, state, version)

    def _answer(self, batch: list[_Request], answer: Answer) -> None:
        now = time.monotonic()
        actions, state, version = answer
        start = 0
        for request in batch:
            end = start + len(request.obs)
            self.tally.count_answer(now - request.arrived_s)
            if not request.asker.cancelled():
                share = None if state is None else state[start:end]
                request.asker.set_result(Answer(actions[start:end], share, version))
            start = end

    def _fail(self, batch: list[_Request], error: Exception) -> None:
        self.tally.failed += len(batch)
        for request in batch:
            if not request.asker.cancelled():
                request.asker.set_exception(error)
