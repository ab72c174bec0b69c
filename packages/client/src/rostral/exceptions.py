"""Every error that a user of `rostral` can meet, under one roof.

RostralError
├── TaskError                     a remote function raised; is also an instance of what it raised
├── GetTimeoutError (TimeoutError)
├── WorkerCrashedError            the process that ran the task died, retries spent
├── ActorError
│   ├── ActorDiedError            for good: killed, crashed, or its constructor raised
│   └── ActorUnavailableError     restarting
├── ActorAlreadyExistsError, ActorNotFoundError (ValueError)
├── UnschedulableError            no node can ever give what was asked for
├── ObjectStoreFullError          no room in the store
├── ObjectLostError               all copies are gone
├── NotConnectedError             used before init or after shutdown
├── ClusterUnavailableError (ConnectionError)   nothing answers at the address
├── NotPicklableError (TypeError) a function, argument or result that cannot be pickled
└── UnsupportedOptionError (ValueError)

Names that Ray's users know are aliases at the foot. Errors of the layers below are theirs and only
listed here.
"""

from __future__ import annotations

import functools
import pickle
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from rostral_gcs.errors import RostralError
from rostral_objectstore.errors import (
    ObjectNotFoundError,
    ObjectStoreError,
    ObjectStoreFullError,
    StoreUnavailableError,
)
from rostral_scheduler.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorError,
    ActorNotFoundError,
    ActorUnavailableError,
    UnschedulableError,
    WorkerCrashedError,
)


class NotConnectedError(RostralError, RuntimeError):
    """There is no cluster: `init` was not called, or `shutdown` was."""


class ClusterUnavailableError(RostralError, ConnectionError):
    """Nothing answers at the address, or the node went away."""


class GetTimeoutError(RostralError, TimeoutError):
    """`get` waited for as long as it was told to."""


class ObjectLostError(RostralError):
    """All copies of an object are gone."""


class NotPicklableError(RostralError, TypeError):
    """Something that must cross to another process cannot be pickled."""


class UnsupportedOptionError(RostralError, ValueError):
    """An option that this version does not have."""


class TaskError(RostralError):
    """A remote function or method raised.

    What `get` raises is an instance of this and of the class of the original error, so both `except
    TaskError` and `except ValueError` catch a remote ValueError.

    Attributes:
        cause: the original exception, or None when it could not be pickled.
        function_name: what raised.
        remote_traceback: the traceback as the remote process saw it.
        pid: the remote process.
    """

    cause: BaseException | None
    function_name: str
    remote_traceback: str
    pid: int

    def __init__(
        self, function_name: str, remote_traceback: str, cause: BaseException | None, pid: int
    ) -> None:
        super().__init__(f"{function_name}() raised in process {pid}:\n{remote_traceback.rstrip()}")
        self.function_name = function_name
        self.remote_traceback = remote_traceback
        self.cause = cause
        self.pid = pid

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_task_error, (
            self.function_name,
            self.remote_traceback,
            self.cause,
            self.pid,
        )

    @classmethod
    def from_exception(cls, function_name: str, error: BaseException, pid: int) -> TaskError:
        """The error to store for a task that raised `error`.

        An input's TaskError is passed on, not wrapped again.
        """
        lines = traceback.format_exception(type(error), error, _user_frames(error.__traceback__))
        cause: BaseException | None = error.cause if isinstance(error, TaskError) else error
        try:
            pickle.loads(pickle.dumps(cause))
        except Exception:  # whatever a user's __reduce__ or constructor does
            cause = None
        return TaskError(function_name, "".join(lines), cause, pid)

    def as_instance_of_cause(self) -> TaskError:
        """The same error, also an instance of the cause's class where Python allows such a class."""
        if self.cause is None or isinstance(self.cause, RostralError):
            return self
        dual = _dual_class(type(self.cause))
        if dual is None:
            return self
        error: TaskError = dual.__new__(dual)
        error.args = self.args
        vars(error).update(vars(self))
        for name, value in vars(self.cause).items():
            vars(error).setdefault(name, value)
        return error


def _user_frames(frames: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of ours at its top: they say nothing about the user's error."""
    own = str(Path(__file__).parent)
    at = frames
    while at is not None and at.tb_frame.f_code.co_filename.startswith(own):
        at = at.tb_next
    return at or frames


def _rebuild_task_error(
    name: str, remote_traceback: str, cause: BaseException | None, pid: int
) -> TaskError:
    return TaskError(name, remote_traceback, cause, pid)


@functools.lru_cache(maxsize=1024)
def _dual_class(cause: type[BaseException]) -> type[TaskError] | None:
    try:
        return type(
            f"TaskError({cause.__name__})",
            (TaskError, cause),
            {"__module__": __name__, "__str__": TaskError.__str__, "__init__": TaskError.__init__},
        )
    except TypeError:
        return None  # two built-in layouts that cannot be combined


# Names that programs written against Ray's core use.
RayError = RostralError
RayTaskError = TaskError
RayActorError = ActorError

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorNotFoundError",
    "ActorUnavailableError",
    "ClusterUnavailableError",
    "GetTimeoutError",
    "NotConnectedError",
    "NotPicklableError",
    "ObjectLostError",
    "ObjectNotFoundError",
    "ObjectStoreError",
    "ObjectStoreFullError",
    "RayActorError",
    "RayError",
    "RayTaskError",
    "RostralError",
    "StoreUnavailableError",
    "TaskError",
    "UnschedulableError",
    "UnsupportedOptionError",
    "WorkerCrashedError",
]
