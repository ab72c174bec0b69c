"""The task table: each task's specification and what became of it; the lineage (OSDI'18 §4.2.1).

This file owns TaskRow, its states and its codec. Objects need no link to their tasks: an object's
id begins with the id of the task that makes it. The codec is a packed record and no message: task
rows are written a hundred thousand a second, and packing one takes a third of the time.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Final

from rostral_gcs.errors import InvalidArgumentError
from rostral_gcs.ids import ActorID, FunctionID, JobID, NodeID, TaskID
from rostral_gcs.tables.checks import NAME_LENGTH_MAX

__all__ = ["TASKS", "TaskRow", "TaskState", "TaskTable", "final_codes", "task_columns"]

_FORMAT: Final = 1
# State, format, attempt, length of name and cause in bytes; submit, start and end time; ids of job,
# parent, function, actor and node. The specification is what follows name and cause.
_RECORD: Final = struct.Struct("<BBIHHddd16s16s16s16s16s")
_NONE: Final = bytes(16)
_CAUSE_LENGTH_MAX: Final = 1024


# PENDING ──> RUNNING ──> FINISHED   (final)
#    │           │
#    └───────────┴──────> FAILED     (final)
class TaskState(enum.Enum):
    """Where a task is in its life; the drawing is above. The values are stored."""

    PENDING = 1
    RUNNING = 2
    FINISHED = 3
    FAILED = 4

    @property
    def is_final(self) -> bool:
        """Whether nothing comes after it, so that the row may be moved to a file."""
        return self in (TaskState.FINISHED, TaskState.FAILED)


_STATES: Final = {state.value: state for state in TaskState}
_FINAL: Final = frozenset(state.value for state in TaskState if state.is_final)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One task.

    Attributes:
        task_id: Its id, the same over all attempts.
        job_id: The job it belongs to.
        parent_id: The task that submitted it; None for a driver's.
        function_id: What it runs.
        actor_id: The actor whose method it is; None for a plain task.
        node_id: Where it runs or ran; None while it is not placed.
        name: For people; 256 characters at most.
        state: See TaskState.
        attempt: How often it was begun before, from 0.
        submit_time_s: Unix time; 0 when not known, as the others.
        start_time_s: Of the last attempt.
        end_time_s: Of the last attempt.
        cause: Why it FAILED; shortened to 1024 bytes.
        spec: Opaque: what a scheduler needs to run it again.
        version: The stored row's version; 0 for a row not stored yet.
    """

    task_id: TaskID
    job_id: JobID
    parent_id: TaskID | None = None
    function_id: FunctionID | None = None
    actor_id: ActorID | None = None
    node_id: NodeID | None = None
    name: str = ""
    state: TaskState = TaskState.PENDING
    attempt: int = 0
    submit_time_s: float = 0.0
    start_time_s: float = 0.0
    end_time_s: float = 0.0
    cause: str = ""
    spec: bytes = b""
    version: int = field(default=0, compare=False)


class TaskTable:
    """Codec of the task table; keys are task ids."""

    name = "tasks"

    def key_of(self, row: TaskRow) -> bytes:
        """The task's id."""
        return row.task_id.binary()

    def encode(self, row: TaskRow) -> bytes:
        """The row's value, checked.

        Raises:
            InvalidArgumentError: A field is out of range.
        """
        if len(row.name) > NAME_LENGTH_MAX:
            raise InvalidArgumentError(
                f"task name is {row.name[:80]!r}...; allowed: up to {NAME_LENGTH_MAX} characters",
                hint="choose a shorter name",
            )
        name = row.name.encode(errors="replace")
        cause = row.cause.encode(errors="replace")[:_CAUSE_LENGTH_MAX] if row.cause else b""
        # Not a number is greater than nothing, so the comparison refuses it too.
        if not (
            0.0 <= row.submit_time_s < 1e12
            and 0.0 <= row.start_time_s < 1e12
            and 0.0 <= row.end_time_s < 1e12
            and 0 <= row.attempt < 2**32
        ):
            raise InvalidArgumentError(
                f"task {row.task_id.hex()} has times {row.submit_time_s}, {row.start_time_s}, "
                f"{row.end_time_s} and attempt {row.attempt}; allowed: finite numbers, 0 or more",
                hint="correct the clock or the field",
            )
        parent, function, actor, node = row.parent_id, row.function_id, row.actor_id, row.node_id
        return b"".join(
            (
                _RECORD.pack(
                    row.state.value,
                    _FORMAT,
                    row.attempt,
                    len(name),
                    len(cause),
                    row.submit_time_s,
                    row.start_time_s,
                    row.end_time_s,
                    row.job_id.binary(),
                    _NONE if parent is None else parent.binary(),
                    _NONE if function is None else function.binary(),
                    _NONE if actor is None else actor.binary(),
                    _NONE if node is None else node.binary(),
                ),
                name,
                cause,
                row.spec,
            )
        )

    def decode(self, key: bytes, value: bytes, version: int) -> TaskRow:
        """The row again."""
        try:
            record = _RECORD.unpack_from(value)
            state = _STATES[record[0]]
            if record[1] != _FORMAT:
                raise ValueError(f"it has format {record[1]}, this version reads {_FORMAT}")
            name_end = _RECORD.size + record[3]
            cause_end = name_end + record[4]
            job, parent, function, actor, node = record[8:]
            return TaskRow(
                task_id=TaskID(key),
                job_id=JobID(job),
                parent_id=TaskID(parent) if parent != _NONE else None,
                function_id=FunctionID(function) if function != _NONE else None,
                actor_id=ActorID(actor) if actor != _NONE else None,
                node_id=NodeID(node) if node != _NONE else None,
                name=value[_RECORD.size : name_end].decode(),
                state=state,
                attempt=record[2],
                submit_time_s=record[5],
                start_time_s=record[6],
                end_time_s=record[7],
                cause=value[name_end:cause_end].decode(errors="replace"),
                spec=value[cause_end:],
                version=version,
            )
        except (struct.error, KeyError, ValueError) as error:
            raise InvalidArgumentError(
                f"not a row of table tasks: {str(error)[:80]}", hint="write it with this client"
            ) from error


def final_codes() -> frozenset[int]:
    """The first bytes of stored rows of tasks that are over."""
    return _FINAL


def task_columns(value: bytes) -> tuple[bytes | str | float | int, ...]:
    """A stored row's fields in the order in which an archive shows them.

    State, attempt, submit, start and end time, ids of job, parent, function, actor and node, name,
    cause. Ids that there are not are empty.
    """
    try:
        record = _RECORD.unpack_from(value)
        name_end = _RECORD.size + record[3]
        return (
            _STATES[record[0]].name,
            record[2],
            *record[5:8],
            *(b"" if one == _NONE else one for one in record[8:]),
            value[_RECORD.size : name_end].decode(errors="replace"),
            value[name_end : name_end + record[4]].decode(errors="replace"),
        )
    except (struct.error, KeyError) as error:
        raise InvalidArgumentError(
            f"not a row of table tasks: {str(error)[:80]}", hint="write it with this client"
        ) from error


TASKS = TaskTable()
