"""Cancelled tasks that run: how each is made to end, and its children with it.

This file owns the steps beyond the flag in the task's record, which the canceller has set by then.
A task's code is interrupted by a signal to its worker, upon which the worker looks at the flags of
what it runs; a worker that has not ended the task after the grace period is killed. An actor's
process is interrupted or killed only if it runs one call at a time and may be restarted. Until the
task has ended, nothing of this needs its canceller.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from rostral_scheduler.errors import TaskCancelledError
from rostral_scheduler.local.actors import Actors
from rostral_scheduler.local.node_memory import NodeMemory, pickled
from rostral_scheduler.local.worker_pool import WorkerPool, WorkerProcess

__all__ = ["GRACE_S", "Cancellations", "Ladder"]

logger = logging.getLogger("rostral.scheduler.cancellations")

GRACE_S: Final = 5.0
"""Between interrupting a task and killing its worker: for what its code does in ``finally``."""
_PAUSE_LOOK_S: Final = 0.0005
_PAUSE_LOOKS_MAX: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """How a running task is to be ended.

    Attributes:
        force: Its worker is killed at once; actors' processes never are.
        grace_s: How long its code may take to end after it was interrupted; infinite: for ever.
    """

    force: bool = False
    grace_s: float = GRACE_S


class Cancellations:
    """Sees that cancelled tasks end, on the event loop's thread."""

    def __init__(self, memory: NodeMemory, pool: WorkerPool, actors: Actors) -> None:
        self._memory = memory
        self._pool = pool
        self._actors = actors
        self._kills: set[asyncio.Task[None]] = set()
        self._forwarded: tuple[int, Callable[[bytes, Ladder], None]] | None = None

    def on_forwarded(self, slot: int, cancel: Callable[[bytes, Ladder], None]) -> None:
        """Who sees to tasks that run on other nodes, which the process of the slot has claimed."""
        self._forwarded = slot, cancel

    def climb(self, task: int, task_id: bytes, ladder: Ladder) -> None:
        """Makes a task that is flagged end, if it still runs on this node."""
        slot = self._memory.claimer(task, task_id)
        if self._forwarded is not None and slot == self._forwarded[0]:
            self._forwarded[1](task_id, ladder)
            return
        worker = None if slot is None else self._pool.by_slot(slot)
        if worker is None:
            return  # It has ended, or its process has: then its task is settled with it.
        if worker.actor_id is not None:
            ladder = replace(ladder, force=False)
            if not self._may_be_stopped(worker.actor_id):
                # For its loop, if it is asynchronous, and for calls that have not begun.
                self._pool.interrupt(worker)
                return
        if ladder.force:
            self._begin_kill(worker, task, task_id)
            return
        self._memory.allow_interrupt(task, task_id)
        self._pool.interrupt(worker)
        if math.isfinite(ladder.grace_s):
            loop = asyncio.get_running_loop()
            loop.call_later(ladder.grace_s, self._begin_kill, worker, task, task_id)

    def _may_be_stopped(self, actor_id: bytes) -> bool:
        actor = self._actors.by_id.get(actor_id)
        return actor is not None and actor.is_serial and actor.may_restart

    def cancel_children(self, task_id: bytes, ladder: Ladder) -> None:
        """Cancels what the task has submitted, and what that has, as far as it is not done."""
        parents = [task_id]
        while parents:
            for child, child_id in self._memory.children_of(parents.pop()):
                if self._cancel(child, child_id, ladder, is_late=False):
                    parents.append(child_id)

    def _cancel(self, task: int, task_id: bytes, ladder: Ladder, *, is_late: bool) -> bool:
        """True if the task runs, and so may have children."""
        error = pickled(TaskCancelledError.of(task_id, is_late=is_late))
        if not self._memory.cancel(task, task_id, error, is_late=is_late):
            return False
        self.climb(task, task_id, ladder)
        return True

    def tick(self) -> None:
        """Cancels tasks over their deadline whose submitter, who would have done it, is dead."""
        for task, task_id in self._memory.late_tasks():
            if self._cancel(task, task_id, Ladder(), is_late=True):
                self.cancel_children(task_id, Ladder())

    # ---- the last step

    def _begin_kill(self, worker: WorkerProcess, task: int, task_id: bytes) -> None:
        if self._runs(worker, task, task_id):
            kill = asyncio.get_running_loop().create_task(self._kill(worker, task, task_id))
            self._kills.add(kill)
            kill.add_done_callback(self._kills.discard)

    def _runs(self, worker: WorkerProcess, task: int, task_id: bytes) -> bool:
        return worker.status is None and self._memory.claimer(task, task_id) == worker.slot

    async def _kill(self, worker: WorkerProcess, task: int, task_id: bytes) -> None:
        """Kills the worker unless it has gone on to another task, which must not die of it.

        So it is stopped first: then what is seen of it stays so.
        """
        self._pool.pause(worker)
        for _ in range(_PAUSE_LOOKS_MAX):
            if self._pool.is_paused(worker):
                break
            await asyncio.sleep(_PAUSE_LOOK_S)
        if self._runs(worker, task, task_id):
            logger.debug("kills for a cancelled task pid=%s task=%s", worker.pid, task_id.hex())
            self._pool.kill(worker, "its task was cancelled")
        else:
            self._pool.resume(worker)

    async def stop(self) -> None:
        """Waits for what is under way."""
        await asyncio.gather(*self._kills, return_exceptions=True)
