"""The node's shared memory, as tasks that cross nodes need it: the second adapter to the store.

This file owns how a claimed task becomes a message, how a message becomes a task of this node, and
how results come in and go out. It decides nothing. What may wait for room in the store, or for its
disk, is said so: it must not be called on the event loop that may serve the store itself.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from rostral_gcs.ids import ObjectID
from rostral_objectstore import device_ids, layout
from rostral_objectstore._native import cancelling, elsewhere, forwarding, repair
from rostral_objectstore._native.table import Handle
from rostral_objectstore._native.task import TaskContext, Tasks
from rostral_objectstore.client import StoreClient
from rostral_objectstore.errors import (
    MissingExtraError,
    ObjectAlreadyExistsError,
    ObjectFetchError,
    ObjectLostError,
    ObjectNotFoundError,
    ObjectReconstructionFailedError,
    ObjectStoreError,
    QueueClosedError,
    QueueFullError,
)
from rostral_objectstore.host_copies import HostCopies
from rostral_scheduler.between.messages import Call, Input, Result, Stub, Submit
from rostral_scheduler.between.patience import patiently
from rostral_scheduler.local.node_memory import KIND_PICKLE, NodeMemory, pickled

__all__ = [
    "CANCELLED",
    "CANCEL_CHILDREN",
    "ERROR",
    "LATE",
    "RETRY_FOREVER",
    "ClaimedTask",
    "Handle",
    "HostedTask",
    "Key",
    "MissingExtraError",
    "NotSealedError",
    "NotTransferableError",
    "ObjectFetchError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "QueueClosedError",
    "QueueFullError",
    "Stage",
    "TransitMemory",
    "error_result",
]

RETRY_FOREVER: Final = 0xFFFFFFFF
CANCELLED: Final = int(layout.TaskFlag.CANCELLED)
ERROR: Final = int(layout.ObjectFlag.ERROR)
_COMPOUND: Final = int(layout.ObjectFlag.COMPOUND)
LATE: Final = int(layout.TaskFlag.LATE)
CANCEL_CHILDREN: Final = int(layout.TaskFlag.CANCEL_CHILDREN)
_IN_MEMORY: Final = (layout.ObjectState.SEALED, layout.ObjectState.SPILLED)
PARTS_BYTES_MAX: Final = 16 << 20
"""Of a value with references."""
REFERENCES_MAX: Final = 100_000
BESIDE_BYTES_MAX: Final = 32 << 20
Key = tuple[int, int]
"""An object's record on this node: locator and version."""
_SUBMIT_FLAGS: Final = int(layout.TaskFlag.DYNAMIC)
_CALL_FLAGS: Final = int(layout.TaskFlag.DYNAMIC | layout.TaskFlag.ACTOR_CALL)


class NotTransferableError(ObjectStoreError):
    """Something of a task cannot leave its node."""


class NotSealedError(ObjectStoreError):
    """Something that a task refers to is not there yet."""


class Stage(enum.Enum):
    """How far a task is, as its record on this node says."""

    WAITS = enum.auto()
    """For its inputs, or in a queue."""
    OURS = enum.auto()
    """The scheduler has claimed it, and may have brought it elsewhere."""
    RUNS = enum.auto()
    OVER = enum.auto()


@dataclass(slots=True, eq=False)
class ClaimedTask:
    """A task that the scheduler has claimed, to have it run elsewhere.

    Attributes:
        task: Its record's locator.
        results: Locators of the objects that it is to make.
    """

    task: int
    task_id: bytes
    parent: bytes
    function: int
    payload: bytes
    flags: int
    retries: int
    deadline_ns: int
    inputs: list[int]
    results: list[int]
    submitter: int = 0

    def result_id(self, index: int) -> bytes:
        """The id of a result."""
        return self.task_id + index.to_bytes(4, "little")

    @property
    def is_stream(self) -> bool:
        """Whether its results come one by one, as it runs."""
        return bool(self.flags & layout.TaskFlag.STREAM)


@dataclass(slots=True, eq=False)
class HostedTask:
    """A task of another node's that runs here.

    Attributes:
        task: Its record's locator; 0: what it is to make is here, or on its way, without it.
        results: Holds on the objects that it makes.
    """

    task: int
    task_id: bytes
    results: list[Handle]


