"""What the node tells people of its tasks: which there are, and where each stands.

Read from the records as they are at the moment; nothing is kept for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rostral_objectstore.layout import TaskFlag, TaskInfo, TaskState
from rostral_scheduler.local.node_memory import Body

if TYPE_CHECKING:
    from rostral_scheduler.local.requests import Scheduler

__all__ = ["TASKS_MAX", "list_tasks"]

TASKS_MAX: Final = 100_000


def list_tasks(scheduler: Scheduler, limit: int) -> list[Body]:
    """The node's tasks that are not done, at most ``limit`` and ``TASKS_MAX``."""
    found: list[Body] = []
    for task in scheduler.memory.list_tasks(TASKS_MAX):
        if len(found) >= limit:
            break
        if task["state"] not in (TaskState.FREE, TaskState.DONE):
            found.append(_describe(scheduler, task))
    return found


def _describe(scheduler: Scheduler, task: TaskInfo) -> Body:
    queue = scheduler.policy.queues.get(task["queue"])
    is_claimed = task["state"] == TaskState.CLAIMED
    return {
        "task_id": task["id"],
        "state": TaskState(task["state"]).name.lower(),
        "pid": scheduler.memory.slot_info(task["slot"]).pid if is_claimed else 0,
        "job_id": None if queue is None else queue.job_id,
        "attempt": task["attempt"],
        "retries_left": task["retries_left"],
        "is_actor_call": bool(task["flags"] & TaskFlag.ACTOR_CALL),
        "is_cancelled": bool(task["flags"] & TaskFlag.CANCELLED),
    }
