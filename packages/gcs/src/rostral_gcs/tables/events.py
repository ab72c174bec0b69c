"""The event log: what happened in the cluster, for people and tools (OSDI'18 §4.2.1).

This file owns EventRow, its codec and the order of its keys: by time, so that a range of times is a
range of keys.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from rostral_gcs._proto import rows_pb2
from rostral_gcs.errors import InvalidArgumentError
from rostral_gcs.ids import JobID, NodeID
from rostral_gcs.tables.checks import check_seconds

__all__ = ["EVENTS", "EventRow", "EventSeverity", "EventTable", "event_key"]

_MESSAGE_LENGTH_MAX: Final = 16 * 1024


class EventSeverity(enum.Enum):
    """How much an event matters."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One event.

    Attributes:
        time_s: When it happened, Unix time.
        kind: What kind of thing happened, in one word: ``node_died``.
        message: For people.
        severity: See EventSeverity.
        source: Who says so: ``local_scheduler``.
        node_id: Where; None when that has no meaning.
        job_id: In which job; None when in none.
        subject_id: The id of the task, actor or object that it is about; may be empty.
        attributes: Whatever else is worth telling.
        nonce: 8 bytes that tell events of one moment apart.
        version: The stored row's version; 0 for a row not stored yet.
    """

    time_s: float
    kind: str
    message: str = ""
    severity: EventSeverity = EventSeverity.INFO
    source: str = ""
    node_id: NodeID | None = None
    job_id: JobID | None = None
    subject_id: bytes = b""
    attributes: Mapping[str, str] = field(default_factory=dict)
    nonce: bytes = field(default_factory=lambda: os.urandom(8), compare=False)
    version: int = field(default=0, compare=False)

    def check(self) -> None:
        """Refuses fields out of range.

        Raises:
            InvalidArgumentError: Says which field and what is allowed.
        """
        check_seconds("time_s", self.time_s)
        if not self.kind or len(self.nonce) != 8 or len(self.message) > _MESSAGE_LENGTH_MAX:
            raise InvalidArgumentError(
                f"event of kind {self.kind[:80]!r} with a message of {len(self.message)} "
                f"characters; allowed: a kind, and {_MESSAGE_LENGTH_MAX} characters",
                hint="name the kind and shorten the message",
            )


def event_key(time_s: float, nonce: bytes) -> bytes:
    """The key of an event; with an empty nonce the prefix of all at that moment."""
    check_seconds("time_s", time_s)
    return min(int(time_s * 1e9), 2**64 - 1).to_bytes(8, "big") + nonce


class EventTable:
    """Codec of the event table; keys are time, 8 bytes big-endian nanoseconds, and a nonce."""

    name = "events"

    def key_of(self, row: EventRow) -> bytes:
        """Time, then nonce."""
        return event_key(row.time_s, row.nonce)

    def encode(self, row: EventRow) -> bytes:
        """The row's value, checked."""
        row.check()
        return rows_pb2.EventValue(
            severity=row.severity.value,
            source=row.source,
            kind=row.kind,
            message=row.message,
            node_id=row.node_id.binary() if row.node_id is not None else b"",
            job_id=row.job_id.binary() if row.job_id is not None else b"",
            subject_id=row.subject_id,
            attributes=row.attributes,
        ).SerializeToString()

    def decode(self, key: bytes, value: bytes, version: int) -> EventRow:
        """The row again."""
        try:
            found = rows_pb2.EventValue.FromString(value)
            row = EventRow(
                time_s=int.from_bytes(key[:8], "big") / 1e9,
                kind=found.kind,
                message=found.message,
                severity=EventSeverity(found.severity),
                source=found.source,
                node_id=NodeID(found.node_id) if found.node_id else None,
                job_id=JobID(found.job_id) if found.job_id else None,
                subject_id=found.subject_id,
                attributes=dict(found.attributes),
                nonce=key[8:],
                version=version,
            )
        except (DecodeError, ValueError) as error:
            raise InvalidArgumentError(
                f"not a row of table events: {str(error)[:80]}", hint="write it with this client"
            ) from error
        row.check()
        return row


EVENTS = EventTable()
