"""Deadlines of the tasks that this process submits: who is over his is cancelled.

A deadline is in the task's record, where a worker looks before it begins, and so does the node's
scheduler when the submitter is dead. Here is the submitter's own clock.
"""

from __future__ import annotations

import contextlib
import heapq
import pickle
import threading
import time
from typing import TYPE_CHECKING, Final

from rostral.exceptions import RostralError, TaskCancelledError
from rostral_objectstore._native import cancelling
from rostral_objectstore.layout import ObjectFlag, TaskFlag
from rostral_objectstore.serialization import KIND_PICKLE

if TYPE_CHECKING:
    from rostral.runtime import Runtime

GRACE_S: Final = 5.0
"""Between interrupting a task and killing its worker."""
LATENESS_NS_MIN: Final = 1_000_000
LATENESS_SHARE: Final = 1000
"""An alarm may be late by a thousandth of what it was set to, so that tasks share alarms."""


class Deadlines:
    """One thread that cancels this process's tasks when their deadlines are over."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # When to look, on the monotonic clock: a heap, and the same as a set.
        self._heap: list[int] = []
        self._alarms: set[int] = set()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="rostral-deadlines", daemon=True)
        self._thread.start()

    def begin(self, allowed_ns: int) -> int:
        """The deadline, in ns of the monotonic clock, of what is submitted now and has so long."""
        deadline_ns = time.monotonic_ns() + allowed_ns
        grain_ns = max(allowed_ns // LATENESS_SHARE, LATENESS_NS_MIN)
        alarm_ns = -(-deadline_ns // grain_ns) * grain_ns
        if alarm_ns not in self._alarms:
            with self._changed:
                self._alarms.add(alarm_ns)
                heapq.heappush(self._heap, alarm_ns)
                if self._heap[0] == alarm_ns:
                    self._changed.notify()
        return deadline_ns

    def stop(self) -> None:
        """Ends the thread. The node's scheduler sees to the deadlines from then on."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while self._wait():
            # The cluster may be gone; then nothing of it needs an end.
            with contextlib.suppress(RostralError):
                self._cancel_late()

    def _wait(self) -> bool:
        """Until the next alarm. False: stopped."""
        with self._changed:
            while not self._stopped:
                now_ns = time.monotonic_ns()
                left_ns = self._heap[0] - now_ns if self._heap else None
                if left_ns is None or left_ns > 0:
                    self._changed.wait(None if left_ns is None else left_ns / 1e9)
                    continue
                while self._heap and self._heap[0] <= now_ns:
                    self._alarms.discard(heapq.heappop(self._heap))
                return True
        return False

    def _cancel_late(self) -> None:
        runtime = self._runtime
        for task, task_id in cancelling.late(runtime.store.tasks, time.monotonic_ns()):
            error = pickle.dumps(TaskCancelledError.of(task_id, is_late=True))
            flags = int(TaskFlag.LATE | TaskFlag.CANCEL_CHILDREN)
            if cancelling.cancel_at(
                runtime.table, task, task_id, flags, KIND_PICKLE, error, int(ObjectFlag.ERROR)
            ):
                # It runs, and is flagged: the scheduler makes its code end.
                body = {
                    "task": task,
                    "task_id": task_id,
                    "force": False,
                    "recursive": True,
                    "grace_s": GRACE_S,
                }
                with contextlib.suppress(RostralError):
                    runtime.ask("cancel_task", body)
