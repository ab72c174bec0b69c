"""Errors of the schedulers, of workers and of actors.

RostralError (rostral_gcs)
└── SchedulerError
    ├── misuse: the caller must change something
    │   ├── UnschedulableError (ValueError)       the node can never have the resources asked for
    │   ├── ActorAlreadyExistsError (ValueError)  the name is taken
    │   ├── ActorNotFoundError (ValueError)       no living actor has the name or id
    │   ├── JobNotFoundError (LookupError)        the job is unknown, or has ended
    │   ├── PlacementGroupNotFoundError (ValueError)  no placement group has the name or id
    │   └── RequestError (ValueError)             a request that makes no sense to this scheduler
    ├── environment: whoever runs the cluster must act, or the caller can wait
    │   ├── LimitReachedError                     a bound of the configuration
    │   ├── EngineError                           the engine failed, not the program
    │   │   └── WorkerStartError                  worker processes cannot be started
    │   ├── RuntimeEnvSetupError                  an environment of workers cannot be made
    │   └── NodeDiedError                         the node is gone
    ├── WorkerCrashedError                        the process that ran the task died
    │   └── OutOfMemoryError                      it was ended because memory was short
    ├── TaskPlacementGroupRemovedError            the group that the task was to run in is gone
    ├── TaskCancelledError                        the task was cancelled
    │   └── TaskDeadlineExceededError (TimeoutError)  by its own deadline
    └── ActorError                                what a caller sees of an actor that cannot answer
        ├── ActorDiedError                        it will not come back
        │   └── ActorPlacementGroupRemovedError   its placement group was removed
        └── ActorUnavailableError                 it may come back: the call was lost in its restart

This module imports nothing slow: every worker process reads it.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from rostral_gcs.errors import RostralError

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorNotFoundError",
    "ActorPlacementGroupRemovedError",
    "ActorUnavailableError",
    "EngineError",
    "JobNotFoundError",
    "LimitReachedError",
    "NodeDiedError",
    "OutOfMemoryError",
    "PlacementGroupNotFoundError",
    "RequestError",
    "RuntimeEnvSetupError",
    "SchedulerError",
    "TaskPlacementGroupRemovedError",
    "TaskCancelledError",
    "TaskDeadlineExceededError",
    "UnschedulableError",
    "WorkerCrashedError",
    "WorkerStartError",
]


class SchedulerError(RostralError):
    """Base of all errors of this package."""


class UnschedulableError(SchedulerError, ValueError):
    """The node can never satisfy the resources asked for.

    Attributes:
        resource: The first resource that cannot be had; empty when not known.
        requested: How much of it was asked for.
        total: How much of it the node has.
    """

    resource: str
    requested: float
    total: float

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        resource: str = "",
        requested: float = 0.0,
        total: float = 0.0,
    ) -> None:
        super().__init__(message, hint=hint)
        self.resource, self.requested, self.total = resource, requested, total


class ActorAlreadyExistsError(SchedulerError, ValueError):
    """A living actor has the name in this namespace."""


class ActorNotFoundError(SchedulerError, ValueError):
    """No living actor has the name or id."""


class JobNotFoundError(SchedulerError, LookupError):
    """The job is unknown to this node, or has ended."""


class PlacementGroupNotFoundError(SchedulerError, ValueError):
    """No placement group has the name or id."""


class RequestError(SchedulerError, ValueError):
    """The request makes no sense to this scheduler: unknown method, wrong caller, wrong body."""


class LimitReachedError(SchedulerError):
    """A bound of the configuration was reached; the message names it."""


class EngineError(SchedulerError):
    """The engine failed, through no fault of the program that runs on it."""


class WorkerStartError(EngineError):
    """Worker processes cannot be started; the message has what they said."""


class RuntimeEnvSetupError(SchedulerError):
    """The runtime environment of a task or actor cannot be made; the message has what was said."""

    @property
    def error_message(self) -> str:
        """The text without the hint, as Ray names it."""
        return self.message


class NodeDiedError(SchedulerError):
    """The node that had the task, object or actor is gone."""


class WorkerCrashedError(SchedulerError):
    """The process that ran the task died, and the task may not be run again.

    Attributes:
        task_id: The task's id, 16 bytes; empty when not known.
        pid: The process that died; 0 when not known.
        exit_status: Its exit status; minus the signal's number when a signal killed it.
        stderr_lines: The last it wrote to stderr.
    """

    task_id: bytes
    pid: int
    exit_status: int
    stderr_lines: tuple[str, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        task_id: bytes = b"",
        pid: int = 0,
        exit_status: int = 0,
        stderr_lines: Sequence[str] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.task_id, self.pid, self.exit_status = task_id, pid, exit_status
        self.stderr_lines = tuple(stderr_lines)

    @property
    def signal_name(self) -> str | None:
        """The signal that killed it, such as `SIGSEGV`; None when it ended otherwise."""
        if self.exit_status >= 0:
            return None
        try:
            return signal.Signals(-self.exit_status).name
        except ValueError:
            return f"signal {-self.exit_status}"


class OutOfMemoryError(WorkerCrashedError):
    """The process that ran the task was ended because the node, or its cgroup, had no memory left.

    The message has what was in use and, if the node's own monitor did it, the largest processes.
    """


class TaskPlacementGroupRemovedError(SchedulerError):
    """The placement group in which the task was to run has been removed."""


class TaskCancelledError(SchedulerError):
    """The task was cancelled: it never ran, or what it returned or raised is not kept.

    Attributes:
        task_id: The task's id, 16 bytes; empty when not known.
    """

    task_id: bytes

    def __init__(self, message: str, *, hint: str | None = None, task_id: bytes = b"") -> None:
        super().__init__(message, hint=hint)
        self.task_id = task_id

    @staticmethod
    def of(task_id: bytes, *, is_late: bool) -> TaskCancelledError:
        """The error of a task that was cancelled, by its deadline or by somebody."""
        if is_late:
            return TaskDeadlineExceededError(
                f"task {task_id.hex()} was not done by its deadline",
                hint="give it more with deadline_s, counted from its submission",
                task_id=task_id,
            )
        return TaskCancelledError(f"task {task_id.hex()} was cancelled", task_id=task_id)


class TaskDeadlineExceededError(TaskCancelledError, TimeoutError):
    """The task was not done by its deadline, and was cancelled or never begun."""


class ActorError(SchedulerError):
    """An actor cannot answer.

    Attributes:
        actor_id: The actor's id, 16 bytes; empty when not known.
        actor_init_failed: Whether it died in its constructor.
        preempted: Whether its machine was taken away; never so far.
    """

    actor_id: bytes
    actor_init_failed: bool
    preempted: bool = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        actor_id: bytes = b"",
        actor_init_failed: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.actor_id, self.actor_init_failed = actor_id, actor_init_failed


class ActorDiedError(ActorError):
    """The actor is dead and will not come back."""


class ActorPlacementGroupRemovedError(ActorDiedError):
    """The actor ended with the placement group that it was part of."""


class ActorUnavailableError(ActorError):
    """The call was lost because the actor is being restarted; it may be made again."""


def last_lines(stderr_lines: Sequence[str]) -> str:
    """The tail of a dead process's stderr, as it goes at the end of an error's text."""
    if not stderr_lines:
        return ""
    return "; the last lines of its stderr:\n" + "\n".join(f"  {line}" for line in stderr_lines)
