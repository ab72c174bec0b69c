"""Whom a grant may be withdrawn from, for a queue that lacks a worker.

This file owns the choice and its order; ``local.py`` decides how many of them it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rostral_scheduler.core.records import Queue, Worker, WorkerStage

__all__ = ["victims"]


def victims(
    workers: Iterable[Worker],
    queues: Mapping[int, Queue],
    served: Mapping[int, int],
    wanting: Queue | None,
    served_by: int,
    granted_before_s: float,
) -> list[Worker]:
    """Those for ``wanting`` (None: for the ledger), which so many serve; first choice first.

    First those that sleep; of those at work, whom the fewest would miss, and only whose grant is
    old enough. Nobody who has not acknowledged its grant: before that, "has seen the withdrawal"
    cannot be told from "has not yet seen the grant".
    """
    granted = [
        worker
        for worker in workers
        if worker.stage is WorkerStage.GRANTED
        and worker.acknowledged
        and not worker.lent
        and (wanting is None or worker.queue != wanting.loc)
    ]
    asleep = [w for w in granted if w.idle and not _has_tasks(queues.get(w.queue))]
    at_work = [
        w
        for w in granted
        if w not in asleep
        and w.granted_at_s <= granted_before_s
        and _may_take(queues.get(w.queue), wanting, served_by)
    ]
    at_work.sort(key=lambda w: (-served[w.queue], -w.granted_at_s))
    return asleep + at_work


def _has_tasks(queue: Queue | None) -> bool:
    return queue is not None and queue.length > 0


def _may_take(queue: Queue | None, wanting: Queue | None, served_by: int) -> bool:
    """Whether a worker of one queue that is at work may be had for another.

    Within a job the higher priority takes from the lower, and never the other way round. Else a
    queue gets a first worker so, and no more.
    """
    if wanting is None or queue is None or queue.job_id != wanting.job_id or not queue.length:
        return served_by == 0
    if queue.priority != wanting.priority:
        return wanting.priority > queue.priority
    return served_by == 0
