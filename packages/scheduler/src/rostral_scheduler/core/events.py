"""What can happen to a local scheduler, as its policy is told.

This file owns the events of ``core/local.py``. Workers are named by the numbers that the policy
itself gave them; queues by their locators in the node's memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from rostral_scheduler.core.resources import ResourceSet

__all__ = [
    "ActorGone",
    "ActorWanted",
    "EnvironmentChanged",
    "Event",
    "GpusPreferred",
    "GroupRemoved",
    "GroupWanted",
    "JobEnded",
    "Observed",
    "QueueClosed",
    "QueueOpened",
    "QueueSeen",
    "WorkerGone",
    "WorkerReady",
    "WorkerSeen",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOpened:
    """A job submits tasks of a new shape."""

    queue: int
    job_id: bytes
    shape: ResourceSet
    environment: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueClosed:
    """Nothing will be taken from the queue any more."""

    queue: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReady:
    """A started worker has attached and registered: it may be granted a queue."""

    worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGone:
    """The worker's process is dead, or could not be started."""

    worker: int
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorWanted:
    """An actor waits for a process of its own.

    Attributes:
        placement: What must be free for it to start.
        held: What it holds for its life.
    """

    actor_id: bytes
    job_id: bytes
    placement: ResourceSet
    held: ResourceSet
    environment: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentChanged:
    """Workers of the environment can be started from now on, or cannot any more."""

    environment: bytes
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GpusPreferred:
    """A worker that has used none of its GPUs yet would rather have these, the first the most."""

    worker: int
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorGone:
    """The actor needs no process any more; one that it has is ended by whoever says so."""

    actor_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWanted:
    """A placement group waits for its bundles: all of them at once, or none.

    Attributes:
        indexes: Which of the group's bundles these are, where others are on other nodes; empty:
            all, in their order.
    """

    group_id: bytes
    job_id: bytes
    bundles: tuple[ResourceSet, ...]
    indexes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRemoved:
    """The placement group gives its bundles back; its members end with it."""

    group_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded:
    """The job's driver is gone: so must be its workers."""

    job_id: bytes


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """One queue at the moment of an observation, all its lanes together.

    Attributes:
        priority: Of the tasks that come first.
        depth: Of these, how many tasks are above them.
    """

    queue: int
    length: int
    priority: int = 0
    depth: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """One worker at the moment of an observation.

    Attributes:
        acknowledged: The queue that it last looked at; 0 for none.
        running: It has a task.
        blocked: Its task waits for objects.
        idle: It sleeps with nothing to do.
    """

    worker: int
    acknowledged: int = 0
    running: bool = False
    blocked: bool = False
    idle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the node's memory shows now: every open queue, every worker that is ready.

    Attributes:
        now_s: Monotonic time, seconds.
        tick: The slow, regular observation, at which idle workers are trimmed.
        memory_short: There is no memory for more processes than are needed.
    """

    now_s: float
    queues: tuple[QueueSeen, ...] = ()
    workers: tuple[WorkerSeen, ...] = ()
    tick: bool = False
    memory_short: bool = False


Event = (
    QueueOpened
    | QueueClosed
    | WorkerReady
    | WorkerGone
    | ActorWanted
    | ActorGone
    | GpusPreferred
    | GroupWanted
    | GroupRemoved
    | EnvironmentChanged
    | JobEnded
    | Observed
)