class TransitMemory:
    """What the scheduler does in shared memory for tasks that cross nodes."""

    def __init__(self, memory: NodeMemory) -> None:
        self._client: StoreClient = memory.client
        self._segment = self._client.segment
        self._table = self._client.table
        # Of its own: what ends in it is told to other nodes.
        self._hosted = Tasks(self._table)
        self._hosted.tells_done = True
        self._rebuilt = Tasks(self._table)
        self._rebuilt.tells_done = True
        self._watching = False
        self._host_copies = HostCopies(self._client)
        self.stub_of: Callable[[bytes], Stub | None] = lambda _: None
        """Which actor an object stands for, by its id; None: it is an object as any other."""

    # ---- the origin

    def claim(self, queue: int, limit: int) -> list[int]:
        """Claims the oldest tasks of a queue."""
        return list(forwarding.claim_first(self._segment, queue, limit))

    def describe(self, task: int) -> ClaimedTask:
        """What there is to know of a task that `claim` gave."""
        return ClaimedTask(task, *forwarding.specification(self._segment, task))

    def function_of(self, claimed: ClaimedTask) -> int:
        """Which of its inputs is its code. Raises NotTransferableError."""
        try:
            return claimed.inputs.index(claimed.function & 0xFFFFFFFF)
        except ValueError:
            raise NotTransferableError(
                f"task {claimed.task_id.hex()} does not keep its code",
                hint="submit it with the rostral of this version",
            ) from None

    def large_inputs(self, claimed: ClaimedTask, at_least: int) -> list[tuple[bytes, int]]:
        """Ids and sizes of its sealed inputs of so many bytes or more, and of arrays on devices."""
        found = []
        for loc in claimed.inputs:
            handle = self._table.adopt_held(Handle, loc)
            state = self._table.state(handle)
            if state not in _IN_MEMORY:
                continue
            sized = [(handle.binary(), self._table.size(handle))]
            if state == layout.ObjectState.SEALED:
                sized += [(id, device_ids.size_of(id)) for id in self._table.references(handle)]
            found += [(id, size) for id, size in sized if size >= at_least]
        return found

    def input(self, loc: int, inline_max: int) -> Input:
        """An input as it travels: small ones with their bytes, of large ones the size alone.

        Does not block: what is on disk is large. Raises NotTransferableError.
        """
        return self._describe(self._table.adopt_held(Handle, loc), inline_max)

    def beside(self, parts: Sequence[Input | Result], inline_max: int) -> list[Input]:
        """What these refer to and do not bring along, and so on: what is referred to comes first.

        Raises NotSealedError while something of it is not there, NotTransferableError, and
        DeviceLostError, ... for arrays on devices, which have to leave these first.
        """
        found: dict[bytes, Input] = {}
        # (id, whether what it refers to has been visited): a chain may be longer than a stack.
        todo = [(object_id, False) for part in parts for object_id in part.refs]
        total = 0
        while todo:
            object_id, visited = todo.pop()
            if visited:
                found[object_id] = found.pop(object_id)
                continue
            if object_id in found:
                continue
            handle = self._table.find(Handle, object_id)
            given = None if handle is None else self._describe(handle, inline_max)
            if given is None or given.is_missing:
                if handle is not None and device_ids.is_host_object(object_id):
                    self._host_copies.want(handle)
                raise NotSealedError(f"object {object_id.hex()} is not sealed yet")
            total += len(given.data or b"") + sum(map(len, given.buffers))
            if len(found) >= REFERENCES_MAX or total > BESIDE_BYTES_MAX:
                raise NotTransferableError(
                    f"a value refers to more than {REFERENCES_MAX} objects, or to small ones of "
                    f"more than {BESIDE_BYTES_MAX} bytes together: they do not travel at once",
                    hint="pass fewer references in one value",
                )
            found[object_id] = given
            todo.append((object_id, True))
            todo += [(inner, False) for inner in given.refs]
        return list(found.values())

    def missing(self, claimed: ClaimedTask) -> list[Handle]:
        """Holds on those inputs that are not sealed; none if one has failed."""
        handles = [self._table.adopt_held(Handle, loc) for loc in claimed.inputs]
        found = [handle for handle in handles if not self._table.is_sealed(handle)]
        if found and any(map(self._hosted.has_failed, handles)):
            return []
        return found

    def _describe(self, handle: Handle, inline_max: int) -> Input:
        stub = self.stub_of(handle.binary())
        if stub is not None:
            # How to build an actor is of no use elsewhere, and may be large.
            return Input(handle.binary(), KIND_PICKLE, 0, b"", stub=stub)
        return self.whole(handle, inline_max)

    def whole(self, handle: Handle, inline_max: int) -> Input:
        """An object as it travels, though it stand for an actor. Raises NotTransferableError."""
        state = self._table.state(handle)
        if state not in _IN_MEMORY:
            return Input(handle.binary())
        kind, flags, size = elsewhere.facts(self._table, handle)
        if state == layout.ObjectState.SPILLED:
            return Input(handle.binary(), kind, flags, size=max(size, 1))
        refs = self._table.references(handle)
        if refs:
            return self._describe_parts(handle, refs, inline_max)
        if size > inline_max:
            return Input(handle.binary(), kind, flags, size=size)
        read = self._table.read_raw(handle)
        assert read is not None
        kind, flags, data = read
        return Input(handle.binary(), kind, flags, bytes(data), size)

    def _describe_parts(self, handle: Handle, refs: list[bytes], inline_max: int) -> Input:
        """A value with references: in its block they name records of this node."""
        size = self._table.size(handle)
        if size > max(inline_max, PARTS_BYTES_MAX):
            raise NotTransferableError(
                f"object {handle.hex()} refers to other objects and has {size} bytes: with more "
                f"than {PARTS_BYTES_MAX} it does not travel between nodes",
                hint="put what is large apart, and refer to that",
            )
        read = self._table.read(handle)
        assert read is not None
        kind, is_error, inband, buffers = read
        return Input(
            handle.binary(),
            kind,
            ERROR if is_error else 0,
            bytes(inband),
            size,
            buffers=[bytes(buffer) for buffer in buffers],
            refs=refs,
        )

    def object_id(self, loc: int) -> bytes:
        """The id of an object that a claimed task keeps."""
        return bytes(self._table.adopt_held(Handle, loc).binary())

    def stage(self, task: int, task_id: bytes) -> Stage:
        """How far the task is whose record was at the locator."""
        claimer = cancelling.claimer_of(self._segment, task, task_id)
        if claimer is not None:
            return Stage.OURS if claimer == self._client.slot else Stage.RUNS
        record = repair.task_info(self._segment, task)
        is_over = record["state"] in (layout.TaskState.FREE, layout.TaskState.DONE)
        return Stage.OVER if is_over or record["id"] != task_id else Stage.WAITS

    def is_made(self, claimed: ClaimedTask) -> bool:
        """Whether each of its results is sealed, or gone."""
        found = (self.find(claimed.result_id(index)) for index in range(len(claimed.results)))
        return all(handle is None or self._table.is_sealed(handle) for handle in found)

    def flags_of(self, claimed: ClaimedTask) -> int | None:
        """Its flags as they are now; None: it is not the scheduler's any more."""
        return forwarding.flags_of(self._segment, claimed.task, claimed.task_id)

    def seal(self, claimed: ClaimedTask, index: int, result: Result) -> None:
        """Seals a result that came with its bytes. May wait for room. Raises ObjectStoreError."""
        assert result.data is not None
        # By its id: while we come to it, its job may have ended.
        handle = self._table.find(Handle, claimed.result_id(index))
        if handle is not None:
            self._write(handle, result)

    def seal_elsewhere(self, claimed: ClaimedTask, index: int, result: Result) -> Key | None:
        """Seals a result whose bytes stay where they are. None: it is sealed already, or gone."""
        handle = self._table.find(Handle, claimed.result_id(index))
        if handle is None or not elsewhere.seal_elsewhere(
            self._table, handle, result.kind, result.flags, result.size
        ):
            return None
        return handle.loc, handle.version

    def hold_inputs(self, locs: Sequence[int]) -> list[Handle]:
        """Holds on what a task needs; none if some of it is gone with its submitter."""
        try:
            return [self._table.adopt_held(Handle, loc) for loc in locs]
        except ObjectNotFoundError:
            return []

    def finish(self, claimed: ClaimedTask) -> None:
        """All its results are sealed."""
        forwarding.finish(self._segment, claimed.task, claimed.task_id)

    def fail(self, claimed: ClaimedTask, error: Exception | bytes) -> None:
        """Seals what is missing of its results with the error, and ends it. May wait for room."""
        data = error if isinstance(error, bytes) else pickled(error)
        for index in range(len(claimed.results)):
            self.seal(claimed, index, Result(KIND_PICKLE, ERROR, len(data), data))
        self.finish(claimed)

    def requeue(self, claimed: ClaimedTask, queue: int, retries: int) -> bool:
        """Puts it into a queue of this node. False: there is no room, or it was cancelled."""
        return forwarding.requeue(self._segment, claimed.task, claimed.task_id, queue, retries)

    def fetch(self, object_id: bytes, stores: Sequence[str], size: int) -> Handle:
        """Brings an object from one of other nodes' stores; returns when it is here.

        Raises what `StoreClient.fetch` does.
        """
        fetch = partial(self._client.fetch, size_bytes=size, cached=False)
        return patiently(self._client, lambda: fetch(ObjectID(object_id), list(stores)))

    def transfer_address(self) -> str:
        """Where other nodes fetch from this one's store, which listens from now on.

        Raises MissingExtraError, ConfigError.
        """
        return patiently(self._client, self._client.transfer_address)

    # ---- what is elsewhere, or nowhere

    def adopt(self, packed: bytes) -> Handle:
        """The object that a process of this node means. Raises ObjectNotFoundError, ValueError."""
        return self._table.adopt_packed(Handle, packed)

    def is_away(self, handle: Handle) -> bool:
        """Whether the object was sealed, and its bytes are not on this node."""
        is_lost = self._table.state(handle) == layout.ObjectState.LOST
        return bool(is_lost or elsewhere.is_elsewhere(self._table, handle))

    def is_elsewhere_id(self, object_id: bytes) -> bool:
        """`is_away` of the object with the id; one that nobody here knows is not."""
        handle = self.find(object_id)
        return handle is not None and self.is_away(handle)

    def is_lost_from_disk(self, object_id: bytes) -> bool:
        """Whether it was spilled on this node, and cannot be read back."""
        handle = self.find(object_id)
        return handle is not None and self._table.state(handle) == layout.ObjectState.LOST

    def is_held_by_others(self, object_id: bytes) -> bool:
        """Whether another process, or a value, refers to the object."""
        handle = self.find(object_id)
        return handle is not None and bool(self._table.held_elsewhere(handle))

    def gone(self, keys: list[Key]) -> list[Key]:
        """Those whose objects are deleted or freed."""
        return list(elsewhere.gone(self._table, keys))

    def revive(self, object_ids: Sequence[bytes]) -> list[bytes]:
        """Has lost objects expected again; returns those that are. Blocks."""
        handles = [handle for id in object_ids if (handle := self.find(id)) is not None]
        revived = patiently(self._client, lambda: self._client.revive(handles))
        return [
            handle.binary()
            for handle, is_expected in zip(handles, revived, strict=True)
            if is_expected
        ]

    def fill(self, object_id: bytes, error: Exception) -> None:
        """Seals an object that is expected with an error. May wait for room."""
        handle = self.find(object_id)
        if handle is not None:
            self._write(handle, error_result(error))

    def submit_again(
        self, claimed: ClaimedTask, queue: int, inputs: Sequence[Handle], retries: int
    ) -> None:
        """Has a task run again that makes what is expected. May wait for room.

        Raises QueueClosedError, QueueFullError, ObjectStoreFullError.
        """
        self._rebuilt.submit(
            Handle,
            TaskContext(claimed.parent + bytes(8)),
            queue,
            claimed.function,
            claimed.payload,
            list(inputs),
            [],
            len(claimed.results),
            retries,
            claimed.flags & _SUBMIT_FLAGS,
            False,
            claimed.task_id,
        )

    def take_rebuilt(self) -> list[bytes]:
        """Ids of tasks that were submitted again and have ended since."""
        if not self._rebuilt.unfinished_count:
            return []
        return forwarding.take_done(self._rebuilt)

    # ---- the host

    def watch(self) -> None:
        """From here on, the end of each hosted task pokes the scheduler."""
        if not self._watching:
            self._watching = True
            forwarding.watch_results(self._segment)

    def hold(self, given: Input) -> Handle:
        """An input of a hosted task; with its bytes, sealed. May wait for room."""
        handle = self._table.expect(Handle, given.id)
        if given.data is not None:
            self._write(handle, given)
        return handle

    def is_here(self, handle: Handle) -> bool:
        """Whether the object is sealed."""
        return bool(self._table.is_sealed(handle))

    def submit(self, message: Submit, queue: int, inputs: Sequence[Handle]) -> HostedTask:
        """Makes it a task of this node. May wait for room. Raises QueueFullError, ..."""
        code = inputs[message.function]
        deadline_ns = message.deadline_left_ns
        if deadline_ns:
            deadline_ns = max(1, time.monotonic_ns() + deadline_ns)
        results = self._hosted.submit(
            Handle,
            TaskContext(message.parent + bytes(8)),
            queue,
            code.loc | code.version << 32,
            message.payload,
            list(inputs),
            [],
            message.return_count,
            message.retries,
            message.flags & _SUBMIT_FLAGS,
            False,
            message.task_id,
            None,
            deadline_ns,
        )
        task = forwarding.newest(self._hosted, message.task_id)
        return HostedTask(task, message.task_id, results)

    def submit_call(self, message: Call, mailbox: int, inputs: Sequence[Handle]) -> HostedTask:
        """Puts it into the mailbox of an actor of this node. May wait for room in the store.

        Raises QueueFullError, QueueClosedError, ...
        """
        call = message.task
        deadline_ns = call.deadline_left_ns
        if deadline_ns:
            deadline_ns = max(1, time.monotonic_ns() + deadline_ns)
        results = self._hosted.submit(
            Handle,
            TaskContext(call.parent + bytes(8)),
            mailbox,
            message.word,
            call.payload,
            list(inputs),
            [],
            call.return_count,
            call.retries,
            call.flags & _CALL_FLAGS,
            True,
            call.task_id,
            None,
            deadline_ns,
        )
        task = forwarding.newest(self._hosted, call.task_id)
        return HostedTask(task, call.task_id, results)

    def hold_input(self, loc: int) -> Handle:
        """A hold of this scheduler's on what a claimed task keeps."""
        return self._table.adopt_held(Handle, loc)

    def hold_stub(self, object_id: bytes) -> Handle:
        """The object that stands for an actor of another node, made if it is not there."""
        handle = self._table.expect(Handle, object_id)
        self._table.fill(handle, KIND_PICKLE, b"", [], [])
        return handle

    def place_of(self, handle: Handle) -> dict[str, object]:
        """Where an object lies, for a process of this node that is to hold it."""
        return {"loc": handle.loc, "version": handle.version, "id": handle.binary()}

    def find(self, object_id: bytes) -> Handle | None:
        """A hold on an object of this node's; None: it knows none of that id."""
        return self._table.find(Handle, object_id)

    def held_elsewhere(self, handle: Handle) -> bool:
        """Whether anybody but the scheduler refers to the object."""
        return bool(self._table.held_elsewhere(handle))

    def take_done(self) -> list[bytes]:
        """Ids of hosted tasks that have ended since."""
        if not self._hosted.unfinished_count:
            return []
        return forwarding.take_done(self._hosted)

    def all_sealed(self, hosted: HostedTask) -> bool:
        """Whether every result is there."""
        return all(self._table.is_sealed(handle) for handle in hosted.results)

    def result(self, handle: Handle, inline_max: int) -> Result:
        """A result as it travels. Does not block."""
        given = self._describe(handle, inline_max)
        if given.is_missing:
            error = ObjectStoreError(f"the result {handle.hex()} was lost before it was taken")
            return error_result(error)
        return Result(given.kind, given.flags, given.size, given.data, given.buffers, given.refs)

    def cancel(self, hosted: HostedTask, flags: int, error: Exception) -> bool:
        """Ends it with the error if it has not begun, else flags it. True: it runs."""
        if not hosted.task:
            return False
        return bool(
            cancelling.cancel_at(
                self._table,
                hosted.task,
                hosted.task_id,
                flags,
                KIND_PICKLE,
                pickled(error),
                ERROR,
            )
        )

    # ---- both

    def _write(self, handle: Handle, given: Input | Result) -> None:
        """Seals an object with what another node said of it, unless it is sealed."""
        table, data = self._table, given.data
        assert data is not None
        if given.refs or not given.flags & _COMPOUND:
            held = [table.expect(Handle, object_id) for object_id in given.refs]
            table.fill(handle, given.kind, data, given.buffers, held, given.flags)
            return
        try:
            written, buffer = table.create(Handle, handle.binary(), len(data), given.kind)
        except ObjectAlreadyExistsError:
            return
        try:
            memoryview(buffer).cast("B")[:] = data
            table.seal_raw(written, given.flags)
        except BaseException:
            table.abort(written)
            raise


def error_result(error: Exception | bytes) -> Result:
    """A result that is an error, pickled or yet to be."""
    data = error if isinstance(error, bytes) else pickled(error)
    return Result(KIND_PICKLE, ERROR, len(data), data)
