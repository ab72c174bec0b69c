"""When a process looks for its finished tasks, to give up their inputs and free their records."""

from __future__ import annotations

import threading
import time

from rostral_objectstore._native.task import Tasks

# Between two looks for finished tasks, while some are not: so late their inputs are given up.
SWEEP_INTERVAL_S = 0.1
# Up to so many unfinished tasks a look costs nothing to speak of.
SWEEP_COUNT_SMALL = 1024


def sweep_timeout_ns(tasks: Tasks) -> int:
    """How long a process that waits for work may do so before it must look after its own tasks."""
    return int(SWEEP_INTERVAL_S * 1e9) if tasks.unfinished_count else -1


class Sweeper:
    """Gives up the inputs of a driver's finished tasks while the driver does something else.

    Submitting does so too; a thread does it for a driver that submits no more. Workers and actors
    look when they wait for work.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rostral-sweeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread. Idempotent."""
        self._stopped.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        interval_s, last_count = SWEEP_INTERVAL_S, 0
        while not self._stopped.wait(interval_s):
            began_s = time.monotonic()
            count = self._tasks.unfinished_count
            # Of a driver that goes on submitting many, its next submission sees to it.
            if count and (count <= SWEEP_COUNT_SMALL or count == last_count):
                count = self._tasks.sweep()
            last_count = count
            # At most a tenth of this thread's time, however many tasks there are.
            interval_s = max(SWEEP_INTERVAL_S, 10 * (time.monotonic() - began_s))
