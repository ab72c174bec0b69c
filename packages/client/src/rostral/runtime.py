"""The runtime: what this process, driver or worker, is to its node.

Owns the attachment to the store and the connection to the local scheduler, and does what the user's
calls come down to: put, get, wait, submit. All of it happens in shared memory; the scheduler is
asked once for each new shape of resources, for each actor, and for what is said about the cluster.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rostral import _context
from rostral.arguments import Arguments
from rostral.culprits import blaming_parts
from rostral.deadlines import Deadlines
from rostral.exceptions import (
    ClusterUnavailableError,
    GetTimeoutError,
    NotPicklableError,
    StoreUnavailableError,
)
from rostral.failure import load_error
from rostral.functions import FunctionTable
from rostral.futures import FutureWaiter, OnSealed
from rostral.object_ref import ObjectRef
from rostral.packages import pack as pack_files
from rostral.recovery import Recovery
from rostral.rooms import RoomWaiter
from rostral.runtime_env import RuntimeEnv, spec_of
from rostral.scheduling_strategies import Placement
from rostral.seams import Scheduler, Store
from rostral.serialization import pack
from rostral_objectstore._native import elsewhere
from rostral_objectstore._native.lanes import rank_of
from rostral_objectstore._native.pending import PendingCalls
from rostral_objectstore._native.stream import StreamReader
from rostral_objectstore._native.task import ClaimedTask, TaskContext
from rostral_objectstore.control import Body
from rostral_objectstore.errors import (
    ObjectAlreadyExistsError,
    ObjectNotFoundError,
    QueueFullError,
    StoreClosedError,
)
from rostral_objectstore.layout import TaskFlag
from rostral_objectstore.serialization import deserialize
from rostral_scheduler.environment import EnvironmentSpec, decode_environment, encode_environment

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

    from rostral.assignment import ActorAssignment
    from rostral.progress import ProgressReporter

logger = logging.getLogger("rostral.runtime")

# How long a submitter that finds its queue full pauses at first, and at most: below the time that a
# full queue takes to drain, and long enough for another worker to be let in meanwhile.
QUEUE_FULL_PAUSE_S = 0.001
QUEUE_FULL_PAUSE_S_MAX = 0.1
# Further than any clock of the system counts; a longer wait is one without a limit.
TIMEOUT_S_MAX = 1e9
# Below any that a task has.
PRIORITY_LEAST = -(1 << 31)

T = TypeVar("T")


# What ObjectTable.read returns: kind, whether it is an error, the pickle, its buffers.
Read = tuple[int, bool, Any, Sequence[Any]]


class TaskScope:
    """What is running in this thread: names the children of a task."""

    __slots__ = (
        "__weakref__",
        "actor_id",
        "context",
        "function_name",
        "interrupt",
        "name",
        "placement",
        "task",
        "task_id",
    )

    def __init__(
        self,
        task_id: bytes,
        name: str,
        actor_id: bytes | None = None,
        placement: Placement | None = None,
        function_name: str = "",
        task: ClaimedTask | None = None,
    ) -> None:
        self.task_id = task_id
        self.placement = placement
        self.name = name
        self.actor_id = actor_id
        self.function_name = function_name or name
        self.task = task
        # While the task's code runs: how it is interrupted.
        self.interrupt: Callable[[], object] | None = None
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
        depth: how many tasks are above what is submitted here; a worker's follows its tasks.
        environment: the encoded runtime environment of what is submitted here; of a worker, its
            own.
        facts: about the connection, by name, as `Context` has them.
    """

    # Whether a task that yields waits when nobody takes its items.
    waits_for_room = True

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        *,
        job_id: bytes,
        namespace: str,
        node_id: bytes,
        root: TaskScope,
        facts: Mapping[str, str],
        environment: str = "",
        depth: int = 0,
    ) -> None:
        self.store = store
        self.table = store.table
        self.tasks = store.tasks
        self.adopt = store.table.adopt_packed
        self.scheduler = scheduler
        self.recovery = Recovery(store.table, scheduler)
        elsewhere.set_recovery(store.table, self.recovery.recover)
        self.functions = FunctionTable(store.table)
        self.job_id = job_id
        self.namespace = namespace
        self.node_id = node_id
        self.root = root
        self.environment = environment
        self.facts = facts
        self.session = next(_sessions)
        # Of an actor's process: what it was told about the actor.
        self.assignment: ActorAssignment | None = None
        self._queues: dict[
            tuple[Placement | None, str, tuple[tuple[str, float], ...], int, int, str],
            int,
        ] = {}
        # Names the lane of what is submitted here, which has this priority at least, and this
        # depth; and the same for each queue that this process has run a task of.
        self.lane = next(_sessions)
        self._priority, self._depth = PRIORITY_LEAST, depth
        self._lanes: dict[int, tuple[int, int, int]] = {}
        # Whether any scope of this process has children in its own placement group.
        self.captures = False
        # Who shows this process's progress bars; None: nobody does.
        self.reporter: ProgressReporter | None = None
        self._kept: list[ObjectRef[Any]] = []
        self._waiter: FutureWaiter | None = None
        self._deadlines: Deadlines | None = None
        self._deadlines_lock = threading.Lock()
        self._rooms: RoomWaiter | None = None
        self._on_close: list[Callable[[], None]] = []

    # ---- objects

    def scope(self) -> TaskScope:
        """The running task's scope, or the driver's."""
        return _context.task_scope.get() or self.root

    def put(self, value: T) -> ObjectRef[T]:
        """Stores a value.

        Raises TypeError for a reference, NotPicklableError, ObjectStoreFullError.
        """
        if isinstance(value, ObjectRef):
            raise TypeError(
                "put() was given an ObjectRef: pass the reference itself on, or put it in a list"
            )
        try:
            packed = pack(value)
        except NotPicklableError as error:
            raise blaming_parts(error, value) from error
        object_id = self.scope().context.next_put_id()
        try:
            return self.table.put(
                ObjectRef, object_id, packed.kind, packed.inband, packed.buffers, packed.refs
            )
        except ObjectAlreadyExistsError:
            # This task runs again, and somebody has kept what its first run put.
            return self.table.expect(ObjectRef, object_id)
        except StoreClosedError as error:
            raise self.gone() from error

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """The values, in order. Raises the first error that is found, or GetTimeoutError."""
        try:
            reads = self._read(refs)
            if None in reads:
                reads = self._await_reads(refs, reads, timeout_s)
        except StoreClosedError as error:
            raise self.gone() from error
        values = []
        try:
            for found in reads:
                kind, is_error, inband, buffers = found  # type: ignore[misc]
                if is_error:
                    raise load_error(found)  # type: ignore[arg-type]
                values.append(deserialize(kind, inband, buffers))
        except ObjectNotFoundError:
            # A reference in one of them is gone. If it was freed since we read it, that says why.
            self.table.read(refs[len(values)])
            raise
        return values

    def free(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """Gives the values up, whoever holds them. Raises ValueError, ClusterUnavailableError."""
        try:
            self.store.free(refs)
        except StoreClosedError as error:
            raise self.gone() from error

    def _read(self, refs: Sequence[ObjectRef[Any]]) -> list[Read | None]:
        """What is sealed of them; None for what is not."""
        read = self.table.read
        if len(refs) == 1:
            return [read(refs[0])]
        self.recovery.ahead = refs
        try:
            return [read(ref) for ref in refs]
        finally:
            self.recovery.ahead = ()

    def _await_reads(
        self, refs: Sequence[ObjectRef[Any]], reads: list[Read | None], timeout_s: float | None
    ) -> list[Read | None]:
        """Waits for what could not be read. Raises the first error found, or GetTimeoutError."""
        if timeout_s != 0 and _context.runs_event_loop():
            logger.warning(
                "get() waits in a coroutine, and with it waits its whole event loop: await the "
                "reference instead"
            )
        deadline_s = None
        if timeout_s is not None and timeout_s <= TIMEOUT_S_MAX:
            deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            self.wait_sealed(list(refs), len(refs), left_s, stop_at_error=True)
            again = self._read([ref for ref, read in zip(refs, reads, strict=True) if not read])
            found = iter(again)
            reads = [read or next(found) for read in reads]
            if None not in reads:
                return reads
            for read in reads:
                if read is not None and read[1]:
                    raise load_error(read)
            if deadline_s is not None and time.monotonic() >= deadline_s:
                break
            # Something was lost since it was sealed, and is being made again.
        missing = [ref.hex() for ref, read in zip(refs, reads, strict=True) if read is None]
        raise GetTimeoutError(
            f"{len(missing)} of {len(refs)} objects were not ready within {timeout_s} s, the first "
            f"of them {missing[0]}",
            hint="their tasks are still running or queued; rostral.wait tells which are done",
        )

    def wait_sealed(
        self,
        refs: list[ObjectRef[T]],
        count: int,
        timeout_s: float | None,
        *,
        stop_at_error: bool = False,
    ) -> int:
        """Blocks until `count` are sealed, or the timeout is over. Returns how many are.

        Raises ClusterUnavailableError when the cluster ends meanwhile.
        """
        is_unlimited = timeout_s is None or timeout_s > TIMEOUT_S_MAX
        timeout_ns = -1 if is_unlimited else int(timeout_s * 1e9)  # type: ignore[operator]
        try:
            return self.table.wait(refs, count, timeout_ns, stop_at_error)
        except StoreClosedError as error:
            raise self.gone() from error

    @staticmethod
    def gone() -> ClusterUnavailableError:
        """The error of whoever uses the cluster after its end."""
        return ClusterUnavailableError(
            "the cluster is gone, and with it what was asked for", hint="call rostral.init() again"
        )

    def find(self, object_id: bytes) -> ObjectRef[Any] | None:
        """The object with this id, if the node knows it."""
        return self.table.find(ObjectRef, object_id)

    def keep_for_good(self, ref: ObjectRef[Any]) -> None:
        """Keeps an object until this process ends: somebody holds a pickle that we cannot see."""
        self._kept.append(self.table.share(ObjectRef, ref))

    def future_of(self, ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
        """A future of the value, completed by a thread of this runtime."""
        return self._futures().add(ref)

    def watch(self, ref: ObjectRef[Any], on_sealed: OnSealed) -> None:
        """Calls back, in a thread of this runtime, once the object is sealed."""
        self._futures().watch(ref, on_sealed)

    def _futures(self) -> FutureWaiter:
        if self._waiter is None:
            self._waiter = FutureWaiter(self)
        return self._waiter

    def any_sealed(self, refs: list[ObjectRef[Any]]) -> asyncio.Future[None]:
        """A future of the running loop that is done once one of the references is ready."""
        if self._waiter is None:
            self._waiter = FutureWaiter(self)
        import asyncio

        return asyncio.wrap_future(self._waiter.when_any(refs))

    def rooms(self) -> RoomWaiter:
        """Who tells event loops of this process when its streams have room."""
        if self._rooms is None:
            self._rooms = RoomWaiter(self)
            self.at_close(self._rooms.stop)
        return self._rooms

    # ---- tasks

    def environment_for(self, env: RuntimeEnv | None) -> str:
        """The encoded runtime environment of a task or actor made here that asks for `env`.

        Packs local directories, which takes as long as reading them. Raises ValueError, OSError.
        """
        if not env:
            return self.environment
        parent = EnvironmentSpec()
        if self.environment:
            _, parent = decode_environment(self.environment)
        folder = Path(self.ask("package_dir", {})["path"])
        return encode_environment(spec_of(env, parent, functools.partial(pack_files, folder)))

    def runs_task_of(self, queue: int) -> None:
        """What is submitted from here on are children of a task of this ready queue."""
        known = self._lanes.get(queue)
        if known is None:
            priority, depth = rank_of(self.store.segment, queue)
            known = self._lanes[queue] = next(_sessions), priority, depth + 1
        self.lane, self._priority, self._depth = known

    def queue_for(
        self,
        demand: dict[str, float],
        placement: Placement | None,
        environment: str,
        priority: int,
        where: Body | None = None,
    ) -> int:
        """The ready queue of a shape of resources, in a placement group or outside of any.

        For tasks of this priority, or of the running task's where that is higher. `where` is what
        they say of nodes.

        Raises UnschedulableError when no node can ever meet it, TaskPlacementGroupRemovedError,
        LimitReachedError for too many shapes or priorities.
        """
        priority, depth = max(priority, self._priority), self._depth
        key = (placement, environment, tuple(sorted(demand.items())), priority, depth, repr(where))
        queue = self._queues.get(key)
        if queue is None:
            body = {
                "job_id": self.job_id,
                "resources": demand,
                "environment": environment,
                "priority": priority,
                "depth": depth,
            }
            if where is not None:
                body["where"] = where
            if placement is not None:
                body["bundle"] = placement.request()
            queue = self._queues[key] = int(self.scheduler.call("get_queue", body)["queue"])
        return queue

    def captured_placement(self) -> Placement | None:
        """The placement group that what the running task makes belongs to, if it does."""
        placement = self.scope().placement
        return placement if placement is not None and placement.captures else None

    def forget_group(self, group_id: bytes) -> None:
        """The placement group is removed: asks about it again the next time."""
        self._queues = {
            key: queue
            for key, queue in self._queues.items()
            if key[0] is None or key[0].group_id != group_id
        }

    def submit(
        self,
        queue: int,
        function: int,
        arguments: Arguments,
        keep: ObjectRef[Any],
        *,
        return_count: int,
        retries: int,
        flags: int = 0,
        deadline_ns: int = 0,
    ) -> list[ObjectRef[Any]]:
        """Submits a task; returns its results' references at once.

        Waits while the queue is full.
        """
        nested: list[Any] = [keep, *arguments.nested]
        refs: list[ObjectRef[Any]] = self._submit(
            queue,
            function,
            arguments,
            nested,
            return_count,
            retries,
            flags,
            False,
            deadline_ns=deadline_ns,
        )
        return refs

    def submit_stream(
        self,
        queue: int,
        function: int,
        arguments: Arguments,
        keep: ObjectRef[Any],
        *,
        retries: int,
        room: int,
        deadline_ns: int = 0,
    ) -> StreamReader[ObjectRef[Any]]:
        """Submits a task that yields; `room` items at most lie there that nobody has taken."""
        nested: list[Any] = [keep, *arguments.nested]
        reader: StreamReader[ObjectRef[Any]] = self._submit(
            queue, function, arguments, nested, 1, retries, 0, False, None, room, deadline_ns
        )
        return reader

    def call_actor(
        self,
        mailbox: int,
        method: int,
        arguments: Arguments,
        creation: ObjectRef[Any] | None,
        *,
        return_count: int,
        retries: int,
        pending: PendingCalls | None,
        flags: int = 0,
        room: int = 0,
        deadline_ns: int = 0,
    ) -> Any:
        """Puts a call into an actor's mailbox, in this caller's order.

        Returns its results' references; with `room`, of a method that yields, its StreamReader.
        The call keeps `creation` until it is done, and with it the actor; an actor ends after the
        calls in its mailbox anyway.

        Raises QueueClosedError when it is dead, and PendingCallsLimitError when `pending` is full.
        """
        nested: list[Any] = arguments.nested
        if creation is not None:
            nested = [creation, *nested]
        flags |= TaskFlag.ACTOR_CALL
        return self._submit(
            mailbox,
            method,
            arguments,
            nested,
            return_count,
            retries,
            flags,
            True,
            pending,
            room,
            deadline_ns,
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
        in_order: bool,  # noqa: FBT001 - by position: a keyword takes time
        pending: PendingCalls | None = None,
        room: int = 0,
        deadline_ns: int = 0,
    ) -> Any:
        context = self.scope().context
        pause_s = QUEUE_FULL_PAUSE_S
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
                    None,
                    pending,
                    deadline_ns,
                    room,
                )
            except QueueFullError:
                # Back-pressure. The id drawn for the refused try is not used again, and nothing of
                # it is left.
                pause_s = self._wait_for_room(pause_s)
            except StoreClosedError as error:
                raise self.gone() from error

    def _wait_for_room(self, pause_s: float) -> float:
        """Pauses a submitter whose queue is full; returns how long to pause the next time."""
        # A wait like any other, for something that never comes: so the scheduler sees that a worker
        # is blocked, and lets another run what is queued. Sleeping, all of them could wait here.
        never: ObjectRef[None] = self.table.expect(ObjectRef, os.urandom(20))
        self.wait_sealed([never], 1, pause_s)
        return min(2 * pause_s, QUEUE_FULL_PAUSE_S_MAX)

    def deadline_after(self, allowed_ns: int) -> int:
        """The deadline of a task that is submitted now, which this process sees to."""
        with self._deadlines_lock:
            if self._deadlines is None:
                self._deadlines = Deadlines(self)
                self.at_close(self._deadlines.stop)
        return self._deadlines.begin(allowed_ns)

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
        """The daemons are gone: whoever waits in this process gets an error, and need not go on."""
        logger.debug("the node's daemons are gone")
        self.store.segment.close()
        self.store.segment.poke(self.store.slot)

    def at_close(self, callback: Callable[[], None]) -> None:
        """Calls back before this runtime closes, in reverse order."""
        self._on_close.append(callback)

    def close(self) -> None:
        """Leaves the cluster. Idempotent."""
        while self._on_close:
            self._on_close.pop()()
        self.store.segment.close()
        self.store.segment.poke(self.store.slot)
        if self._waiter is not None:
            self._waiter.stop()
        self.scheduler.close()
        self.store.close()


_sessions = itertools.count(1)
