"""A node's report, put right by what this node knows for sure: how much of it was its own tasks.

A report is seconds old, and what this node has sent there since, or has heard to be done, is known
here to the task. Pure: reports and counts come in, a report comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rostral_scheduler.core.node_view import NodeLoad, QueueLoad
from rostral_scheduler.core.resources import ResourceSet

__all__ = ["with_own_share"]

Counts = Mapping[ResourceSet, int]
"""Tasks of this node that are another's, by shape."""


def with_own_share(report: NodeLoad, then: Counts, now: Counts) -> NodeLoad:
    """The report as it would be now, had nothing changed but our own tasks.

    Args:
        report: As the node made it.
        then: What it had of ours at that time.
        now: What it has of ours.
    """
    if not then and not now:
        return report
    total, available = dict(report.total), dict(report.available)
    lengths = {queue.shape: queue.length for queue in report.queues}
    run_times_s = {queue.shape: queue.run_time_s for queue in report.queues}
    for shape, count in then.items():
        queued = min(count, lengths.get(shape, 0))
        lengths[shape] = lengths.get(shape, 0) - queued
        for name, units in shape:
            free = available.get(name, 0) + (count - queued) * units
            available[name] = min(free, total.get(name, 0))
    for shape, count in now.items():
        starting = min([count, *(available.get(name, 0) // units for name, units in shape)])
        for name, units in shape:
            available[name] = available.get(name, 0) - starting * units
        lengths[shape] = lengths.get(shape, 0) + count - starting
    return replace(
        report,
        available=ResourceSet(tuple(sorted((n, v) for n, v in available.items() if v > 0))),
        queues=tuple(
            QueueLoad(shape, length, run_times_s.get(shape, 0.0))
            for shape, length in lengths.items()
            if length > 0
        ),
    )
