"""A process's connection to its node's store: attach once, then work in shared memory.

Owns the attachment and the face that users of the store alone type. The rest of Rostral uses the
same attachment through `table` and `tasks`.
"""

from __future__ import annotations

import math
import os
import time
from types import TracebackType
from typing import Any, Literal, Self

from rostral_gcs.ids import ObjectID
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore._native.task import Tasks
from rostral_objectstore.control import Body, ControlClient
from rostral_objectstore.errors import ObjectNotFoundError, ObjectTimeoutError, ProtocolError
from rostral_objectstore.layout import ObjectState
from rostral_objectstore.serialization import (
    KIND_ARROW,
    KIND_BUFFER,
    deserialize,
    serialize,
    serialize_arrow,
)

# A longer wait, infinity included, is one without a timeout.
TIMEOUT_S_MAX = 1e9

ClientKind = Literal["client", "driver", "worker", "actor", "scheduler"]


class ObjectHandle(Handle):
    """A hold on one object: while any handle of it lives in any process, the object stays."""

    __slots__ = ()

    @property
    def id(self) -> ObjectID:
        """The object's id, by which another process finds it."""
        return ObjectID(self.binary())


class WritableObject:
    """An object being written in place: fill `buffer`, then `seal`.

    Leaving the `with` block unsealed aborts it.
    """

    def __init__(self, table: ObjectTable, handle: ObjectHandle, buffer: Any) -> None:
        self._table, self._handle, self._buffer = table, handle, buffer
        self._open = True

    @property
    def buffer(self) -> memoryview:
        """The bytes inside the store, writable until `seal`."""
        return memoryview(self._buffer)

    def seal(self) -> ObjectHandle:
        """Publishes the object. Nothing may be written to the buffer afterwards."""
        self._table.seal(self._handle)
        self._open = False
        return self._handle

    def abort(self) -> None:
        """Gives the object up."""
        self._open = False
        self._table.abort(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._open:
            self.abort()


class StoreClient:
    """This process's attachment to the store. Use `StoreClient.connect`.

    Attributes:
        segment, table, tasks: the attachment's native parts, for the other packages of Rostral.
        slot: this process's client slot.
    """

    def __init__(self, control: ControlClient, segment: Segment) -> None:
        self._control = control
        self.segment = segment
        self.table = ObjectTable(segment)
        self.tasks = Tasks(self.table)
        self.slot: int = segment.slot

    @classmethod
    def connect(
        cls,
        socket_path: str,
        *,
        kind: ClientKind = "client",
        worker_id: bytes = bytes(16),
        job_id: bytes = bytes(16),
        timeout_s: float = 10.0,
    ) -> Self:
        """Attaches to the store that listens at the socket.

        Raises: StoreUnavailableError, TooManyClientsError, LayoutVersionError, OutOfMemoryError.
        """
        control = ControlClient(socket_path, timeout_s=timeout_s)
        try:
            body = {"kind": kind, "worker_id": worker_id, "job_id": job_id}
            answer, fds = control.call_with_fds("attach", body)
            if len(fds) != 1:
                for fd in fds:
                    os.close(fd)
                raise ProtocolError(f"the store sent {len(fds)} descriptors instead of one")
            segment = Segment.attach(fds[0], answer["slot"])
        except BaseException:
            control.close()
            raise
        return cls(control, segment)

    def close(self) -> None:
        """Gives up every hold. Idempotent.

        Views of objects stay readable, but what they show may be reused by others.
        """
        self.segment.close()
        self._control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    # ---- writing

    def put(self, value: object, id: ObjectID | None = None) -> ObjectHandle:
        """Copies a value into the store, once, and seals it.

        Large buffers in it come back as read-only views.

        Raises: ObjectAlreadyExistsError, ObjectStoreFullError, and what pickle raises.
        """
        kind, inband, buffers = serialize(value)
        return self.table.put(ObjectHandle, self._id(id), kind, inband, buffers, [])

    def put_arrow(self, table: Any, id: ObjectID | None = None) -> ObjectHandle:
        """Stores an Arrow table or record batch as an IPC stream; `get` gives a table in place."""
        return self.table.put(
            ObjectHandle, self._id(id), KIND_ARROW, serialize_arrow(table), [], []
        )

    def create(self, size_bytes: int, id: ObjectID | None = None) -> WritableObject:
        """Room for `size_bytes` in the store, to be written in place and sealed with no copy."""
        if size_bytes < 0:
            raise ValueError(f"size_bytes is {size_bytes}: an object cannot have a negative size")
        handle, buffer = self.table.create(ObjectHandle, self._id(id), size_bytes, KIND_BUFFER)
        return WritableObject(self.table, handle, buffer)

    @staticmethod
    def _id(id: ObjectID | None) -> bytes:
        if id is None:
            return os.urandom(20)
        if not isinstance(id, ObjectID):
            raise TypeError(f"id must be an ObjectID, not {type(id).__name__}")
        return id.binary()

    # ---- reading

    def get(self, what: ObjectID | ObjectHandle, timeout_s: float | None = None) -> Any:
        """The object's value; waits for its seal. Arrays in it are read-only views of the store.

        Raises: ObjectTimeoutError after `timeout_s` seconds (None: never).
        """
        handle = self.handle(what)
        self.wait([handle], timeout_s=timeout_s, count=1)
        read = self.table.read(handle)
        if read is None:
            raise ObjectTimeoutError(
                f"object {handle.hex()} was not sealed within {timeout_s} s",
                hint="its creator is slow, died, or used another id",
            )
        kind, _is_error, inband, buffers = read
        return deserialize(kind, inband, buffers)

    def handle(self, what: ObjectID | ObjectHandle) -> ObjectHandle:
        """A hold on the object with the id, which need not exist yet."""
        if isinstance(what, ObjectHandle):
            return what
        if not isinstance(what, ObjectID):
            raise TypeError(f"expected an ObjectID or an ObjectHandle, not {type(what).__name__}")
        return self.table.expect(ObjectHandle, what.binary())

    def wait(
        self,
        handles: list[ObjectHandle],
        *,
        count: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Blocks until `count` (default: all) of the objects are sealed, or the time is over.

        Returns how many are sealed. An object that is twice in the list counts twice.
        """
        timeout_ns = -1
        if timeout_s is not None and math.isnan(timeout_s):
            raise ValueError("timeout_s is not a number")
        if timeout_s is not None and timeout_s < TIMEOUT_S_MAX:
            timeout_ns = max(0, int(timeout_s * 1e9))
        return self.table.wait(handles, len(handles) if count is None else count, timeout_ns)

    def contains(self, id: ObjectID) -> bool:
        """Whether the store has the object, sealed."""
        handle = self.table.find(ObjectHandle, id.binary())
        return handle is not None and self.table.state(handle) in (
            ObjectState.SEALED,
            ObjectState.SPILLED,
        )

    # ---- the daemon's help

    def pin(self, handle: ObjectHandle) -> None:
        """The store itself holds the object from now on: it stays when every client has left."""
        self._control.call(
            "pin", {"loc": handle.loc, "version": handle.version, "id": handle.binary()}
        )

    def unpin(self, id: ObjectID) -> None:
        """Ends `pin`. Raises ObjectNotFoundError when the object is not pinned."""
        if not self._control.call("unpin", {"id": id.binary()})["pinned"]:
            raise ObjectNotFoundError(f"object {id.hex()} is not pinned")

    def stats(self) -> Body:
        """Capacity and use of the store, in bytes and chunks."""
        return self._control.call("stats", {})

    def list_objects(self, limit: int = 10_000) -> list[Body]:
        """Up to `limit` objects: id, state, size, holders. A moment's view."""
        objects: list[Body] = self._control.call("list_objects", {"limit": limit})["objects"]
        return objects


def wait_until_served(socket_path: str, timeout_s: float) -> None:
    """Returns once a store answers at the socket. Raises StoreUnavailableError after the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            ControlClient(socket_path, timeout_s=timeout_s).close()
        except ConnectionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return
