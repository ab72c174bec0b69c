"""The function table of a process: code on its way from who defines it to who runs it.

A function's pickle is an object of the store, named by its content, so it is shipped once per node
however many processes export it; a task names it by locator and version. Each task keeps the object
alive; the exporting process keeps it for its own life.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from typing import Any

from rostral._context import task_scope
from rostral.culprits import captured
from rostral.exceptions import NotPicklableError, ObjectLostError
from rostral.object_ref import CollectedRefs, ObjectRef, check_out_of_band
from rostral.serialization import dumps, first_unpicklable
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore.serialization import KIND_PICKLE

logger = logging.getLogger("rostral.functions")

WARN_BYTES = 10 << 20
BYTES_MAX = 100 << 20
FUNCTION_INDEX = (0x40000000).to_bytes(4, "little")


class FunctionTable:
    """Exports code to the store and loads it from there. Keys are locator | version << 32."""

    def __init__(self, table: ObjectTable) -> None:
        self._table = table
        self._loaded: dict[int, tuple[str, Any]] = {}

    def export(self, name: str, code: Any) -> ObjectRef[Any]:
        """Makes code loadable on this node.

        Raises NotPicklableError, and ValueError when it is over 100 MB.
        """
        scope = task_scope.set(None)
        try:
            with CollectedRefs() as refs:
                blob = dumps((name, code))
        except NotPicklableError as error:
            culprit = first_unpicklable(captured(code))
            raise NotPicklableError(
                f"{name} cannot be sent to workers: "
                + (error.message if culprit is None else f"it captures {culprit}: {error.reason}"),
                hint=error.hint,
                reason=error.reason,
            ) from error
        finally:
            task_scope.reset(scope)
        if refs:
            check_out_of_band(refs[0])
        if len(blob) > BYTES_MAX:
            raise ValueError(
                f"{name} pickles to {len(blob)} bytes, over the limit of {BYTES_MAX}: "
                "put what it closes over with rostral.put and pass the reference"
            )
        if len(blob) > WARN_BYTES:
            logger.warning(
                "%s pickles to %s bytes: put what it closes over instead", name, len(blob)
            )
        id = hashlib.blake2b(blob, digest_size=16).digest() + FUNCTION_INDEX
        ref = self._table.expect(ObjectRef, id)
        self._table.fill(ref, KIND_PICKLE, blob, [], list(refs))
        return ref

    @staticmethod
    def key(ref: ObjectRef[Any]) -> int:
        """How a task names the code."""
        return ref.loc | ref.version << 32

    def load(self, key: int) -> tuple[str, Any]:
        """(name, code) behind a key; unpickled once per process.

        The running task keeps it in the store.
        """
        loaded = self._loaded.get(key)
        if loaded is None:
            ref = self._table.adopt_held(ObjectRef, key & 0xFFFFFFFF)
            read = self._table.read(ref)
            if read is None:
                raise ObjectLostError("the code of a task is gone from the store")
            name, code = pickle.loads(read[2], buffers=read[3])
            self._loaded[key] = loaded = (str(name), code)
        return loaded
