"""Tasks that were ended for want of memory, on their way to another try.

This file owns their count, which is apart from `max_retries`, and the pause before each try: memory
that is short now is short a moment later too. A waiting task is claimed by the scheduler, so that
no other death can touch it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.errors import TaskCancelledError
from rostral_scheduler.local.node_memory import NodeMemory, TaskInfo, pickled

__all__ = ["OomRetries"]

COUNTED_TASKS_MAX: Final = 10_000
"""Tasks whose tries are remembered; beyond it the longest untouched begin anew."""


class _Waiting(NamedTuple):
    due_s: float
    task: int
    task_id: bytes
    error: bytes


class OomRetries:
    """One node's, on its event loop."""

    def __init__(self, config: LocalSchedulerConfig, memory: NodeMemory) -> None:
        self._config = config
        self._memory = memory
        self._tries: OrderedDict[bytes, int] = OrderedDict()
        self._waiting: list[_Waiting] = []

    def settle(self, tasks: Iterable[int], error_of: Callable[[TaskInfo], Exception]) -> None:
        """Has each task that may run again do so after a pause; fails the others."""
        for task in tasks:
            info = self._memory.task_info(task)
            tries = self._tries.pop(info.task_id, 0) + 1
            limit = self._config.task_oom_retries
            error = pickled(error_of(info))
            if self._ends_cancelled(task, info):
                continue
            if info.retries_left == 0 or 0 <= limit < tries or not self._memory.take_claim(task):
                self._memory.fail_task(task, error)
                continue
            self._tries[info.task_id] = tries
            if len(self._tries) > COUNTED_TASKS_MAX:
                self._tries.popitem(last=False)
            pause_s = self._config.oom_retry_pause_s * 2 ** min(tries - 1, 20)
            due_s = time.monotonic() + min(pause_s, self._config.oom_retry_pause_s_max)
            self._waiting.append(_Waiting(due_s, task, info.task_id, error))

    def tick(self) -> None:
        """Starts what has waited for long enough."""
        now_s = time.monotonic()
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            if item.due_s > now_s:
                self._waiting.append(item)
                continue
            info = self._memory.task_info(item.task)
            if info.task_id != item.task_id:
                continue  # Its job has ended, and with it the task.
            if self._ends_cancelled(item.task, info):
                continue
            if self._memory.run_again(item.task, counted=False):
                continue
            if self._memory.is_open(info.queue):
                self._waiting.append(item)  # Its queue is full: at a later tick.
            else:
                self._memory.fail_task(item.task, item.error)

    def _ends_cancelled(self, task: int, info: TaskInfo) -> bool:
        """A task that was cancelled before it was killed, or since, does not run again."""
        if info.is_cancelled:
            error = TaskCancelledError.of(info.task_id, is_late=info.is_late)
            self._memory.fail_task(task, pickled(error))
        return info.is_cancelled
