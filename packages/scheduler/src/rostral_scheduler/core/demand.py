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


def in_order(demands: list[Demand], *, nested_first: bool) -> list[Demand]:
    """Those that fewest serve come first, of these the oldest.

    But among the queues of one job those come first whose next task has the highest priority; and
    with ``nested_first``, of these, whose next task is nested deepest: a task that is blocked on
    one of its children keeps its process, so were the children to wait for all that was queued
    before them, enough such tasks would block every process that there may be. Each job has the
    turns that it has anyway: none takes anything from another.
    """
    queued: dict[bytes, list[Demand]] = {}
    for demand in demands:
        if demand.queue is not None:
            queued.setdefault(demand.job_id, []).append(demand)

    def rank(demand: Demand) -> tuple[int, int, tuple[int, int]]:
        assert demand.queue is not None
        depth = demand.queue.depth if nested_first else 0
        return -demand.queue.priority, -depth, _turn(demand)

    turns = {id(demand): (_turn(demand), 0) for demand in demands}
    for of_job in queued.values():
        ranked = sorted(of_job, key=rank)
        for place, (turn, demand) in enumerate(
            zip(sorted(map(_turn, of_job)), ranked, strict=True)
        ):
            turns[id(demand)] = turn, place
    return sorted(demands, key=lambda demand: turns[id(demand)])


def _turn(demand: Demand) -> tuple[int, int]:
    return demand.served_by, demand.since


def choose_free(free: list[Worker], demand: Demand) -> Worker | None:
    """One that has served the job, else one that has served nobody: jobs share no process."""
    for job_id in (demand.job_id, None):
        for worker in free:
            if worker.job_id == job_id and worker.environment == demand.environment:
                return worker
    return None
