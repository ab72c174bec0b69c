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


def choose_free(free: list[Worker], demand: Demand) -> Worker | None:
    """One that has served the job, else one that has served nobody: jobs share no process."""
    for job_id in (demand.job_id, None):
        for worker in free:
            if worker.job_id == job_id and worker.environment == demand.environment:
                return worker
    return None
