"""Runs ready tasks in the thread that asks, one below the other."""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rostral.exceptions import WorkerCrashedError
from rostral.failure import StoredError, seal_error
from rostral.worker import run_task
from rostral_objectstore._native import repair
from rostral_objectstore._native.task import ClaimedTask

if TYPE_CHECKING:
    from rostral.runtime import Runtime

# Tasks that submit tasks run one below the other. Deeper than this they stay queued until somebody
# waits for them, so that a long chain does not end in a RecursionError.
DEPTH_MAX = 10


class InlineWorker:
    """Claims tasks from ready queues and runs them. Any thread may call."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._queues: dict[int, dict[str, float]] = {}
        self._local = threading.local()
        self._books = threading.Lock()
        self._running = 0

    def serve(self, queue: int, demand: dict[str, float]) -> None:
        """Runs tasks of this queue from now on; each holds `demand`."""
        self._queues[queue] = demand

    @property
    def demand(self) -> dict[str, float]:
        """What the task that this thread runs holds; nothing outside of one."""
        demand: dict[str, float] = getattr(self._local, "demand", {})
        return demand

    @property
    def depth(self) -> int:
        """How many tasks and calls this thread is running, one below the other."""
        depth: int = getattr(self._local, "depth", 0)
        return depth

    def others_run(self) -> bool:
        """Whether another thread is running something, which may seal what this one waits for."""
        return self._running > self.depth

    def run_ready(self) -> bool:
        """Runs every task that is ready, in this thread. Returns whether there was one."""
        ran = False
        found = True
        while found:
            found = False
            for queue, demand in list(self._queues.items()):
                task = self._runtime.tasks.next(queue, 0, [])
                if task is not None:
                    found = ran = True
                    with self.running(demand):
                        self._run(task)
        return ran

    @contextlib.contextmanager
    def running(self, demand: dict[str, float]) -> Iterator[None]:
        """While a task or call runs in this thread."""
        outer = self.demand
        self._local.demand, self._local.depth = demand, self.depth + 1
        with self._books:
            self._running += 1
        try:
            yield
        finally:
            with self._books:
                self._running -= 1
            self._local.demand, self._local.depth = outer, self.depth - 1

    def _run(self, task: ClaimedTask) -> None:
        runtime = self._runtime
        try:
            run_task(runtime, task)
        except SystemExit as error:
            # A worker of a cluster would be dead now.
            if repair.run_again(runtime.store.segment, task.loc):
                runtime.tasks.forget(task)
                return
            crash = WorkerCrashedError(
                f"task {task.id.hex()} failed: it exited with {error.code}, where a worker would "
                "have died, and it has no retries left",
                task_id=task.id,
                pid=os.getpid(),
            )
            seal_error(runtime.table, task.returns, StoredError(pickle.dumps(crash), []))
            runtime.tasks.finish(task)
