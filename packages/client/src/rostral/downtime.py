"""Calls that reached an actor while it was down, between one process and the next.

What was queued then may run in the new process only if its caller allows that with
`max_task_retries`: the state that it was meant for is gone. The others fail, before any new call
runs.
"""

from __future__ import annotations

import pickle

from rostral.exceptions import ActorUnavailableError
from rostral.failure import StoredError, seal_error
from rostral.runtime import Runtime
from rostral_objectstore._native import repair
from rostral_objectstore._native.task import ClaimedTask

__all__ = ["retried_calls"]


def retried_calls(
    runtime: Runtime, mailbox: int, waiting: int, title: str, actor_id: bytes
) -> list[ClaimedTask]:
    """Claims the `waiting` oldest calls of a mailbox; fails those that may not be retried.

    Returns the others, in their order, to be run before what is in the mailbox.
    """
    lost = ActorUnavailableError(
        f"{title} was being restarted when this call was waiting for it, and its state is lost",
        hint="make the call again, or give the actor max_task_retries",
        actor_id=actor_id,
    )
    error = StoredError(pickle.dumps(lost), [])
    kept = []
    for _ in range(waiting):
        task = runtime.tasks.next(mailbox, 0, [])
        if task is None:
            break
        # One that has been begun before was put back for a retry, maybe its last.
        if task.attempt or repair.task_info(runtime.store.segment, task.loc)["retries_left"]:
            kept.append(task)
            continue
        seal_error(runtime.table, task.returns, error)
        runtime.tasks.finish(task)
    return kept
