"""Every error that a user of `rostral` can meet, under one roof.

RostralError
├── TaskError                     a remote function raised; is also an instance of what it raised
├── UnserializableError           what a task raised cannot be rebuilt here; has its trace
├── UserCodeError                 for libraries: wraps a user's error, retried as its cause is
├── GetTimeoutError (TimeoutError)
├── EngineError                   the engine failed, not the program
│   ├── WorkerStartError          worker processes cannot be started
│   └── StreamingGeneratorReplayInconsistentError   a generator that ran again yielded less
├── WorkerCrashedError            the process that ran the task died, retries spent
│   └── OutOfMemoryError          it was ended because memory was short
├── RuntimeEnvSetupError          the runtime environment of a task or actor cannot be made
├── NodeDiedError                 the node that had it is gone
├── TaskCancelledError            the task was cancelled
│   └── TaskDeadlineExceededError (TimeoutError)   by its own deadline
├── ActorError
│   ├── ActorDiedError            for good: killed, crashed, or its constructor raised
│   │   └── ActorPlacementGroupRemovedError
│   └── ActorUnavailableError     restarting
├── ActorAlreadyExistsError, ActorNotFoundError (ValueError)
├── TaskPlacementGroupRemovedError  the group that the task was to run in is gone
├── PlacementGroupNotFoundError (ValueError)
├── UnschedulableError            no node can ever give what was asked for
├── LimitReachedError             a bound of the node's is reached: queues, priorities, actors
├── ObjectStoreFullError          no room in the store
│   └── OutOfDiskError            nor on the disk that it spills to
├── ObjectLostError               all copies are gone
│   ├── ObjectFreedError          given up by hand, with `free`
│   ├── ObjectReconstructionFailedError   nor can its task run again: `reason` says why
│   └── ReferenceCountError (AssertionError)   gone although it was held
├── OutOfBandReferenceError       a reference was pickled by hand, where that is not allowed
├── NotConnectedError (RuntimeError)           used before init or after shutdown
├── AlreadyInitializedError (RuntimeError)     init was called twice
├── ClusterUnavailableError (ConnectionError)   nothing answers at the address
├── NotPicklableError (TypeError) a function, argument or result that cannot be pickled
└── UnsupportedOptionError (ValueError)
    ├── UnknownArgumentError (TypeError, RuntimeError)   of init
    └── UnknownMethodOptionError (AssertionError)        of @method

ActorExit (SystemExit) is no error: `exit_actor` leaves a method by it.

Names that Ray's users know are aliases at the foot; where Ray tells causes apart that are one here,
two names are one class, and the end of a stream is Python's own StopIteration. Errors of the layers
below are theirs and only listed here. What cannot happen here has no name: other languages
(CrossLanguageError), compiled graphs and their channels, and Ray Direct Transport.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Hashable, Iterator, Sequence
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, Self, cast

from rostral_gcs.errors import GcsError, RostralError, UnauthenticatedError
from rostral_objectstore.errors import (
    ObjectFetchTimeoutError,
    ObjectFreedError,
    ObjectLostError,
    ObjectNotFoundError,
    ObjectReconstructionFailedError,
    ObjectStoreError,
    ObjectStoreFullError,
    OutOfDiskError,
    PendingCallsLimitError,
    StoreUnavailableError,
)
from rostral_scheduler.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorError,
    ActorNotFoundError,
    ActorPlacementGroupRemovedError,
    ActorUnavailableError,
    EngineError,
    LimitReachedError,
    NodeDiedError,
    OutOfMemoryError,
    PlacementGroupNotFoundError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    TaskDeadlineExceededError,
    TaskPlacementGroupRemovedError,
    UnschedulableError,
    WorkerCrashedError,
    WorkerStartError,
)


class NotConnectedError(RostralError, RuntimeError):
    """There is no cluster: `init` was not called, or `shutdown` was."""


class ClusterUnavailableError(RostralError, ConnectionError):
    """Nothing answers at the address, or the node went away."""


class GetTimeoutError(RostralError, TimeoutError):
    """`get` waited for as long as it was told to."""


class StreamingGeneratorReplayInconsistentError(EngineError):
    """A generator ran again after a failure, and did not yield what its first run had."""


class ReferenceCountError(ObjectLostError, AssertionError):
    """An object is gone although somebody held it: the engine has counted wrongly."""


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
        import difflib

        near = difflib.get_close_matches(name, known, 1)
        return cls(
            f"there is no option {name!r}" + (f", did you mean {near[0]!r}?" if near else ""),
            hint="options are " + ", ".join(known),
        )


class UnknownArgumentError(UnsupportedOptionError, TypeError, RuntimeError):
    """`init` has no such argument. A TypeError as Python has it, a RuntimeError as Ray does."""


class UnknownMethodOptionError(UnsupportedOptionError, AssertionError):
    """`@method` has no such option. An AssertionError as Ray has it."""


class ActorExit(SystemExit):
    """What `exit_actor` raises, to leave the method at once. Caught, the actor ends all the same.

    A SystemExit and no error, so that user code does not catch it by accident.
    """


class TaskError(RostralError):
    """A remote function or method raised.

    What `get` raises is an instance of this and of the class of the original error, so both `except
    TaskError` and `except ValueError` catch a remote ValueError.

    Attributes:
        cause: the original exception; a RostralError that says what it was when it could not be
            pickled.
        function_name: what raised.
        remote_traceback: the traceback as the remote process saw it; also `traceback_str`.
        pid: the remote process.
        ip: the address of its node.
    """

    cause: BaseException | None
    function_name: str
    remote_traceback: str
    pid: int
    ip: str

    def __init__(
        self,
        function_name: str,
        remote_traceback: str,
        cause: BaseException | None,
        pid: int,
        ip: str = "127.0.0.1",
    ) -> None:
        super().__init__(f"{function_name}() raised in process {pid}:\n{remote_traceback.rstrip()}")
        self.function_name = function_name
        self.remote_traceback = remote_traceback
        self.cause = cause
        self.pid = pid
        self.ip = ip

    @property
    def traceback_str(self) -> str:
        """`remote_traceback`, under the name that Ray's users know."""
        return self.remote_traceback

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_task_error, (
            self.function_name,
            self.remote_traceback,
            self.cause,
            self.pid,
            self.ip,
        )

    def __str__(self) -> str:
        # Not the root's: a `code` or `hint` here is the cause's, and means something else.
        return self.message

    def as_instance_of_cause(self) -> TaskError:
        """The same error, also an instance of the cause's class where Python allows one."""
        cause = self.cause
        if cause is None or type(cause) is RostralError:
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
    name: str, remote_traceback: str, cause: BaseException | None, pid: int, ip: str
) -> TaskError:
    # Of the cause's class again: an error that a task passed on by hand is caught like the first.
    return TaskError(name, remote_traceback, cause, pid, ip).as_instance_of_cause()


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


