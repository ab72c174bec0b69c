"""What needs a process or resources, as the policy compares it in one observation.

This file owns that record and the choice of a free worker for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from rostral_scheduler.core.records import PendingActor, PendingGroup, Queue, Worker
from rostral_scheduler.core.resources import ResourceSet

__all__ = ["Demand", "choose_free"]


@dataclass(slots=True)
class Demand:
    """Tasks of one queue, or one actor, that need one more process; or a placement group."""

    job_id: bytes
    shape: ResourceSet
    count: int
    served_by: int
    since: int
    environment: bytes = b""
    queue: Queue | None = None
    actor: PendingActor | None = None
    group: PendingGroup | None = None
    lacks_process: bool = False
    """Its resources are free, but no worker is, and no more may be started now."""


def in_order(demands: list[Demand]) -> list[Demand]:
    """Those that fewest serve come first, of these the oldest.

    But what a job's workers submit comes before what its driver submits in the same shape: a task
    that is blocked on one of its children keeps its process, so were the children to wait for all
    that was queued before them, enough such tasks would block every process that there may be.
    """
    nested = {
        (demand.job_id, demand.shape): (demand.served_by, demand.since)
        for demand in demands
        if demand.queue is not None and demand.queue.nested
    }

    def key(demand: Demand) -> tuple[tuple[int, int], bool]:
        own = (demand.served_by, demand.since)
        if demand.queue is None or demand.queue.nested:
            return own, False
        return max(own, nested.get((demand.job_id, demand.shape), own)), True

    return sorted(demands, key=key)


def choose_free(free: list[Worker], demand: Demand) -> Worker | None:
    """One that has served the job, else one that has served nobody: jobs share no process."""
    for job_id in (demand.job_id, None):
        for worker in free:
            if worker.job_id == job_id and worker.environment == demand.environment:
                return worker
    return None
