"""`cancel`: the caller's side. How a running task is made to end is its node's affair."""

from __future__ import annotations

import math
import pickle
from typing import Any, Final

from rostral import _context
from rostral.exceptions import TaskCancelledError
from rostral.generator import ObjectRefGenerator
from rostral.object_ref import ObjectRef
from rostral_objectstore._native import cancelling
from rostral_objectstore.layout import ObjectFlag, TaskFlag
from rostral_objectstore.serialization import KIND_PICKLE

GRACE_S: Final = 5.0
TASK_ID_SIZE: Final = 16


def cancel(
    ref: ObjectRef[Any] | ObjectRefGenerator[Any],
    *,
    force: bool = False,
    recursive: bool = True,
    grace_s: float = GRACE_S,
) -> bool:
    """Cancels the task, or actor call, that is to make an object. Does not wait for its end.

    A task that has not begun never runs. One that runs is ended step by step: it is flagged (see
    `is_cancelled`), KeyboardInterrupt is raised in its code, in a coroutine asyncio.CancelledError,
    and after `grace_s` its worker is killed. A call of an asynchronous actor is only cancelled in
    its loop, one of a threaded actor only flagged; of other actors, a call that runs is ended like
    a task if the actor may be restarted, and only flagged if it may not. What a flagged task
    returns or raises is not kept. A cancelled task is not tried again.

    Args:
        ref: A result of the task, or the generator of a streaming one.
        force: Kill the worker of a running task at once.
        recursive: Cancel the tasks that it has submitted, too, and theirs; `force` does not apply
            to actor calls among them.
        grace_s: Seconds between the exception in the task's code and the death of its worker;
            infinite: it is not killed.

    Returns:
        Whether there was anything to cancel: False if the task is done, or cancelled already.

    Raises:
        TypeError: No reference.
        ValueError: `force` for an actor call, or a wrong `grace_s`.
        ClusterUnavailableError: The node does not answer.
    """
    if isinstance(ref, ObjectRefGenerator):
        ref = ref.completed()
    if not isinstance(ref, ObjectRef):
        raise TypeError(f"cancel() takes a reference or a generator, not {type(ref).__name__}")
    if isinstance(grace_s, bool) or not isinstance(grace_s, int | float):
        raise TypeError(f"grace_s must be a number of seconds, not {type(grace_s).__name__}")
    if math.isnan(grace_s) or grace_s < 0:
        raise ValueError(f"grace_s is {grace_s}: it must be 0 or more seconds")
    current = _context.runtime()
    if force and cancelling.is_actor_call(current.table, ref):
        raise ValueError(
            "cancel(force=True) would kill the actor with its call: use rostral.kill for that"
        )
    flags = int(TaskFlag.CANCEL_CHILDREN) if recursive else 0
    task_id = ref.binary()[:TASK_ID_SIZE]
    error = pickle.dumps(TaskCancelledError.of(task_id, is_late=False))
    task = cancelling.cancel_result(
        current.table, ref, flags, KIND_PICKLE, error, int(ObjectFlag.ERROR)
    )
    if task:
        body = {
            "task": task,
            "task_id": task_id,
            "force": bool(force),
            "recursive": bool(recursive),
            "grace_s": float(grace_s),
        }
        current.ask("cancel_task", body)
    return task is not None
