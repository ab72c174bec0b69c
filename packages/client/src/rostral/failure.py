"""What a task raised, on its way to whoever gets its result: made here, stored, loaded again.

A user's exception may do anything when it is pickled or rebuilt; what is left then is its text.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rostral.exceptions import (
    ObjectLostError,
    ObjectStoreFullError,
    RostralError,
    TaskError,
    UnserializableError,
)
from rostral.object_ref import CollectedRefs, ObjectRef
from rostral.serialization import dumps
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore.layout import ObjectFlag
from rostral_objectstore.serialization import KIND_PICKLE, deserialize

_NO_ROOM = pickle.dumps("no room")
_OWN_FOLDER = str(Path(__file__).parent)


class StoredError(NamedTuple):
    """A pickled exception, and the references in it."""

    inband: bytes
    refs: list[ObjectRef[Any]]


class StoredTaskError(NamedTuple):
    """A task's error as it is stored: what must be had in any process, and beside it the cause.

    Attributes:
        cause: pickled by itself, since its class may not be had where it is read.
    """

    function_name: str
    remote_traceback: str
    cause: bytes
    pid: int
    ip: str

    def load(self) -> BaseException:
        """The error as the user sees it."""
        try:
            cause = pickle.loads(self.cause)
        except Exception as failure:  # whatever a user's exception class does when it is rebuilt
            return UnserializableError(
                f"{self.function_name}() raised in process {self.pid} what cannot be rebuilt here "
                f"({failure!r}):\n{self.remote_traceback.rstrip()}"
            )
        error = TaskError(self.function_name, self.remote_traceback, cause, self.pid, self.ip)
        return error.as_instance_of_cause()


def task_error(function_name: str, error: BaseException) -> TaskError:
    """The error of a task that raised. An input's TaskError is passed on, not wrapped again."""
    lines = traceback.format_exception(type(error), error, _user_frames(error.__traceback__))
    cause = error.cause if isinstance(error, TaskError) else error
    return TaskError(function_name, "".join(lines), cause, os.getpid())


def _user_frames(frames: TracebackType | None) -> TracebackType | None:
    """A traceback without our frames at its top: they say nothing about the user's error."""
    at = frames
    while at is not None and at.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
        at = at.tb_next
    return at or frames


def dump_task_error(error: TaskError) -> StoredError:
    """The error as it is stored; if its cause cannot be pickled and rebuilt, with words for it."""
    try:
        with CollectedRefs() as refs:
            # cloudpickle where needed: an exception class of the driver's script is sent by value,
            # and found again there as the very class that an `except` names.
            cause = dumps(error.cause)
        pickle.loads(cause)
    except Exception as failure:  # whatever a user's __reduce__ or constructor does
        described = traceback.format_exception_only(error.cause)[-1].strip()
        said = RostralError(f"{described} (it cannot be pickled and rebuilt: {failure!r})")
        cause, refs = pickle.dumps(said), []
    stored = StoredTaskError(
        error.function_name, error.remote_traceback, cause, error.pid, error.ip
    )
    return StoredError(pickle.dumps(stored, protocol=5), refs)


def pass_on(inband: bytes) -> StoredError:
    """The error of an input, as the error of the task that needed it."""
    stored = pickle.loads(inband)
    try:
        # Only to find the references in it: what is passed on are the same bytes.
        with CollectedRefs() as refs:
            dumps(pickle.loads(stored.cause) if isinstance(stored, StoredTaskError) else stored)
    except Exception:  # its class cannot be had here; whoever gets it may be luckier
        return StoredError(inband, [])
    return StoredError(inband, refs)


def seal_error(table: ObjectTable, locators: Sequence[int], error: StoredError) -> None:
    """Seals pending objects with an error."""
    for loc in locators:
        try:
            table.fill_at(loc, KIND_PICKLE, error.inband, [], error.refs, ObjectFlag.ERROR)
        except ObjectStoreFullError:
            # This fits into the object's record, where no room is needed.
            table.fill_at(loc, KIND_PICKLE, _NO_ROOM, [], [], ObjectFlag.ERROR)


def load_error(read: tuple[int, bool, Any, Sequence[Any]]) -> BaseException:
    """The exception to raise for an object that is an error."""
    kind, _, inband, buffers = read
    if kind != KIND_PICKLE:
        return ObjectLostError("an error of a task could not be read")
    try:
        error = deserialize(kind, inband, buffers)
    except Exception as failure:  # whatever a user's exception class does when it is rebuilt
        return UnserializableError(
            f"a task failed, and its error cannot be rebuilt here: {failure!r}"
        )
    if isinstance(error, StoredTaskError):
        return error.load()
    if isinstance(error, BaseException):
        return error
    return ObjectStoreFullError(
        "a task failed, and the store has no room for its error",
        hint="drop references, or give the store more memory (object_store_memory)",
    )
