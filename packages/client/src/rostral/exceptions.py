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
├── NotConnectedError (RuntimeError)           used before init or after shutdown
├── AlreadyInitializedError (RuntimeError)     init was called twice
├── ClusterUnavailableError (ConnectionError)   nothing answers at the address
├── NotPicklableError (TypeError) a function, argument or result that cannot be pickled
└── UnsupportedOptionError (ValueError)
    └── UnknownArgumentError (TypeError, RuntimeError)   of init

Names that Ray's users know are aliases at the foot. Errors of the layers below are theirs and only
listed here.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Hashable, Iterator, Sequence
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, Self, cast

from rostral_gcs.errors import RostralError
from rostral_objectstore.errors import (
    ObjectLostError,
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


class NotPicklableError(RostralError, TypeError):
    """Something that must cross to another process cannot be pickled.

    Attributes:
        reason: what pickle said.
    """

    reason: str

    def __init__(self, message: str, *, hint: str | None = None, reason: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class AlreadyInitializedError(RostralError, RuntimeError):
    """`init` was called twice."""


class UnsupportedOptionError(RostralError, ValueError):
    """An option that this version does not have."""

    @classmethod
    def unknown(cls, name: str, known: Sequence[str]) -> Self:
        """The error for a name that nobody knows, with the nearest that exists."""
        near = difflib.get_close_matches(name, known, 1)
        return cls(
            f"there is no option {name!r}" + (f", did you mean {near[0]!r}?" if near else ""),
            hint="options are " + ", ".join(known),
        )


class UnknownArgumentError(UnsupportedOptionError, TypeError, RuntimeError):
    """`init` has no such argument. A TypeError as Python has it, a RuntimeError as Ray does."""


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

    def __str__(self) -> str:
        # Not the root's: a `code` or `hint` here is the cause's, and means something else.
        return self.message

    def as_instance_of_cause(self) -> TaskError:
        """The same error, also an instance of the cause's class where Python allows one."""
        cause = self.cause
        if cause is None:
            return self
        # mypy takes the class of an exception for unhashable, like its instances.
        dual = _dual_class(cast(Hashable, type(cause)))
        if dual is None:
            return self
        try:
            error: TaskError = dual.__new__(dual, *cause.args)
        except Exception:  # whatever a user's __new__ does
            return self
        error.args = self.args
        vars(error).update(vars(self))
        for name in _attributes(cause):
            if name not in vars(error):
                # One that is not set, or that only the original's constructor may set.
                with contextlib.suppress(AttributeError, TypeError, ValueError):
                    setattr(error, name, getattr(cause, name))
        return error


def _attributes(error: BaseException) -> Iterator[str]:
    """Names of what an exception knows: in its dict, in slots, and in the fields of C classes."""
    yield from vars(error)
    for cls in type(error).__mro__:
        if cls is BaseException:
            return
        for name, member in vars(cls).items():
            if isinstance(member, MemberDescriptorType | GetSetDescriptorType):
                yield name


def _rebuild_task_error(
    name: str, remote_traceback: str, cause: BaseException | None, pid: int
) -> TaskError:
    return TaskError(name, remote_traceback, cause, pid)


@functools.lru_cache(maxsize=1024)
def _dual_class(cause: Hashable) -> type[TaskError] | None:
    """A class that is both, made once for each class of causes."""
    assert isinstance(cause, type)
    try:
        return type(
            f"TaskError({cause.__name__})",
            (TaskError, cause),
            {"__module__": __name__, "__init__": TaskError.__init__},
        )
    except TypeError:
        return None  # two built-in layouts that cannot be combined


# Names that programs written against Ray's core use.
ActorHandleNotFoundError = ActorNotFoundError
RayError = RostralError
RayTaskError = TaskError
RayActorError = ActorError

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorHandleNotFoundError",
    "ActorNotFoundError",
    "ActorUnavailableError",
    "AlreadyInitializedError",
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
    "UnknownArgumentError",
    "UnschedulableError",
    "UnsupportedOptionError",
    "WorkerCrashedError",
]