class UnserializableError(RostralError):
    """What a task raised, or a part of it, cannot be rebuilt in this process.

    Its text has the traceback as the remote process saw it.
    """


class UserCodeError(RostralError):
    """For libraries that run a user's code inside a task of theirs, and tell what it raised.

    Raise it `from` the user's error: `retry_exceptions` goes by that one.
    """


class OutOfBandReferenceError(RostralError):
    """A reference was pickled by hand or by a closure, which the environment does not allow."""


# Names that programs written against Ray's core use.
ActorHandleNotFoundError = ActorNotFoundError
ActorPlacementGroupRemoved = ActorPlacementGroupRemovedError
ActorUnschedulableError = UnschedulableError
AsyncioActorExit = ActorExit
AuthenticationError = UnauthenticatedError
LocalRayletDiedError = ClusterUnavailableError
ObjectFetchTimedOutError = ObjectFetchTimeoutError
ObjectRefStreamEndOfStreamError = StopIteration
OufOfBandObjectRefSerializationException = OutOfBandReferenceError  # misspelt there
OutOfBandObjectRefSerializationException = OutOfBandReferenceError
OwnerDiedError = ObjectLostError
PendingCallsLimitExceeded = PendingCallsLimitError
PlasmaObjectNotAvailable = ObjectNotFoundError
RayActorError = ActorError
RayError = RostralError
RaySystemError = EngineError
RayTaskError = TaskError
ReferenceCountingAssertionError = ReferenceCountError
RpcError = GcsError
TaskPlacementGroupRemoved = TaskPlacementGroupRemovedError
TaskUnschedulableError = UnschedulableError
UnserializableException = UnserializableError
UserCodeException = UserCodeError

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorExit",
    "ActorHandleNotFoundError",
    "ActorNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorPlacementGroupRemovedError",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AlreadyInitializedError",
    "AsyncioActorExit",
    "AuthenticationError",
    "ClusterUnavailableError",
    "EngineError",
    "GcsError",
    "GetTimeoutError",
    "LocalRayletDiedError",
    "LimitReachedError",
    "NodeDiedError",
    "NotConnectedError",
    "NotPicklableError",
    "ObjectFetchTimedOutError",
    "ObjectFetchTimeoutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectNotFoundError",
    "ObjectReconstructionFailedError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreError",
    "ObjectStoreFullError",
    "OufOfBandObjectRefSerializationException",
    "OutOfBandObjectRefSerializationException",
    "OutOfBandReferenceError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PlacementGroupNotFoundError",
    "PendingCallsLimitError",
    "PendingCallsLimitExceeded",
    "PlasmaObjectNotAvailable",
    "RayActorError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountError",
    "ReferenceCountingAssertionError",
    "RostralError",
    "RpcError",
    "RuntimeEnvSetupError",
    "StoreUnavailableError",
    "StreamingGeneratorReplayInconsistentError",
    "TaskCancelledError",
    "TaskDeadlineExceededError",
    "TaskError",
    "TaskPlacementGroupRemoved",
    "TaskPlacementGroupRemovedError",
    "TaskUnschedulableError",
    "UnauthenticatedError",
    "UnknownArgumentError",
    "UnknownMethodOptionError",
    "UnschedulableError",
    "UnserializableError",
    "UnserializableException",
    "UnsupportedOptionError",
    "UserCodeError",
    "UserCodeException",
    "WorkerCrashedError",
    "WorkerStartError",
]
