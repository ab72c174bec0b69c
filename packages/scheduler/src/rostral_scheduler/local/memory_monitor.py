"""Ends workers before the node's memory runs out, and says so.

This file owns the regular look at memory. Whom to end is decided in ``core/memory.py``; what
becomes of the work is the affair of ``deaths.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.core.memory import MemoryPolicy, MemorySeen, WorkerMemory
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.node_memory import NodeMemory
from rostral_scheduler.local.process_memory import (
    MemoryLimit,
    OomKills,
    memory_limits,
    own_bytes,
    process_table,
)
from rostral_scheduler.local.worker_pool import WorkerPool, WorkerProcess

__all__ = ["MemoryMonitor"]

logger = logging.getLogger("rostral.scheduler.memory")

_MIB: Final = 1 << 20
_TABLE_LINES: Final = 10
_KERNEL_KILL_KEPT_S: Final = 2.0


class MemoryMonitor:
    """One node's, on its event loop.

    Args:
        config: Of the scheduler.
        memory: The node's.
        pool: The workers.
        actors: The actors.
        killed: Called with a worker that is being ended, and the reason in one line.

    Attributes:
        has_no_room: At the last look, too little was left for processes that only wait.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        memory: NodeMemory,
        pool: WorkerPool,
        actors: Actors,
        *,
        killed: Callable[[WorkerProcess, str], None],
    ) -> None:
        self._config = config
        self._memory = memory
        self._pool = pool
        self._actors = actors
        self._killed = killed
        self._policy = MemoryPolicy(config.memory_threshold)
        self._running: dict[int, tuple[int, float]] = {}
        self.has_no_room = False
        self._kernel = OomKills()
        self._kernel_killed_s = float("-inf")

    async def run(self) -> None:
        """Looks for as long as it is not cancelled."""
        while True:
            await asyncio.sleep(self._config.memory_check_interval_s)
            try:
                self.check()
            except Exception:
                # A defect in one look must not end the looking.
                logger.exception("a look at the memory failed")

    def check(self) -> None:
        """One look: ends at most one worker."""
        self.kernel_has_killed()
        self._note_beginnings()
        limit = self._tightest()
        if limit is None:
            return
        workers = [self._worker_memory(worker) for worker in self._pool.by_number.values()]
        seen = MemorySeen(
            used_bytes=limit.used_bytes, limit_bytes=limit.limit_bytes, workers=workers
        )
        victim = self._policy.choose(seen)
        if victim is not None:
            self._end(self._pool.by_number[victim], limit)

    def kernel_has_killed(self) -> bool:
        """Whether the kernel has just killed for want of memory: the likely cause of a SIGKILL."""
        now_s = time.monotonic()
        if self._kernel.look():
            self._kernel_killed_s = now_s
        return now_s - self._kernel_killed_s < _KERNEL_KILL_KEPT_S

    def _tightest(self) -> MemoryLimit | None:
        """The limit that is exceeded by the most, or None."""
        found = [*memory_limits(self._config.worker_cgroup), *self._own_limit()]
        share = max((at.used_bytes / at.limit_bytes for at in found), default=0.0)
        self.has_no_room = share > self._config.growth_memory_threshold
        short = [at for at in found if self._policy.is_short(at.used_bytes, at.limit_bytes)]
        return max(short, key=lambda at: at.used_bytes / at.limit_bytes, default=None)

    def _own_limit(self) -> list[MemoryLimit]:
        limit = self._config.memory_limit_bytes
        if limit is None:
            return []
        pids = [worker.pid for worker in self._pool.by_number.values() if worker.pid]
        # The cheap figure counts shared pages in each process: never less than the exact one.
        used = sum(own_bytes(pid, exactly=False) for pid in pids)
        if used > min(self._config.growth_memory_threshold, self._config.memory_threshold) * limit:
            used = sum(own_bytes(pid, exactly=True) for pid in pids)
        return [MemoryLimit(used, limit, "the memory that its workers may have")]

    def _note_beginnings(self) -> None:
        """Remembers since when each worker has had the task that it has."""
        now_s, before, self._running = time.monotonic(), self._running, {}
        for number, worker in self._pool.for_tasks.items():
            if worker.slot is None:
                continue
            task = self._memory.work_words(worker.slot).running
            if task:
                known = before.get(number)
                same = known is not None and known[0] == task
                self._running[number] = known if known and same else (task, now_s)

    def _worker_memory(self, worker: WorkerProcess) -> WorkerMemory:
        running, retriable, began_s = False, False, worker.started_at_s
        if worker.actor_id is not None:
            actor = self._actors.by_id.get(worker.actor_id)
            running, retriable = True, actor is not None and actor.may_restart
        elif worker.number in self._running:
            task, began_s = self._running[worker.number]
            running, retriable = True, self._memory.task_info(task).retries_left > 0
        return WorkerMemory(
            worker=worker.number,
            own_bytes=own_bytes(worker.pid, exactly=True) if worker.pid else 0,
            running=running,
            retriable=retriable,
            began_s=began_s,
        )

    def _doing(self, worker: WorkerProcess) -> str:
        if worker.actor_id is not None and worker.actor_id in self._actors.by_id:
            return f"actor {self._actors.by_id[worker.actor_id].class_name}"
        if worker.number not in self._running:
            return "idle"
        return f"running {worker.name or 'a task'}"

    def _end(self, worker: WorkerProcess, limit: MemoryLimit) -> None:
        names = {
            process.pid: f"rostral worker ({self._doing(process)})"
            for process in self._pool.by_number.values()
            if process.pid
        }
        reason = (
            f"the node was out of memory: {limit.used_bytes / _MIB:.0f} of "
            f"{limit.limit_bytes / _MIB:.0f} MiB of {limit.name} were in use, over the threshold "
            f"of {self._config.memory_threshold:.0%}"
        )
        worker.memory_report = "the largest processes:\n" + process_table(names, _TABLE_LINES)
        logger.warning("killing worker pid=%s: %s\n%s", worker.pid, reason, worker.memory_report)
        self._killed(worker, reason)
        self._pool.kill(worker, reason)
