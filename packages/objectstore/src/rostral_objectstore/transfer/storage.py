"""The node's store as transfers see it: whole objects as they lie there, by id.

The one file of the package that touches the object table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rostral_objectstore._native import elsewhere
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore.errors import (
    ChunkInvalidError,
    NotHolderError,
    ObjectAlreadyExistsError,
    ObjectNotTransferableError,
)
from rostral_objectstore.handle import ObjectHandle
from rostral_objectstore.layout import ObjectState
from rostral_objectstore.transfer.digests import Key
from rostral_objectstore.transfer.messages import ObjectFacts, hex_of

_SEALED = (ObjectState.SEALED, ObjectState.SPILLED)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A sealed object. `data` keeps it held, and so does every view of it."""

    facts: ObjectFacts
    data: Any
    life: Key
    """Never that of other bytes, whatever becomes of the id."""


class ArrivingObject:
    """An object of which the bytes are on their way. `seal` or `abort` it."""

    def __init__(self, table: ObjectTable, handle: ObjectHandle, facts: ObjectFacts, buffer: Any):
        self._table, self._facts, self._buffer = table, facts, buffer
        self._handle: ObjectHandle | None = handle

    @property
    def buffer(self) -> memoryview:
        """Where the bytes belong."""
        return memoryview(self._buffer)

    def seal(self) -> ObjectHandle:
        """Publishes it, once all bytes are there and right. Raises ChunkInvalidError."""
        handle = self._leave()
        try:
            self._table.seal_raw(handle, self._facts.flags)
        except ValueError as error:
            raise ChunkInvalidError(
                f"what came as object {hex_of(self._facts.id)} is no object: {error}"
            ) from error
        return handle

    def abort(self) -> None:
        """Nothing of it stays; who waits for the object goes on waiting."""
        if self._handle is not None:
            self._table.abort(self._leave())

    def _leave(self) -> ObjectHandle:
        """An error's traceback may keep this for long: it must not keep the object."""
        handle, self._handle, self._buffer = self._handle, None, None
        assert handle is not None
        return handle


class ReturningObject(ArrivingObject):
    """One that this node knows as sealed, and whose bytes were on others alone."""

    def seal(self) -> ObjectHandle:
        """Publishes its bytes, which are all there. Raises ChunkInvalidError."""
        buffer, facts = self._buffer, self._facts
        handle = self._leave()
        try:
            elsewhere.finish_bringing(self._table, handle, buffer, facts.kind, facts.flags)
        except ValueError as error:
            raise ChunkInvalidError(f"what came is not what was known: {error}") from error
        return handle

    def abort(self) -> None:
        """It is elsewhere still."""
        if self._handle is not None:
            self._leave()


class Storage:
    """Reads and writes whole objects of one store. Never blocks but to bring one back from disk."""

    def __init__(self, table: ObjectTable) -> None:
        self._table = table

    def find(self, id: bytes) -> ObjectHandle | None:
        """A hold on the object, if it is here and sealed, in memory or on disk."""
        handle = self._table.find(ObjectHandle, id)
        if handle is None or self._table.state(handle) not in _SEALED:
            return None
        return None if elsewhere.is_elsewhere(self._table, handle) else handle

    def read(self, id: bytes) -> StoredObject:
        """Raises NotHolderError, ObjectNotTransferableError."""
        handle = self.find(id)
        raw = None if handle is None else self._table.read_raw(handle)
        if handle is None or raw is None:
            raise NotHolderError(f"object {hex_of(id)} is not sealed here")
        if self._table.references(handle):
            raise ObjectNotTransferableError(
                f"object {hex_of(id)} refers to other objects and stays on its node",
                hint="pass the inner objects on their own",
            )
        kind, flags, data = raw
        life = (id, handle.loc, handle.version)
        return StoredObject(ObjectFacts(id, kind, flags, len(data)), data, life)

    def share(self, handle: ObjectHandle) -> ObjectHandle:
        """One more hold on the same object."""
        return self._table.share(ObjectHandle, handle)

    def create(self, facts: ObjectFacts) -> ArrivingObject | None:
        """Room for the object; None when somebody else on this node is writing it or has.

        What this node knows to be elsewhere gets its bytes.

        Raises: ObjectStoreFullError, OutOfMemoryError.
        """
        try:
            handle, buffer = self._table.create(ObjectHandle, facts.id, facts.size, facts.kind)
        except ObjectAlreadyExistsError:
            return self._bring(facts)
        return ArrivingObject(self._table, handle, facts, buffer)

    def _bring(self, facts: ObjectFacts) -> ArrivingObject | None:
        known = self._table.find(ObjectHandle, facts.id)
        if known is None or self._table.size(known) != facts.size:
            return None
        if self._table.state(known) not in (ObjectState.SPILLED, ObjectState.LOST):
            return None
        buffer = elsewhere.begin_bringing(self._table, known)
        return None if buffer is None else ReturningObject(self._table, known, facts, buffer)

    def wait(self, id: bytes, timeout_s: float) -> ObjectHandle | None:
        """Waits until somebody else on this node has sealed the object."""
        handle = self._table.expect(ObjectHandle, id)
        if self._table.wait([handle], 1, max(0, int(timeout_s * 1e9))) == 0:
            return None
        return handle
