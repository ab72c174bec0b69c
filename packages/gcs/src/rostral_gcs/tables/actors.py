"""The actor table, and the claims on actor names (OSDI'18 §4.2.1).

This file owns ActorRow, its states, its codec and the key of a name. How a name is claimed is
``actor_registry.py``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from rostral_gcs._proto import rows_pb2
from rostral_gcs.errors import InvalidArgumentError
from rostral_gcs.ids import ActorID, JobID, NodeID
from rostral_gcs.tables.checks import check_name, check_namespace

__all__ = ["ACTORS", "ACTOR_NAMES", "ActorRow", "ActorState", "ActorTable", "actor_name_key"]

ACTOR_NAMES = "actor_names"


# PENDING ──> ALIVE ──> RESTARTING ──> ALIVE
#    │          │            │
#    └──────────┴────────────┴──> DEAD        (final)
class ActorState(enum.Enum):
    """Where an actor is in its life; the drawing is above."""

    PENDING = "PENDING"
    ALIVE = "ALIVE"
    RESTARTING = "RESTARTING"
    DEAD = "DEAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorRow:
    """One actor.

    Attributes:
        actor_id: Its id, the same over all restarts.
        job_id: The job that made it.
        name: Unique in its namespace while the actor is not DEAD; empty for none.
        namespace: Of the name.
        class_name: For people.
        node_id: Where it runs; None while it is not placed.
        worker_pid: The process it lives in; 0 while it is not placed.
        state: See ActorState.
        death_cause: Why it is DEAD or RESTARTING; else empty.
        detached: Outlives its job.
        max_restarts: How often it may be restarted; -1 without end.
        restarts: How often it was.
        version: The stored row's version; 0 for a row not stored yet.
    """

    actor_id: ActorID
    job_id: JobID
    name: str = ""
    namespace: str = ""
    class_name: str = ""
    node_id: NodeID | None = None
    worker_pid: int = 0
    state: ActorState = ActorState.PENDING
    death_cause: str = ""
    detached: bool = False
    max_restarts: int = 0
    restarts: int = 0
    version: int = field(default=0, compare=False)

    def check(self) -> None:
        """Refuses fields out of range.

        Raises:
            InvalidArgumentError: Says which field and what is allowed.
        """
        check_name("actor name", self.name)
        check_namespace(self.namespace)
        if not -1 <= self.max_restarts < 2**31:
            raise InvalidArgumentError(
                f"max_restarts is {self.max_restarts}; allowed: -1 (without end) or more",
                hint="correct the option",
            )


class ActorTable:
    """Codec of the actor table; keys are actor ids."""

    name = "actors"

    def key_of(self, row: ActorRow) -> bytes:
        """The actor's id."""
        return row.actor_id.binary()

    def encode(self, row: ActorRow) -> bytes:
        """The row's value, checked."""
        row.check()
        return rows_pb2.ActorValue(
            job_id=row.job_id.binary(),
            name=row.name,
            namespace=row.namespace,
            class_name=row.class_name,
            node_id=row.node_id.binary() if row.node_id is not None else b"",
            worker_pid=row.worker_pid,
            state=row.state.value,
            death_cause=row.death_cause,
            detached=row.detached,
            max_restarts=row.max_restarts,
            restarts=row.restarts,
        ).SerializeToString()

    def decode(self, key: bytes, value: bytes, version: int) -> ActorRow:
        """The row again."""
        try:
            found = rows_pb2.ActorValue.FromString(value)
            row = ActorRow(
                actor_id=ActorID(key),
                job_id=JobID(found.job_id),
                name=found.name,
                namespace=found.namespace,
                class_name=found.class_name,
                node_id=NodeID(found.node_id) if found.node_id else None,
                worker_pid=found.worker_pid,
                state=ActorState(found.state),
                death_cause=found.death_cause,
                detached=found.detached,
                max_restarts=found.max_restarts,
                restarts=found.restarts,
                version=version,
            )
        except (DecodeError, ValueError) as error:
            raise InvalidArgumentError(
                f"not a row of table actors: {str(error)[:80]}", hint="write it with this client"
            ) from error
        row.check()
        return row


def actor_name_key(namespace: str, name: str) -> bytes:
    """The key of the claim on a name; its value is the actor's id."""
    check_namespace(namespace)
    check_name("actor name", name)
    return f"{namespace}/{name}".encode()


ACTORS = ActorTable()
