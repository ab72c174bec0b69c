"""A worker process: attaches to its node and runs tasks, or one actor, until it is told to stop.

`main` is what the zygote calls in the process it has forked. Everything a worker learns from the
scheduler, it learns at its start and with its first task; between tasks it asks nobody.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

from rostral import _context, interrupt, worker_environment
from rostral.actor_process import run_actor
from rostral.coroutine_tasks import run_in_loop
from rostral.exceptions import RuntimeEnvSetupError
from rostral.execution import execute, store_error
from rostral.failure import StoredError, seal_error
from rostral.progress import ProgressReporter
from rostral.run_limit import RunLimit
from rostral.runtime import Runtime, TaskScope
from rostral.sweeper import sweep_timeout_ns
from rostral.visible_devices import VisibleDevices
from rostral_objectstore._native.queue import Queue
from rostral_objectstore._native.task import ClaimedTask
from rostral_objectstore.client import StoreClient
from rostral_objectstore.control import ControlClient
from rostral_scheduler import WorkerStart


class NamedOutput:
    """Standard output or error that tells the scheduler whose lines follow, before the first."""

    _announced: str | None = None

    def __init__(self, stream: Any, scheduler: ControlClient) -> None:
        self._stream = stream
        self._scheduler = scheduler

    def write(self, text: str) -> int:
        """Passes the text on, announced."""
        scope = _context.task_scope.get()
        name = scope.name if scope is not None else None
        if name is not None and name != NamedOutput._announced:
            NamedOutput._announced = name
            # Waits for the answer, so that the lines that follow cannot overtake the name.
            self._scheduler.call("worker_name", {"name": name})
        written: int = self._stream.write(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main(start: WorkerStart) -> None:
    """Runs a worker or an actor until its end. Called in a fresh process."""
    worker_environment.enter(start)
    store = StoreClient.connect(start.store_socket, kind=start.kind, worker_id=start.worker_id)
    interrupt.install()
    # Without its scheduler a worker has no purpose, and nobody to count it.
    scheduler = ControlClient(
        start.scheduler_socket, on_push=leave_when_told, on_close=lambda: os._exit(1)
    )
    told = scheduler.call(
        "register_worker", {"slot": store.slot, "pid": os.getpid(), "worker_id": start.worker_id}
    )
    devices = VisibleDevices(start, told["node_gpu_count"])
    sys.stdout = NamedOutput(sys.stdout, scheduler)
    sys.stderr = NamedOutput(sys.stderr, scheduler)
    if start.kind == "actor":
        assignment = told["assignment"]
        if near := devices.near_actor(store.table, assignment["creation"]):
            assignment |= scheduler.call("worker_resources", {"near": near})
        devices.show(assignment["gpu_ids"])
        try:
            runtime = join_job(store, scheduler, start, assignment["job_id"], told["job"])
        except RuntimeEnvSetupError as error:
            body = {"actor_id": assignment["actor_id"], "error": pickle.dumps(error)}
            scheduler.call("actor_failed", body)
            return
        run_actor(runtime, assignment)
    else:
        run_worker(store, scheduler, start, devices)


def leave_when_told(topic: str, body: dict[str, Any]) -> None:
    """Ends this process when the scheduler asks it to, which it does while nothing runs here.

    An actor has its own way to end, in its main thread.
    """
    del body
    if topic != "exit":
        return
    end_actor = _context.end_of_actor()
    if end_actor is not None:
        end_actor()
    else:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)


def join_job(
    store: StoreClient,
    scheduler: ControlClient,
    start: WorkerStart,
    job_id: bytes,
    job: Mapping[str, Any],
) -> Runtime:
    """Becomes a process of the job: its import path, its directory, its namespace.

    Raises RuntimeEnvSetupError when the set-up hook of its environment does.
    """
    for path in job["sys_path"]:
        if path not in sys.path:
            sys.path.append(path)
    worker_environment.set_thread_counts(start, job["thread_variables"], job["thread_count"])
    working_dir = start.working_dir or job["cwd"]
    if os.path.isdir(working_dir):
        os.chdir(working_dir)
    runtime = Runtime(
        store,
        scheduler,
        job_id=job_id,
        namespace=job["namespace"],
        node_id=start.node_id,
        root=TaskScope(start.worker_id, "worker"),
        environment=start.environment,
        depth=1,
        facts={
            "node_id": start.node_id.hex(),
            "address": job["gcs_address"],
            "session_dir": start.session_dir,
            "object_store_socket": start.store_socket,
            "scheduler_socket": start.scheduler_socket,
            "job_id": job_id.hex(),
            "namespace": job["namespace"],
        },
    )
    runtime.reporter = ProgressReporter(functools.partial(scheduler.send, "progress"))
    _context.set_runtime(runtime)
    if job["logging_config"]:
        _apply_logging(job["logging_config"], start, job_id)
    worker_environment.run_setup_hook(start)
    return runtime


def _apply_logging(text: str, start: WorkerStart, job_id: bytes) -> None:
    # Not for every worker: `logging` and `json` take longer to import than all else here.
    from rostral import logging_config

    facts = {
        "job_id": job_id.hex(),
        "worker_id": start.worker_id.hex(),
        "node_id": start.node_id.hex(),
    }
    logging_config.apply(logging_config.decode(text), facts)


def run_worker(
    store: StoreClient, scheduler: ControlClient, start: WorkerStart, devices: VisibleDevices
) -> None:
    """Claims and runs tasks, one after the other, until the scheduler ends this process.

    Returns when a function has run as often as one process may run it.
    """
    runtime: Runtime | None = None
    limit = RunLimit()
    tasks = store.tasks
    queue = 0
    while True:
        task = tasks.next(0, sweep_timeout_ns(tasks), [])
        if task is None:
            tasks.sweep()
            continue
        if devices.is_managed and (task.queue != queue or devices.are_shown):
            # Another shape, or the same granted anew, and with it perhaps another GPU.
            near = devices.near_task(store.table, task)
            devices.show(scheduler.call("worker_resources", {"near": near})["gpu_ids"])
        if runtime is None:
            job_id = Queue(store.segment, task.queue).job_id
            try:
                job = scheduler.call("job_info", {"job_id": job_id})
                runtime = join_job(store, scheduler, start, job_id, job)
            except RuntimeEnvSetupError as error:
                seal_error(store.table, task.returns, StoredError(pickle.dumps(error), []))
                tasks.finish(task)
                scheduler.call("environment_failed", {"message": error.message})
                return
        if task.queue != queue:
            queue = task.queue
            runtime.runs_task_of(queue)
        run_task(runtime, task, limit)
        if limit.is_reached:
            return


def run_task(runtime: Runtime, task: ClaimedTask, limit: RunLimit | None = None) -> None:
    """One task of a remote function. Counts the run, if this process has limits."""
    try:
        name, (function, meta) = runtime.functions.load(task.function)
    except Exception as error:  # whatever the modules do that the function imports
        store_error(runtime, task, "unpickling of a remote function", error)
        runtime.tasks.finish(task)
        return
    function_name = getattr(function, "__qualname__", name)
    scope = TaskScope(task.id, name, None, meta["placement"], function_name, task)
    if scope.placement is not None and scope.placement.captures:
        runtime.captures = True
    retried = meta.get("retry_exceptions", False)
    code = function
    if meta["is_async"]:
        code = functools.partial(run_in_loop, scope, function)
    execute(runtime, task, name, code, scope, retried=retried)
    if limit is not None and meta["run_limit"]:
        limit.count(function, task.function, meta["run_limit"])
