"""The job table: one row for each driver, from ``init`` to its end.

This file owns JobRow, its states and its codec.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from rostral_gcs._proto import rows_pb2
from rostral_gcs.errors import InvalidArgumentError
from rostral_gcs.ids import JobID, NodeID
from rostral_gcs.tables.checks import check_namespace, check_seconds

__all__ = ["JOBS", "JobRow", "JobState", "JobTable"]


class JobState(enum.Enum):
    """RUNNING -> FINISHED, once."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One job.

    Attributes:
        job_id: Its id.
        driver_pid: The driver's process id on ``hostname``.
        hostname: The machine that the driver runs on.
        state: RUNNING or FINISHED.
        start_time_s: Unix time.
        end_time_s: Unix time; 0 while RUNNING.
        namespace: Where its named actors live unless they say otherwise.
        entrypoint: The driver's command line, for people.
        node_id: The node that the driver is on; the job ends with it. None: nobody has said.
        version: The stored row's version; 0 for a row not stored yet.
    """

    job_id: JobID
    driver_pid: int = 0
    hostname: str = ""
    state: JobState = JobState.RUNNING
    start_time_s: float = 0.0
    end_time_s: float = 0.0
    namespace: str = ""
    entrypoint: str = ""
    node_id: NodeID | None = None
    version: int = field(default=0, compare=False)

    def check(self) -> None:
        """Refuses fields out of range.

        Raises:
            InvalidArgumentError: Says which field and what is allowed.
        """
        check_namespace(self.namespace)
        check_seconds("start_time_s", self.start_time_s)
        check_seconds("end_time_s", self.end_time_s)


class JobTable:
    """Codec of the job table; keys are job ids."""

    name = "jobs"

    def key_of(self, row: JobRow) -> bytes:
        """The job's id."""
        return row.job_id.binary()

    def encode(self, row: JobRow) -> bytes:
        """The row's value, checked."""
        row.check()
        return rows_pb2.JobValue(
            driver_pid=row.driver_pid,
            hostname=row.hostname,
            state=row.state.value,
            start_time_s=row.start_time_s,
            end_time_s=row.end_time_s,
            namespace=row.namespace,
            entrypoint=row.entrypoint,
            node_id=b"" if row.node_id is None else row.node_id.binary(),
        ).SerializeToString()

    def decode(self, key: bytes, value: bytes, version: int) -> JobRow:
        """The row again."""
        try:
            found = rows_pb2.JobValue.FromString(value)
            row = JobRow(
                job_id=JobID(key),
                driver_pid=found.driver_pid,
                hostname=found.hostname,
                state=JobState(found.state),
                start_time_s=found.start_time_s,
                end_time_s=found.end_time_s,
                namespace=found.namespace,
                entrypoint=found.entrypoint,
                node_id=NodeID(found.node_id) if found.node_id else None,
                version=version,
            )
        except (DecodeError, ValueError) as error:
            raise InvalidArgumentError(
                f"not a row of table jobs: {str(error)[:80]}", hint="write it with this client"
            ) from error
        row.check()
        return row


JOBS = JobTable()
