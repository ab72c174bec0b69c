"""What becomes of the tasks that a dead process had claimed: run again, or failed with the reason.

This file owns that choice and the tasks for which it has to wait. It must not know how or why the
process died: the error to fail with is given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from rostral_scheduler.errors import TaskCancelledError
from rostral_scheduler.local.node_memory import NodeMemory, TaskInfo, pickled

__all__ = ["TaskRepair"]

logger = logging.getLogger("rostral.scheduler.repair")

ErrorOf = Callable[[TaskInfo], Exception]


class TaskRepair:
    """Settles tasks whose claimer is dead, on the event loop's thread."""

    def __init__(self, memory: NodeMemory) -> None:
        self._memory = memory
        self._waiting: list[tuple[int, ErrorOf]] = []
        self._rescue_due = False
        self._cancel_children: Callable[[bytes], None] | None = None

    def on_cancelled(self, cancel_children: Callable[[bytes], None]) -> None:
        """Who sees to the children of a cancelled task whose worker is dead; told its id."""
        self._cancel_children = cancel_children

    def settle(self, tasks: Iterable[int], error_of: ErrorOf) -> None:
        """Runs each task again while it has retries, else fails it."""
        for task in tasks:
            if self._memory.run_again(task):
                logger.debug("runs again task=%s", self._memory.task_info(task).task_id.hex())
                continue
            info = self._memory.task_info(task)
            if info.is_cancelled:
                self._end_cancelled(task, info)
                continue
            if info.retries_left > 0 and self._memory.is_open(info.queue):
                self._waiting.append((task, error_of))  # Its queue is full: at a later tick.
                continue
            self._memory.fail_task(task, pickled(error_of(info)))

    def _end_cancelled(self, task: int, info: TaskInfo) -> None:
        error = TaskCancelledError.of(info.task_id, is_late=info.is_late)
        self._memory.fail_task(task, pickled(error))
        if info.cancels_children and self._cancel_children is not None:
            self._cancel_children(info.task_id)

    def fail(self, tasks: Iterable[int], error: bytes) -> None:
        """Fails tasks whatever retries they have."""
        for task in tasks:
            self._memory.fail_task(task, error)

    def look_for_stranded(self) -> None:
        """At the next tick, start tasks that whoever should have started them left behind."""
        self._rescue_due = True

    def tick(self) -> None:
        """Does what had to wait."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for task, error_of in waiting:
                self.settle([task], error_of)
        if self._rescue_due:
            self._rescue_due = False
            self._memory.rescue()
        self._memory.sweep()
