"""Growth: how fast processes are added for tasks whose workers are blocked.

A worker that waits for others lends its CPU, and another process runs on it: that is what lets
nested tasks end. But tasks that all wait for something far away would fill the node with processes
that only wait. This file owns the bounds of that, beside the number of processes itself:

- a few blocked tasks are no reason to wait;
- beyond that there are at most so many more in a second, in proportion to those that there are;
- the last part of the processes is left to nested tasks, which others may wait for;
- while memory is short none is added, as long as any task is at work.

It says, too, from when on what tasks submit comes before what their driver does: then those that
are begun have to be brought to their end. With few of them blocked both go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rostral_scheduler.core.records import Worker, WorkerStage

__all__ = ["Growth"]

RESERVED_SHARE = 8
"""One process in so many is left to nested tasks."""
CREDIT_MAX = 16.0
NESTED_FIRST_FROM = 16
"""Blocked tasks; as many as CPUs, where that is more."""


@dataclass(slots=True, kw_only=True)
class Growth:
    """What may be added now. Told of each observation.

    Args:
        workers_max: Processes there may be.
        blocked_free: Blocked tasks that slow nothing down; twice the CPUs, where that is more.
        rate_per_s: Of the blocked, how many may be added in a second.
    """

    workers_max: int
    blocked_free: int
    rate_per_s: float
    cpu_count: int = 1
    _memory_short: bool = False
    _blocked: int = 0
    _at_work: int = 0
    _credit: float = 0.0
    _seen_s: float = 0.0

    @property
    def nested_first(self) -> bool:
        """Whether so much is blocked that nothing more should be begun before what is nested.

        That is long before every process that there may be is blocked.
        """
        few = max(NESTED_FIRST_FROM, self.cpu_count)
        return self._blocked >= min(few, self.workers_max // RESERVED_SHARE)

    def see(self, now_s: float, workers: Iterable[Worker], *, memory_short: bool = False) -> None:
        """What the workers do at an observation."""
        self._memory_short = memory_short
        passed_s, self._seen_s = now_s - self._seen_s, now_s
        self._blocked = self._at_work = 0
        for worker in workers:
            if worker.actor_id is None and worker.stage is not WorkerStage.KILLED:
                self._blocked += worker.lent
                self._at_work += not worker.lent and (
                    worker.running or worker.stage is WorkerStage.STARTING
                )
        earned = passed_s * self._blocked * self.rate_per_s
        self._credit = min(self._credit + earned, CREDIT_MAX)

    def allows(self, worker_count: int, depth: int) -> bool:
        """Whether a process may be added for a task of this depth, to so many; counts it if so."""
        if self._blocked and self._memory_short and self._at_work:
            return False
        if self._blocked >= max(self.blocked_free, 2 * self.cpu_count):
            reserved = 0 if depth else self.workers_max // RESERVED_SHARE
            if worker_count >= self.workers_max - reserved or self._credit < 1:
                return False
            self._credit -= 1
        self._at_work += 1
        return True
