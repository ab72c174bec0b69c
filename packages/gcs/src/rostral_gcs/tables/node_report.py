"""What a node says of its load: what waits there, how long it takes, how fast objects come.

This file owns NodeReport and its codec. A report is part of the node's row and is written with the
renewal of its lease; whoever places tasks reads it (OSDI'18 §4.2.2, heartbeats).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from rostral_gcs._proto import rows_pb2
from rostral_gcs.errors import InvalidArgumentError
from rostral_gcs.tables.checks import check_resources, check_seconds

__all__ = ["NodeReport", "QueueReport", "decode_report", "encode_report"]

QUEUES_MAX: Final = 1000
FUNCTIONS_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReport:
    """Tasks of one shape that wait on a node, all jobs together.

    Attributes:
        resources: What each needs, by name.
        length: How many wait.
        run_time_s: How long such tasks have taken there of late, smoothed, in seconds; 0: not
            known.
    """

    resources: Mapping[str, float]
    length: int
    run_time_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """A node's load.

    Attributes:
        queues: What waits there; up to 1,000 shapes.
        run_time_s: How long its tasks have taken of late, smoothed, in seconds; 0: not known.
        run_times_s: The same by function id; up to 1,000 functions.
        bandwidth_bytes_per_s: At which it has fetched objects of late, smoothed; 0: not known.
        is_draining: It takes no new work.
        resources_held: What actors and placement groups hold, by name: no end of a task frees it.
    """

    queues: tuple[QueueReport, ...] = ()
    run_time_s: float = 0.0
    run_times_s: Mapping[bytes, float] = field(default_factory=dict)
    bandwidth_bytes_per_s: float = 0.0
    is_draining: bool = False
    resources_held: Mapping[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Refuses fields out of range.

        Raises:
            InvalidArgumentError: Says which field and what is allowed.
        """
        for name, count, limit in (
            ("queues", len(self.queues), QUEUES_MAX),
            ("run_times_s", len(self.run_times_s), FUNCTIONS_MAX),
        ):
            if count > limit:
                raise InvalidArgumentError(
                    f"report.{name} has {count} entries; allowed: up to {limit}",
                    hint="report the largest",
                )
        check_resources("report.resources_held", self.resources_held)
        for queue in self.queues:
            check_resources("report.queues.resources", queue.resources)
            check_seconds("report.queues.run_time_s", queue.run_time_s)
            if not 0 <= queue.length < 1 << 63:
                raise InvalidArgumentError(
                    f"report.queues.length is {queue.length}; allowed: 0 or more",
                    hint="correct the count",
                )
        for run_time_s in (self.run_time_s, *self.run_times_s.values()):
            check_seconds("report.run_time_s", run_time_s)
        bandwidth = self.bandwidth_bytes_per_s
        if not math.isfinite(bandwidth) or bandwidth < 0:
            raise InvalidArgumentError(
                f"report.bandwidth_bytes_per_s is {bandwidth}; allowed: a finite number, 0 or more",
                hint="correct the measurement",
            )


def encode_report(report: NodeReport) -> rows_pb2.NodeReportValue:
    """The report's message, checked."""
    report.check()
    return rows_pb2.NodeReportValue(
        queues=[
            rows_pb2.QueueReportValue(
                resources=queue.resources, length=queue.length, run_time_s=queue.run_time_s
            )
            for queue in report.queues
        ],
        run_time_s=report.run_time_s,
        run_times=[
            rows_pb2.FunctionRunTimeValue(function_id=function_id, run_time_s=run_time_s)
            for function_id, run_time_s in report.run_times_s.items()
        ],
        bandwidth_bytes_per_s=report.bandwidth_bytes_per_s,
        is_draining=report.is_draining,
        resources_held=report.resources_held,
    )


def decode_report(found: rows_pb2.NodeReportValue) -> NodeReport:
    """The report again.

    Raises:
        InvalidArgumentError: A field is out of range.
    """
    report = NodeReport(
        queues=tuple(
            QueueReport(
                resources=dict(queue.resources), length=queue.length, run_time_s=queue.run_time_s
            )
            for queue in found.queues
        ),
        run_time_s=found.run_time_s,
        run_times_s={one.function_id: one.run_time_s for one in found.run_times},
        bandwidth_bytes_per_s=found.bandwidth_bytes_per_s,
        is_draining=found.is_draining,
        resources_held=dict(found.resources_held),
    )
    report.check()
    return report
