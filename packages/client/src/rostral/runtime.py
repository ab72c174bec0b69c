"""The runtime: what this process, driver or worker, is to its node.

Owns the attachment to the store and the connection to the local scheduler, and does what the user's
calls come down to: put, get, wait, submit. All of it happens in shared memory; the scheduler is
asked once for each new shape of resources, for each actor, and for what is said about the cluster.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rostral import _context
from rostral.arguments import Arguments
from rostral.exceptions import (
    ClusterUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RostralError,
    StoreUnavailableError,
    TaskError,
)
from rostral.functions import FunctionTable
from rostral.object_ref import ObjectRef
from rostral.serialization import pack
from rostral_objectstore._native.task import TaskContext
from rostral_objectstore.client import StoreClient
from rostral_objectstore.control import Body, ControlClient
from rostral_objectstore.errors import QueueFullError, StoreClosedError
from rostral_objectstore.layout import TaskFlag
from rostral_objectstore.serialization import KIND_PICKLE, deserialize

logger = logging.getLogger("rostral.runtime")

# How long a submitter that finds its queue full sleeps between tries: far below the time a full
# queue takes to drain.
QUEUE_FULL_PAUSE_S = 0.001


class TaskScope:
    """What is running in this thread: names the children of a task."""

    __slots__ = ("actor_id", "context", "name", "task_id")

    def __init__(self, task_id: bytes, name: str, actor_id: bytes | None = None) -> None:
        self.task_id = task_id
        self.name = name
        self.actor_id = actor_id
        self.context = TaskContext(task_id)


class Runtime:
    """This process's part in the cluster. Thread-safe where it does not say otherwise.

    Args:
        store: the attachment to the node's store.
        scheduler: the connection to the node's local scheduler.
        job_id: 16 bytes; of a worker, its job's.
        namespace: where names of actors live.
        node_id: 16 bytes.
        root: the scope outside of any task.
    """

    def __init__(
        self,
        store: StoreClient,
        scheduler: ControlClient,
        *,
        job_id: bytes,
        namespace: str,
        node_id: bytes,
        root: TaskScope,
    ) -> None:
        self.store = store
        self.table = store.table
        self.tasks = store.tasks
        self.adopt = store.table.adopt_packed
        self.scheduler = scheduler
        self.functions = FunctionTable(store.table)
        self.job_id = job_id
        self.namespace = namespace
        self.node_id = node_id
        self.root = root
        self.session = next(_sessions)
        self._queues: dict[tuple[tuple[str, float], ...], int] = {}
        self._kept: list[ObjectRef[Any]] = []
        self._waiter: FutureWaiter | None = None
        self._on_close: list[Callable[[], None]] = []

    # ---- objects

    def scope(self) -> TaskScope:
        """The running task's scope, or the driver's."""
        return _context.task_scope.get() or self.root

    def put(self, value: object) -> ObjectRef[Any]:
        """Stores a value.

        Raises TypeError for a reference, NotPicklableError, ObjectStoreFullError.
        """
        if isinstance(value, ObjectRef):
            raise TypeError(
                "put() was given an ObjectRef: pass the reference itself on, or put it in a list"
            )
        packed = pack(value)
        return self.table.put(
            ObjectRef,
            self.scope().context.next_put_id(),
            packed.kind,
            packed.inband,
            packed.buffers,
            packed.refs,
        )

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """The values, in order. Raises the first error that is found, or GetTimeoutError."""
        table = self.table
        reads = [table.read(ref) for ref in refs]
        if None in reads:
            timeout_ns = -1 if timeout_s is None else int(timeout_s * 1e9)
            self.wait_sealed(list(refs), len(refs), timeout_ns, stop_at_error=True)
            reads = [read or table.read(ref) for ref, read in zip(refs, reads, strict=True)]
            if None in reads:
                for read in reads:
                    if read is not None and read[1]:
                        raise load_error(read)
                missing = [ref.hex() for ref, read in zip(refs, reads, strict=True) if read is None]
                raise GetTimeoutError(
                    f"{len(missing)} of {len(refs)} objects were not ready within {timeout_s} s, "
                    f"the first of them {missing[0]}",
                    hint="their tasks are still running or queued; rostral.wait tells which are done",
                )
        values = []
        for read in reads:
            kind, is_error, inband, buffers = read  # type: ignore[misc]
            if is_error:
                raise load_error(read)
            values.append(deserialize(kind, inband, buffers))
        return values

    def wait_sealed(
        self,
        refs: list[ObjectRef[Any]],
        count: int,
        timeout_ns: int,
        *,
        stop_at_error: bool = False,
    ) -> int:
        """ObjectTable.wait, with the end of the cluster as an error of ours."""
        try:
            return self.table.wait(refs, count, timeout_ns, stop_at_error)
        except StoreClosedError as error:
            raise ClusterUnavailableError(
                "the node's daemons are gone, and with them what was waited for",
                hint="start the cluster again",
            ) from error

    def keep_for_good(self, ref: ObjectRef[Any]) -> None:
        """Somebody holds a pickle of the reference that we cannot see: the object stays until this process ends."""
        self._kept.append(self.table.share(ObjectRef, ref))

    def future_of(self, ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
        """A future of the value, completed by a thread of this runtime."""
        if self._waiter is None:
            self._waiter = FutureWaiter(self)
        return self._waiter.add(ref)

    # ---- tasks

    def queue_for(self, demand: dict[str, float]) -> int:
        """The ready queue of a shape of resources.

        Raises UnschedulableError when no node can ever meet it.
        """
        key = tuple(sorted(demand.items()))
        queue = self._queues.get(key)
        if queue is None:
            answer = self.scheduler.call("get_queue", {"job_id": self.job_id, "resources": demand})
            queue = self._queues[key] = int(answer["queue"])
        return queue

    def submit(
        self,
        queue: int,
        function: int,
        arguments: Arguments,
        keep: ObjectRef[Any],
        *,
        return_count: int,
        retries: int,
    ) -> list[ObjectRef[Any]]:
        """Submits a task; returns its results' references at once.

        Waits while the queue is full.
        """
        nested: list[Any] = [keep, *arguments.nested]
        return self._submit(queue, function, arguments, nested, return_count, retries, 0, False)

    def call_actor(
        self,
        mailbox: int,
        method: int,
        arguments: Arguments,
        creation: ObjectRef[Any],
        *,
        return_count: int,
        retries: int,
    ) -> list[ObjectRef[Any]]:
        """Puts a call into an actor's mailbox, in this caller's order.

        Raises QueueClosedError when it is dead.
        """
        nested: list[Any] = [creation, *arguments.nested]
        return self._submit(
            mailbox, method, arguments, nested, return_count, retries, TaskFlag.ACTOR_CALL, True
        )

    def _submit(
        self,
        queue: int,
        function: int,
        arguments: Arguments,
        nested: list[Any],
        return_count: int,
        retries: int,
        flags: int,
        in_order: bool,
    ) -> list[ObjectRef[Any]]:
        context = self.scope().context
        task_id = None
        while True:
            try:
                return self.tasks.submit(
                    ObjectRef,
                    context,
                    queue,
                    function,
                    arguments.payload,
                    arguments.dependencies,
                    nested,
                    return_count,
                    retries,
                    flags,
                    in_order,
                    task_id,
                )
            except QueueFullError:
                # Back-pressure. The id drawn for the refused try is not used again, and nothing of
                # it is left.
                self.store.segment.poke_scheduler()
                time.sleep(QUEUE_FULL_PAUSE_S)

    # ---- the cluster

    def ask(self, method: str, body: Body) -> Body:
        """Asks the local scheduler. Raises what it raises, or ClusterUnavailableError."""
        try:
            return self.scheduler.call(method, body)
        except StoreUnavailableError as error:
            raise ClusterUnavailableError(
                "the node's local scheduler does not answer", hint="start the cluster again"
            ) from error

    def cluster_lost(self) -> None:
        """The daemons are gone: whoever waits in this process gets an error instead of waiting for ever."""
        logger.debug("the node's daemons are gone")
        self.store.segment.close()
        self.store.segment.poke(self.store.slot)

    def at_close(self, callback: Callable[[], None]) -> None:
        """Calls back when this runtime closes, in reverse order."""
        self._on_close.append(callback)

    def close(self) -> None:
        """Leaves the cluster. Idempotent."""
        self.store.segment.close()
        self.store.segment.poke(self.store.slot)
        if self._waiter is not None:
            self._waiter.stop()
        self.scheduler.close()
        self.store.close()
        while self._on_close:
            self._on_close.pop()()


_sessions = itertools.count(1)


def load_error(read: Any) -> BaseException:
    """The exception to raise for an object that is an error."""
    kind, _, inband, buffers = read
    if kind != KIND_PICKLE:
        return ObjectLostError("an error of a task could not be read")
    try:
        error = deserialize(kind, inband, buffers)
    except Exception as failure:  # whatever a user's exception class does when it is rebuilt
        return RostralError(f"a task failed, and its error cannot be rebuilt here: {failure!r}")
    if isinstance(error, TaskError):
        return error.as_instance_of_cause()
    if isinstance(error, BaseException):
        return error
    return RostralError(f"a task failed with {error!r}")


class FutureWaiter:
    """One thread that completes futures as their objects are sealed."""

    INTERVAL_NS = 100_000_000

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pending: dict[int, tuple[ObjectRef[Any], concurrent.futures.Future[Any]]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Condition()
        self._stopped = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="rostral-futures", daemon=True)
        self._thread.start()

    def add(self, ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
        """A future that this thread will complete."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        with self._lock:
            self._pending[next(self._numbers)] = ref, future
            self._lock.notify()
        self._runtime.store.segment.poke(self._runtime.store.slot)
        return future

    def stop(self) -> None:
        """Ends the thread; open futures are cancelled."""
        with self._lock:
            self._stopped = True
            self._lock.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5.0)
        for _, future in self._pending.values():
            future.cancel()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._pending or self._stopped)
                if self._stopped:
                    return
                pending = dict(self._pending)
            refs = [ref for ref, _ in pending.values()]
            try:
                self._runtime.table.wait(refs, 1, self.INTERVAL_NS)
            except RostralError as error:
                done = dict.fromkeys(pending, error)
            else:
                done = {
                    number: None
                    for number, (ref, _) in pending.items()
                    if self._runtime.table.is_sealed(ref)
                }
            for number, failure in done.items():
                self._complete(number, failure)

    def _complete(self, number: int, failure: RostralError | None) -> None:
        with self._lock:
            ref, future = self._pending.pop(number)
        if not future.set_running_or_notify_cancel():
            return
        try:
            if failure is not None:
                raise failure
            future.set_result(self._runtime.get([ref], None)[0])
        except BaseException as error:
            future.set_exception(error)
