"""One actor as the scheduler knows it: its states, its record, and its death in words.

This file owns the state table. What moves an actor along it is in ``actors.py``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.errors import (
    ActorDiedError,
    ActorUnavailableError,
    SchedulerError,
    last_lines,
)
from rostral_scheduler.local.node_memory import Body, Hold
from rostral_scheduler.local.worker_pool import Death

__all__ = ["ActorRecord", "ActorStage", "InvalidTransitionError"]


# PENDING ──> STARTING ──> ALIVE ──> RESTARTING ──> STARTING
#    │            │          │           │
#    └────────────┴──────────┴───────────┴──> DEAD ──> forgotten, once nobody refers to it
class ActorStage(enum.Enum):
    """Where an actor is in its life; the drawing is above."""

    PENDING = "PENDING"
    """Waits for resources; calls queue in its mailbox."""
    STARTING = "STARTING"
    """Its process is being forked, or runs the constructor."""
    ALIVE = "ALIVE"
    """Serves its mailbox."""
    RESTARTING = "RESTARTING"
    """Its process died and it waits for another; calls still queue."""
    DEAD = "DEAD"
    """For good. Calls fail."""


_TRANSITIONS: Final = {
    (ActorStage.PENDING, ActorStage.STARTING),
    (ActorStage.PENDING, ActorStage.DEAD),
    (ActorStage.STARTING, ActorStage.ALIVE),
    (ActorStage.STARTING, ActorStage.RESTARTING),
    (ActorStage.STARTING, ActorStage.DEAD),
    (ActorStage.ALIVE, ActorStage.RESTARTING),
    (ActorStage.ALIVE, ActorStage.DEAD),
    (ActorStage.RESTARTING, ActorStage.STARTING),
    (ActorStage.RESTARTING, ActorStage.DEAD),
}


class InvalidTransitionError(SchedulerError):
    """An actor was moved along an arrow that the drawing does not have: our defect."""


@dataclass(slots=True, eq=False)
class ActorRecord:
    """One actor.

    Invariant: ``worker_id`` is set in STARTING and ALIVE, and in DEAD until its process is gone.
    Invariant: ``death`` is set exactly in DEAD.
    """

    actor_id: bytes
    job_id: bytes
    name: str | None
    namespace: str
    class_name: str
    placement: ResourceSet
    held: ResourceSet
    max_restarts: int
    detached: bool
    creation: Body
    creation_hold: Hold | None
    meta: bytes
    mailbox: int
    group_id: bytes | None = None
    """The placement group that it is part of."""
    environment: bytes = b""
    creator: bytes | None = None
    """The actor whose process made it, if it is not detached: it ends with that process."""
    is_checkpointed: bool = False
    checkpoint: Body | None = None
    """Where its last checkpoint lies, and how many calls that covers."""
    checkpoint_hold: Hold | None = None
    """Keeps it whatever becomes of the process that made it."""
    stub: Body = field(default_factory=dict)
    """Where the object lies that stands for it in handles: who holds that holds the actor."""
    creation_kept: Hold | None = None
    """On what it is made from, where that is another object."""
    holders: set[bytes] = field(default_factory=set)
    """Other nodes on which somebody refers to it."""
    retaken: list[int] = field(default_factory=list)
    """What its dead process had claimed, done or not, until the next one has taken it."""
    stage: ActorStage = ActorStage.PENDING
    worker_id: bytes | None = None
    restarts: int = 0
    is_serial: bool = False
    """It runs one call after the other, in its main thread: one can be stopped alone."""
    failed_starts: int = 0
    """Processes in a row that died before their constructor returned."""
    ending: str = ""
    """Why it is being ended, once it is: the death of its process is then no accident."""
    death: bytes | None = None
    death_cause: str = ""
    story: list[str] = field(default_factory=list)

    def move(self, stage: ActorStage) -> None:
        """Goes to another stage. Raises InvalidTransitionError with the actor's story."""
        if (self.stage, stage) not in _TRANSITIONS:
            raise InvalidTransitionError(
                f"actor {self.actor_id.hex()} cannot go from {self.stage.value} to {stage.value}; "
                f"its story: {' -> '.join(self.story) or 'none'}"
            )
        self.story = [*self.story[-15:], stage.value]
        self.stage = stage

    @property
    def may_restart(self) -> bool:
        """Whether the death of its process is not its own."""
        return not self.ending and (self.max_restarts < 0 or self.restarts < self.max_restarts)

    @property
    def may_move(self) -> bool:
        """Whether it lives on elsewhere when its node dies.

        What another actor here has made ends with that one, and a bundle is this node's.
        """
        return self.max_restarts != 0 and self.group_id is None and self.creator is None

    @property
    def title(self) -> str:
        """How texts name it."""
        name = f" {self.name!r}" if self.name else ""
        return f"actor {self.class_name}{name} ({self.actor_id.hex()})"

    def is_remade_by(self, job_id: bytes) -> bool:
        """Whether a request of the job to make it once more comes from a task that runs again."""
        return self.job_id in (job_id, self.actor_id)

    def unavailable(self, death: Death) -> ActorUnavailableError:
        """The error of a call that its process had begun, and that must not be made twice."""
        return ActorUnavailableError(
            f"{self.title} is being restarted: its process {death.pid} {death.cause}, and the call "
            f"may have run in part{last_lines(death.stderr_lines)}",
            hint="make the call again, or give the actor max_task_retries, if running it twice "
            "does no harm",
            actor_id=self.actor_id,
        )

    def died_of(self, death: Death) -> ActorDiedError:
        """The error that its callers get."""
        if self.ending:
            cause = self.ending
        else:
            cause = f"its process {death.pid} {death.cause}"
            if self.max_restarts:
                cause += f" (restarted {self.restarts} of {self.max_restarts} times)"
        return ActorDiedError(
            f"{self.title} died: {cause}"
            + (f"; {death.memory_report}" if death.memory_report else "")
            + ("" if self.ending else last_lines(death.stderr_lines)),
            hint=None if self.ending else "its log file has all that it wrote",
            actor_id=self.actor_id,
            actor_init_failed=self.stage is ActorStage.STARTING,
        )

    def ended(self) -> ActorDiedError:
        """The error for an actor that was ended without a process of its own."""
        return ActorDiedError(
            f"{self.title} died: {self.ending or self.death_cause}", actor_id=self.actor_id
        )
