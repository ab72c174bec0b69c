"""A process's connection to its node's store: attach once, then work in shared memory.

Owns the attachment and the face that users of the store alone type. The rest of Rostral uses the
same attachment through `table` and `tasks`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from rostral_gcs.ids import ObjectID
from rostral_objectstore import array_form, arrow_streams
from rostral_objectstore._native import freeing
from rostral_objectstore._native.buffer import ObjectBuffer
from rostral_objectstore._native.handle import Handle
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore._native.task import Tasks
from rostral_objectstore.addresses import default_socket_path
from rostral_objectstore.arrow_streams import ArrowData
from rostral_objectstore.control import Body
from rostral_objectstore.device_target import attached, loading_to
from rostral_objectstore.errors import ObjectNotFoundError, ObjectTimeoutError
from rostral_objectstore.events import Subscription
from rostral_objectstore.handle import (
    IdLike,
    ObjectHandle,
    What,
    check_count,
    id_bytes,
    is_many,
    new_id_bytes,
)
from rostral_objectstore.layout import ObjectState
from rostral_objectstore.link import DaemonLink
from rostral_objectstore.observed import ObjectInfo, StateName, StoreStats, objects_of, stats_of
from rostral_objectstore.room_calls import RoomCalls
from rostral_objectstore.serialization import (
    KIND_ARRAY,
    KIND_ARROW,
    KIND_BUFFER,
    WITH_METADATA,
    check_metadata,
    deserialize,
    metadata_of,
    raw_bytes,
    serialize_into,
)
from rostral_objectstore.waiter import Waiter
from rostral_objectstore.writable import WritableArray, WritableObject

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from rostral_objectstore.gpu.tier import DeviceTiers

# A longer wait, infinity included, is one without a timeout.
TIMEOUT_S_MAX = 1e9

# What stands for one object, and not for many.
_ONE = (ObjectHandle, ObjectID, str)
# How many of the missing objects a timeout's message names; `missing` has all.
TOLD_MAX = 3

# How many objects one message to the daemon names: a hundred kilobytes of them.
FREED_AT_ONCE = 4096

# What a fetch may take if its caller does not say.
FETCH_TIMEOUT_S = 600.0
# For the daemon to notice that the time is over, and to say so.
FETCH_ANSWER_S = 10.0

ClientKind = Literal["client", "driver", "worker", "actor", "scheduler"]
Deletion = Literal["deleted", "deferred", "unknown"]


class StoreClient:
    """This process's attachment to the store. Use `StoreClient.connect`.

    Attributes:
        segment, table, tasks: the attachment's native parts, for the other packages of Rostral.
        slot: this process's client slot.
    """

    def __init__(self, link: DaemonLink, segment: Segment) -> None:
        self._control = link
        self.segment = segment
        self.table = ObjectTable(segment)
        room = RoomCalls(link)
        self.table.set_daemon(restore=room.restore, make_room=room.make_room)
        self.tasks = Tasks(self.table)
        self.slot: int = segment.slot
        self._waiter = Waiter(self.table)
        self._devices: DeviceTiers | None = None
        attached(self)
        # One who connects and forgets leaves when the last view of an object is gone, not before.
        weakref.finalize(segment, link.close).atexit = False

    @classmethod
    def connect(
        cls,
        socket_path: str | None = None,
        *,
        kind: ClientKind = "client",
        worker_id: bytes = bytes(16),
        job_id: bytes = bytes(16),
        timeout_s: float = 10.0,
    ) -> Self:
        """Attaches to the store that listens at the socket.

        Without a path, to the one that `$ROSTRAL_STORE` names, or that of this user that was
        started without a path.

        Raises: StoreUnavailableError, TooManyClientsError, LayoutVersionError, OutOfMemoryError,
            ConfigError.
        """
        if socket_path is None:
            socket_path = default_socket_path()
        link = DaemonLink(socket_path, timeout_s)
        try:
            segment = link.attach({"kind": kind, "worker_id": worker_id, "job_id": job_id})
        except BaseException:
            link.close()
            raise
        return cls(link, segment)

    def close(self) -> None:
        """Gives up every hold. Idempotent. Coroutines that wait raise StoreClosedError.

        Arrays and other views of objects stay readable, but the objects are no longer held: what
        such a view shows may be overwritten. So drop views before, or copy what is still needed.
        """
        if not self.segment.closed:  # nor in a forked child, which has no such thread
            self._waiter.close()
        if self._devices is not None:
            self._devices.close()
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

    def put(
        self,
        value: object,
        id: IdLike | None = None,
        *,
        metadata: bytes = b"",
        pin: bool = False,
        device: str | None = None,
    ) -> ObjectHandle:
        """Copies a value into the store, once, and seals it.

        Large buffers in it come back as read-only views. The object goes when nobody has a handle
        or a view of it any more, so keep the handle that this returns, or `pin`.

        Arrays on a GPU, alone or inside the value, stay on it: they are copied to the store's share
        of its memory. Returns when they are there.

        Args:
            value: anything that pickle can take.
            id: by which others find it; random if it is left out.
            metadata: bytes of the caller's own beside the value, at most 64 KiB.
            pin: the store itself keeps the object, see `pin`.
            device: `"cuda:N"`: a NumPy array goes to that GPU of this process. `"cpu"`: arrays on a
                GPU are copied to the processor's memory.

        Raises: ObjectAlreadyExistsError, ObjectStoreFullError, and what pickle raises;
            DeviceUnavailableError for a GPU that this process does not have.
        """
        store: StoreClient | None = self
        if device is not None:
            value, store = self._moved(value, device)
        kind, inband, buffers, contained = serialize_into(store, value, metadata)
        handle = self.table.put(ObjectHandle, new_id_bytes(id), kind, inband, buffers, contained)
        if pin:
            self.pin(handle)
        return handle

    def put_arrow(
        self,
        data: ArrowData,
        id: IdLike | None = None,
        *,
        metadata: bytes = b"",
        pin: bool = False,
    ) -> ObjectHandle:
        """Stores a table, record batch or reader of batches as an Arrow IPC stream, copied once.

        `get` gives a table in place; `pyarrow.ipc.open_stream(store.get_buffer(id))` reads it too.

        Raises: as `put`, and ObjectKindError for what is no Arrow data.
        """
        table = arrow_streams.as_table(data)
        size_bytes = arrow_streams.size_bytes(table)
        handle, buffer = self._create(id, size_bytes, KIND_ARROW, None, metadata)
        with WritableObject(self.table, handle, buffer, self.pin) as writable:
            arrow_streams.write_into(table, buffer)
            return writable.seal(pin=pin)

    def create(
        self, size_bytes: int, id: IdLike | None = None, *, metadata: bytes = b""
    ) -> WritableObject:
        """Room for `size_bytes` in the store, to be written in place and sealed with no copy.

        `get` gives the bytes as a read-only memoryview.

        Raises: ValueError, ObjectAlreadyExistsError, ObjectStoreFullError.
        """
        if size_bytes < 0:
            raise ValueError(f"size_bytes is {size_bytes}: an object cannot have a negative size")
        handle, buffer = self._create(id, size_bytes, KIND_BUFFER, None, metadata)
        return WritableObject(self.table, handle, buffer, self.pin)

    def create_array(
        self,
        shape: int | tuple[int, ...],
        dtype: DTypeLike,
        id: IdLike | None = None,
        *,
        metadata: bytes = b"",
    ) -> WritableArray:
        """An array in the store, to be filled in place and sealed with no copy.

        `get` gives a read-only array of the same type and shape.

        Raises: as `create`, and TypeError for a dtype of Python objects or records.
        """
        form, size_bytes = array_form.form_of(shape, dtype)
        inband = array_form.encode(form)
        handle, buffer = self._create(id, size_bytes, KIND_ARRAY, inband, metadata)
        writable = WritableArray(self.table, handle, buffer, self.pin)
        writable.array = array_form.writable(form, buffer)
        return writable

    def _create(
        self, id: IdLike | None, size_bytes: int, kind: int, inband: bytes | None, metadata: bytes
    ) -> tuple[ObjectHandle, ObjectBuffer]:
        check_metadata(metadata)
        beside = [memoryview(metadata)] if metadata else []
        if metadata:
            kind, inband = kind | WITH_METADATA, inband or b""
        return self.table.create(ObjectHandle, new_id_bytes(id), size_bytes, kind, inband, beside)

    # ---- reading

    @overload
    def get(
        self,
        what: IdLike | ObjectHandle,
        timeout_s: float | None = None,
        *,
        device: str | None = None,
    ) -> Any: ...
    @overload
    def get(
        self,
        what: Sequence[IdLike | ObjectHandle],
        timeout_s: float | None = None,
        *,
        device: str | None = None,
    ) -> list[Any]: ...
    def get(self, what: What, timeout_s: float | None = None, *, device: str | None = None) -> Any:
        """The object's value; of a list of objects, their values in its order.

        Waits until all are sealed. Arrays in values are read-only views of the store; what they are
        views of stays while they live.

        Arrays that were put from a GPU come back there with no copy, not to be written to; in a
        process that does not have that GPU, as arrays of the processor's memory.

        Args:
            what: an object or several.
            timeout_s: how long to wait.
            device: `"cpu"` or `"cuda:N"`, where such arrays are wanted instead; a NumPy array alone
                is copied to that GPU.

        Raises: ObjectTimeoutError after `timeout_s` seconds (None: never); ValueError for more than
            10,000 objects in one call; DeviceLostError for what lay on a GPU whose part of the
            store died; DeviceUnavailableError for a GPU that this process does not have.
        """
        if timeout_s is None and device is None and isinstance(what, _ONE):
            # The most usual call by far, and what is there needs neither a list nor a wait.
            read = self.table.read(self.handle(what))
            if read is not None:
                return deserialize(read[0], read[2], read[3])
        if device is not None:
            return self._get_on(device, what, timeout_s)
        handles = self._handles(what)
        if self.wait(handles, timeout_s=timeout_s) < len(handles):
            raise self._late(handles, timeout_s)
        values = [self._value(handle) for handle in handles]
        return values if is_many(what) else values[0]

    @overload
    async def get_async(
        self, what: IdLike | ObjectHandle, timeout_s: float | None = ...
    ) -> Any: ...
    @overload
    async def get_async(
        self, what: Sequence[IdLike | ObjectHandle], timeout_s: float | None = ...
    ) -> list[Any]: ...
    async def get_async(self, what: What, timeout_s: float | None = None) -> Any:
        """`get` for asyncio: the event loop runs on while the objects are not there.

        However many coroutines wait, one thread does it for all of them. What is there already is
        read at once, without a switch to another coroutine.

        Raises: as `get`; StoreClosedError when the store is closed meanwhile.
        """
        import asyncio  # who calls this has it; for others it would double the import's time

        handles = self._handles(what)
        _check_timeout(timeout_s)
        if self.wait(handles, timeout_s=0) < len(handles):
            try:
                async with asyncio.timeout(timeout_s):
                    await self._waiter.wait(handles)
            except TimeoutError as error:
                raise self._late(handles, timeout_s) from error
        values = [await self._value_async(handle) for handle in handles]
        return values if is_many(what) else values[0]

    def get_buffer(self, what: IdLike | ObjectHandle, timeout_s: float | None = None) -> memoryview:
        """The bytes of what was written as bytes, as a plain array, by `create` or by `put_arrow`.

        In place and read-only. Raises: as `get`; ObjectKindError when it is a pickled value.
        """
        kind, _is_error, inband, buffers = self._read(what, timeout_s)
        return raw_bytes(kind, inband, buffers)

    def get_metadata(self, what: IdLike | ObjectHandle, timeout_s: float | None = None) -> bytes:
        """The metadata that the object was put with; empty when there is none. Waits as `get`."""
        kind, _is_error, _inband, buffers = self._read(what, timeout_s)
        return metadata_of(kind, buffers)

    def handle(self, what: IdLike | ObjectHandle) -> ObjectHandle:
        """A hold on the object with the id, which need not exist yet."""
        if isinstance(what, ObjectHandle):
            return what
        return self.table.expect(ObjectHandle, id_bytes(what))

    def wait(
        self,
        what: Sequence[IdLike | ObjectHandle],
        *,
        count: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Blocks until `count` (default: all) of the objects are sealed, or the time is over.

        Returns how many are sealed. An object that is twice in the list counts twice.
        """
        handles = [self.handle(one) for one in what]
        timeout_ns = -1
        _check_timeout(timeout_s)
        if timeout_s is not None and timeout_s < TIMEOUT_S_MAX:
            timeout_ns = max(0, int(timeout_s * 1e9))
        return self.table.wait(handles, len(handles) if count is None else count, timeout_ns)

    def contains(self, id: IdLike) -> bool:
        """Whether the store has the object, sealed."""
        handle = self.table.find(ObjectHandle, id_bytes(id))
        return handle is not None and self.table.state(handle) in (
            ObjectState.SEALED,
            ObjectState.SPILLED,
        )

    def _handles(self, what: What) -> list[ObjectHandle]:
        if not is_many(what):
            return [self.handle(what)]
        check_count(what)
        return [self.handle(one) for one in what]

    def _moved(self, value: object, device: str) -> tuple[object, StoreClient | None]:
        """The value where it is to be put, and the store if its device arrays are to stay such."""
        from rostral_objectstore.gpu import pickling  # who has no GPU does not pay for it

        number = pickling.parse_device(device)
        if number is None:
            return pickling.on_host(value), None
        return pickling.upload(value, number), self

    def _get_on(self, device: str, what: What, timeout_s: float | None) -> Any:
        from rostral_objectstore.gpu import pickling

        number = pickling.parse_device(device)
        with loading_to(device):
            found = self.get(what, timeout_s)
        if number is None:
            return found
        if is_many(what):
            return [pickling.uploaded(value, number) for value in found]
        return pickling.uploaded(found, number)

    @property
    def devices(self) -> DeviceTiers:
        """The devices of this node that the store has memory of, for the device tier itself."""
        if self._devices is None:
            from rostral_objectstore.gpu.tier import DeviceTiers

            self._devices = DeviceTiers(self)
        return self._devices

    def ask_daemon(self, method: str, body: Body, timeout_s: float | None = None) -> Body:
        """One call of the store daemon, for the other parts of Rostral. Raises what it answers."""
        return self._control.call(method, body, timeout_s)

    def _read(
        self, what: IdLike | ObjectHandle, timeout_s: float | None
    ) -> tuple[int, bool, bytes | ObjectBuffer, Sequence[ObjectBuffer]]:
        handle = self.handle(what)
        self.wait([handle], timeout_s=timeout_s)
        read = self.table.read(handle)
        if read is None:
            raise self._late([handle], timeout_s)
        return read

    def _value(self, handle: ObjectHandle) -> Any:
        kind, _is_error, inband, buffers = self._read(handle, None)
        return deserialize(kind, inband, buffers)

    async def _value_async(self, handle: ObjectHandle) -> Any:
        if self.table.state(handle) == ObjectState.SEALED:
            return self._value(handle)
        import asyncio

        return await asyncio.to_thread(self._value, handle)  # it has to come back from disk

    def _late(self, handles: list[ObjectHandle], timeout_s: float | None) -> ObjectTimeoutError:
        """The error that says of each missing object why it is not there."""
        missing = [handle for handle in handles if not self.table.is_sealed(handle)]
        told = [f"{handle.hex()} ({self._why_missing(handle)})" for handle in missing[:TOLD_MAX]]
        if len(missing) > TOLD_MAX:
            told.append(f"and {len(missing) - TOLD_MAX} more")
        return ObjectTimeoutError(
            f"{len(missing)} of {len(handles)} objects not sealed within {timeout_s} s: "
            + ", ".join(told),
            hint="their creator is slow, died, or used other ids",
            missing=[handle.hex() for handle in missing],
        )

    def _why_missing(self, handle: ObjectHandle) -> str:
        match self.table.state(handle):
            case ObjectState.CREATED:
                pid = self.segment.slot_info(self.table.state_slot(handle))["pid"]
                return f"being written by process {pid}"
            case ObjectState.PENDING:
                return "unknown here: nobody has begun to write it"
            case state:
                return ObjectState(state).name.lower()

    def subscribe(self, prefix: bytes = b"") -> Subscription:
        """Tells of every object that is sealed or deleted from now on, in any process.

        Iterate over it, or call its `get`, or iterate in asyncio; close it in the end. Writers do
        not wait for who reads: one who falls more than 4096 events behind is told how many he
        missed. A process that dies between a seal and telling of it leaves no event.

        Args:
            prefix: only objects whose id begins with these bytes.
        """
        return Subscription(self.segment, prefix)

    # ---- the daemon's help

    def pin(self, handle: ObjectHandle) -> None:
        """The store itself holds the object from now on: it stays when every client has left.

        Until `unpin` or `delete`, or the end of the store.
        """
        self._control.call(
            "pin", {"loc": handle.loc, "version": handle.version, "id": handle.binary()}
        )

    def unpin(self, id: IdLike) -> None:
        """Ends `pin`. Raises ObjectNotFoundError when the object is not pinned."""
        named = id_bytes(id)
        if not self._control.call("unpin", {"id": named})["pinned"]:
            raise ObjectNotFoundError(f"object {named.hex()} is not pinned")

    def delete(self, id: IdLike) -> Deletion:
        """Ends `pin`, so that the object goes as soon as nobody holds it.

        Returns:
            `"deleted"`: it is gone. `"deferred"`: some process, or a value in the store, still
            holds it; the last one to let go deletes it, and until then its id is taken.
            `"unknown"`: there was no such object.
        """
        named = id_bytes(id)
        handle = self.table.find(ObjectHandle, named)
        self._control.call("unpin", {"id": named})
        if handle is None or self.table.state(handle) == ObjectState.PENDING:
            return "unknown"
        version = handle.version
        del handle  # ours may have been the last
        left = self.table.find(ObjectHandle, named)
        return "deferred" if left is not None and left.version == version else "deleted"

    def free(self, handles: Sequence[Handle]) -> None:
        """Gives the memory of objects back at once, though there are handles of them anywhere.

        From then on whoever reads one of them gets ObjectFreedError. Views that live, in any
        process, keep their bytes, and the memory goes with the last of them. What is not sealed yet
        is freed when it is. Copies on disk go too. Freed twice is freed once.

        Raises: ValueError for a handle of another store, StoreUnavailableError.
        """
        on_disk = [handle for handle in handles if not freeing.free(self.table, handle)]
        for start in range(0, len(on_disk), FREED_AT_ONCE):
            batch = on_disk[start : start + FREED_AT_ONCE]
            self._control.call("free", {"objects": [handle.packed() for handle in batch]})

    def fetch(
        self,
        id: IdLike,
        holders: Sequence[str],
        *,
        size_bytes: int | None = None,
        timeout_s: float | None = None,
        cached: bool = True,
    ) -> ObjectHandle:
        """Lets the daemon bring the object from another node; blocks until it is here, sealed.

        However many processes of this node ask, it travels once.

        Args:
            id: the object's.
            holders: where it is, `host:port`, the preferred first; see `rostral-objectstore serve
                --transfer`. The next is asked when one fails.
            size_bytes: its size, if that is known: a holder that says otherwise is not used.
            timeout_s: for the whole; 600 if None.
            cached: whether the daemon keeps it for others, until its room is wanted; else it goes
                with the last handle.

        Raises:
            ObjectFetchError: no holder could give it; the message says why for each.
            ObjectFetchTimeoutError: it did not arrive in time.
            ObjectNotTransferableError: it refers to other objects.
            ObjectStoreFullError: no room for it here.
            ConfigError: the store takes no part in transfers, or must not connect to a holder.
        """
        # Held from before it comes, so that it is still here when the answer is.
        handle = self.handle(id)
        allowed_s = FETCH_TIMEOUT_S if timeout_s is None else timeout_s
        body = {
            "id": handle.binary(),
            "holders": list(holders),
            "size_bytes": size_bytes,
            "timeout_s": allowed_s,
            "cached": cached,
        }
        self._control.call("fetch", body, timeout_s=allowed_s + FETCH_ANSWER_S)
        return handle

    def revive(self, handles: Sequence[Handle]) -> list[bool]:
        """Has objects whose bytes are nowhere expected again. Of others: False."""
        revived: list[bool] = []
        for start in range(0, len(handles), FREED_AT_ONCE):
            batch = [handle.packed() for handle in handles[start : start + FREED_AT_ONCE]]
            revived += self._control.call("revive", {"objects": batch})["revived"]
        return revived

    def transfer_address(self) -> str:
        """Where other nodes fetch from this store, which listens there from now on.

        Raises: ConfigError when it takes no part in transfers; MissingExtraError.
        """
        return str(self._control.call("transfer_address", {})["address"])

    def stats(self) -> StoreStats:
        """Capacity and use of the store."""
        return stats_of(self._control.call("stats", {}))

    def list_objects(
        self, limit: int = 10_000, *, state: StateName | None = None
    ) -> list[ObjectInfo]:
        """Up to `limit` of the store's objects, or of those in one state. A moment's view."""
        body = {"limit": limit, "state": state}
        return objects_of(self._control.call("list_objects", body)["objects"])


def _check_timeout(timeout_s: float | None) -> None:
    if timeout_s is not None and math.isnan(timeout_s):
        raise ValueError("timeout_s is not a number")
