"""The node's shared memory, as tasks that cross nodes need it: the second adapter to the store.

This file owns how a claimed task becomes a message, how a message becomes a task of this node, and
how results come in and go out. It decides nothing. What may wait for room in the store, or for its
disk, is said so: it must not be called on the event loop that may serve the store itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rostral_gcs.ids import ObjectID
from rostral_objectstore import layout
from rostral_objectstore._native import cancelling, forwarding
from rostral_objectstore._native.table import Handle
from rostral_objectstore._native.task import TaskContext, Tasks
from rostral_objectstore.client import StoreClient
from rostral_objectstore.errors import (
    MissingExtraError,
    ObjectAlreadyExistsError,
    ObjectStoreError,
)
from rostral_scheduler.between.messages import Input, Result, Submit
from rostral_scheduler.local.node_memory import KIND_PICKLE, NodeMemory, pickled

__all__ = [
    "CANCELLED",
    "CANCEL_CHILDREN",
    "LATE",
    "RETRY_FOREVER",
    "ClaimedTask",
    "HostedTask",
    "MissingExtraError",
    "NotTransferableError",
    "TransitMemory",
    "error_result",
]

RETRY_FOREVER: Final = 0xFFFFFFFF
CANCELLED: Final = int(layout.TaskFlag.CANCELLED)
_ERROR: Final = int(layout.ObjectFlag.ERROR)
_COMPOUND: Final = int(layout.ObjectFlag.COMPOUND)
LATE: Final = int(layout.TaskFlag.LATE)
CANCEL_CHILDREN: Final = int(layout.TaskFlag.CANCEL_CHILDREN)
_IN_MEMORY: Final = (layout.ObjectState.SEALED, layout.ObjectState.SPILLED)
_SUBMIT_FLAGS: Final = int(layout.TaskFlag.DYNAMIC)


class NotTransferableError(ObjectStoreError):
    """Something of a task cannot leave its node."""


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
        self._watching = False

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

    def input(self, loc: int, inline_max: int) -> Input:
        """An input as it travels: small ones with their bytes, of large ones the size alone.

        Does not block: what is on disk is large. Raises NotTransferableError.
        """
        handle = self._table.adopt_held(Handle, loc)
        state = self._table.state(handle)
        if state not in _IN_MEMORY:
            return Input(handle.binary())
        size = self._table.size(handle)
        if state == layout.ObjectState.SPILLED:
            return Input(handle.binary(), size=max(size, 1))
        if self._table.references(handle):
            raise NotTransferableError(
                f"object {handle.hex()}, which a task needs, refers to other objects, and those do "
                "not travel between nodes",
                hint="pass the inner objects on their own, or have the task run where they are",
            )
        if size > inline_max:
            return Input(handle.binary(), size=size)
        read = self._table.read_raw(handle)
        assert read is not None
        kind, flags, data = read
        return Input(handle.binary(), kind, flags, bytes(data), size)

    def object_id(self, loc: int) -> bytes:
        """The id of an object that a claimed task keeps."""
        return bytes(self._table.adopt_held(Handle, loc).binary())

    def flags_of(self, claimed: ClaimedTask) -> int | None:
        """Its flags as they are now; None: it is not the scheduler's any more."""
        return forwarding.flags_of(self._segment, claimed.task, claimed.task_id)

    def seal(self, claimed: ClaimedTask, index: int, result: Result) -> None:
        """Seals a result that came with its bytes. May wait for room. Raises ObjectStoreError."""
        assert result.data is not None
        # By its id: while we come to it, its job may have ended.
        handle = self._table.find(Handle, claimed.result_id(index))
        if handle is not None:
            self._write(handle, result.kind, result.flags, result.data)

    def finish(self, claimed: ClaimedTask) -> None:
        """All its results are sealed."""
        forwarding.finish(self._segment, claimed.task, claimed.task_id)

    def fail(self, claimed: ClaimedTask, error: Exception) -> None:
        """Seals what is missing of its results with the error, and ends it. May wait for room."""
        data = pickled(error)
        for index in range(len(claimed.results)):
            self.seal(claimed, index, Result(KIND_PICKLE, _ERROR, len(data), data))
        self.finish(claimed)

    def requeue(self, claimed: ClaimedTask, queue: int, retries: int) -> bool:
        """Puts it into a queue of this node. False: there is no room, or it was cancelled."""
        return forwarding.requeue(self._segment, claimed.task, claimed.task_id, queue, retries)

    def fetch(self, object_id: bytes, store: str, size: int) -> Handle:
        """Brings an object from another node's store; returns when it is here.

        Raises what `StoreClient.fetch` does.
        """
        return self._client.fetch(ObjectID(object_id), [store], size_bytes=size, cached=False)

    def transfer_address(self) -> str:
        """Where other nodes fetch from this one's store, which listens from now on.

        Raises MissingExtraError, ConfigError.
        """
        return self._client.transfer_address()

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
            self._write(handle, given.kind, given.flags, given.data)
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
        state, size = self._table.state(handle), self._table.size(handle)
        if state == layout.ObjectState.SEALED:
            if self._table.references(handle):
                return error_result(
                    NotTransferableError(
                        f"the result {handle.hex()} has references to other objects, which do not "
                        "travel between nodes",
                        hint="return values, or have the task run where it is submitted",
                    )
                )
            if size <= inline_max:
                read = self._table.read_raw(handle)
                assert read is not None
                return Result(read[0], read[1], size, bytes(read[2]))
        if state not in _IN_MEMORY:
            return error_result(
                ObjectStoreError(f"the result {handle.hex()} was lost before it was taken")
            )
        return Result(0, 0, size, None)

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
                _ERROR,
            )
        )

    # ---- both

    def _write(self, handle: Handle, kind: int, flags: int, data: bytes) -> None:
        """Seals an object with bytes that `read_raw` gave elsewhere, unless it is sealed."""
        table = self._table
        if not flags & _COMPOUND:
            table.fill(handle, kind, data, [], [], flags)
            return
        try:
            written, buffer = table.create(Handle, handle.binary(), len(data), kind)
        except ObjectAlreadyExistsError:
            return
        try:
            memoryview(buffer).cast("B")[:] = data
            table.seal_raw(written, flags)
        except BaseException:
            table.abort(written)
            raise


def error_result(error: Exception) -> Result:
    """A result that is an error."""
    data = pickled(error)
    return Result(KIND_PICKLE, _ERROR, len(data), data)
