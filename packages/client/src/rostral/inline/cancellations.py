"""Cancelled tasks and calls of an inline session that run at this moment, and their children.

Nobody can interrupt a thread of his own process: what runs is only flagged, and its result is not
kept; coroutines are cancelled in their loops.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

from rostral import interrupt
from rostral.exceptions import TaskCancelledError
from rostral_objectstore._native import cancelling
from rostral_objectstore.control import Body
from rostral_objectstore.layout import ObjectFlag, TaskFlag
from rostral_objectstore.serialization import KIND_PICKLE

if TYPE_CHECKING:
    from rostral.runtime import Runtime


class InlineCancellations:
    """What the scheduler of a node does once a task is flagged. Any thread may call."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def cancel_task(self, body: Body) -> Body:
        """A task that runs was flagged."""
        if body["recursive"]:
            return self.cancel_children(body)
        interrupt.look()
        return {}

    def cancel_children(self, body: Body) -> Body:
        """Cancels what the task has submitted, and what that has, as far as it is not done."""
        table, segment = self._runtime.table, self._runtime.store.segment
        parents: list[bytes] = [body["task_id"]]
        while parents:
            for child, child_id in cancelling.children_of(segment, parents.pop()):
                error = pickle.dumps(TaskCancelledError.of(child_id, is_late=False))
                flags, kind = int(TaskFlag.CANCEL_CHILDREN), int(ObjectFlag.ERROR)
                if cancelling.cancel_at(table, child, child_id, flags, KIND_PICKLE, error, kind):
                    parents.append(child_id)  # It runs.
        interrupt.look()
        return {}
