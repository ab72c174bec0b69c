"""Deaths on the node: what must be done, in which order, when an attached process is gone.

This file owns that order. The store sees that a process is gone and marks its slot DEAD; the zygote
says how a worker ended; either may come first. When both are known, the dead one's own submissions
are taken over, what it had claimed is run again or failed, and the slot is marked REPAIRED, upon
which the store takes its memory back. Doing any of it again does no harm.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from rostral_scheduler.errors import OutOfMemoryError, WorkerCrashedError, last_lines
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.memory_monitor import MemoryMonitor
from rostral_scheduler.local.node_memory import NodeMemory, TaskInfo
from rostral_scheduler.local.oom_retries import OomRetries
from rostral_scheduler.local.repair import TaskRepair
from rostral_scheduler.local.worker_pool import Death, WorkerPool, WorkerProcess

__all__ = ["Deaths"]

logger = logging.getLogger("rostral.scheduler.deaths")

CRASH_HINT: Final = "give the task more with max_retries, if running it again does no harm"
MEMORY_HINT: Final = (
    "let fewer tasks run at once (num_cpus, memory), or have each take less; with max_retries it "
    "waits and tries again"
)


class Deaths:
    """Looks for the dead and sees to what they leave, on the event loop's thread.

    Args:
        memory: The node's.
        pool: The workers.
        actors: The actors.
        repair: What becomes of claimed tasks.
        oom_retries: What becomes of those that were ended for want of memory.
        monitor: Knows whether the kernel kills for want of memory.
        report_timeout_s: How long a dead worker's exit status is waited for.
        removed: Called when nothing is left of a worker.
    """

    def __init__(
        self,
        memory: NodeMemory,
        pool: WorkerPool,
        actors: Actors,
        repair: TaskRepair,
        oom_retries: OomRetries,
        monitor: MemoryMonitor,
        *,
        report_timeout_s: float,
        removed: Callable[[WorkerProcess], None],
    ) -> None:
        self._memory = memory
        self._pool = pool
        self._actors = actors
        self._repair = repair
        self._oom_retries = oom_retries
        self._monitor = monitor
        self._report_timeout_s = report_timeout_s
        self._removed = removed

    def look(self) -> bool:
        """Sees to every death that is known by now. True if there was any."""
        found = False
        for slot in self._memory.dead_slots():
            worker = self._pool.by_id.get(self._memory.slot_info(slot).worker_id)
            found = True
            if worker is None:
                self._bury_stranger(slot)
            elif self._is_reported(worker):
                self._bury_worker(worker, slot)
        for worker in list(self._pool.ended.values()):
            # One that never attached, or that the store has buried without waiting for us.
            if self._memory.slot_of_worker(worker.worker_id) is None:
                self._bury_worker(worker, None)
                found = True
        return found

    def _is_reported(self, worker: WorkerProcess) -> bool:
        """Whether it is known how the worker ended, or has been waited for long enough."""
        if worker.status is not None:
            return True
        self._pool.lost(worker)
        if worker.is_retiring:
            return False
        now_s = time.monotonic()
        if worker.dead_since_s is None:
            worker.dead_since_s = now_s
        return now_s - worker.dead_since_s > self._report_timeout_s

    def _bury_stranger(self, slot: int) -> None:
        """A driver, or a client that the scheduler never heard of."""
        taken = self._memory.take_over(slot)
        death = Death(self._memory.slot_info(slot).pid, 0, "is gone")
        self._settle(death, "", self._memory.claimed_by(slot))
        self._memory.mark_repaired(slot)
        self._repair.look_for_stranded()
        logger.debug("buried slot=%s tasks_taken_over=%s", slot, taken)

    def _bury_worker(self, worker: WorkerProcess, slot: int | None) -> None:
        if worker.output is not None:
            worker.output.drain()
        death = self._true_cause(worker)
        claimed = []
        if slot is not None:
            self._memory.take_over(slot)
            claimed = self._memory.claimed_by(slot)
        if worker.actor_id is None:
            self._settle(death, worker.name, claimed)
        else:
            self._actors.process_died(worker, death, claimed)
        if slot is not None:
            self._memory.mark_repaired(slot)
        self._repair.look_for_stranded()
        self._pool.remove(worker)
        logger.debug("buried worker pid=%s: %s claimed=%s", worker.pid, death.cause, len(claimed))
        self._removed(worker)

    def _true_cause(self, worker: WorkerProcess) -> Death:
        """How it ended; a SIGKILL that nobody here sent may be the kernel's, for memory."""
        death = worker.death()
        if death.exit_status != -signal.SIGKILL or worker.kill_reason:
            return death
        if not self._monitor.kernel_has_killed():
            return death
        cause = "was killed by the kernel, which was out of memory (signal 9, SIGKILL)"
        return replace(death, cause=cause, out_of_memory=True)

    def _settle(self, death: Death, name: str, claimed: list[int]) -> None:
        def crashed(info: TaskInfo) -> WorkerCrashedError:
            what = f"task {name} ({info.task_id.hex()})" if name else f"task {info.task_id.hex()}"
            kind, hint = WorkerCrashedError, CRASH_HINT
            if death.out_of_memory:
                kind, hint = OutOfMemoryError, MEMORY_HINT
            report = f"; {death.memory_report}" if death.memory_report else ""
            return kind(
                f"{what} was lost: its worker, process {death.pid}, {death.cause}, and it has no "
                f"retries left{report}{last_lines(death.stderr_lines)}",
                hint=hint,
                task_id=info.task_id,
                pid=death.pid,
                exit_status=death.exit_status,
                stderr_lines=death.stderr_lines,
            )

        if death.memory_report:
            self._oom_retries.settle(claimed, crashed)
        else:
            self._repair.settle(claimed, crashed)
