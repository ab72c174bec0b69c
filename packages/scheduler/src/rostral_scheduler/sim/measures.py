"""What a simulation measures: decisions a second, how good they are, and how true the estimates.

This file owns the sums and their meaning; it decides nothing.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Measures", "Stopwatch", "WaitError", "percentile"]

_KEPT_MAX = 200_000


def percentile(values: list[float], share: float) -> float:
    """The value below which that share lies; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Stopwatch:
    """CPU time of many short stretches: some are measured, and stand for the others.

    Reading the process's clock is a system call, which can take longer than what it measures; what
    it takes itself is found out first, and taken off.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._count = 0
        self._started_s = 0.0
        self.work = 0
        self.measured_s = 0.0
        self.measured_work = 0
        readings = [time.process_time() for _ in range(101)]
        self._own_s = min(after - before for before, after in pairwise(readings))

    def start(self) -> None:
        """A stretch begins."""
        self._count += 1
        if self._count % self._every == 0:
            self._started_s = time.process_time()

    def stop(self, work: int = 1) -> None:
        """It has ended, and so much was done in it."""
        self.work += work
        if self._count % self._every == 0:
            taken_s = time.process_time() - self._started_s - self._own_s
            self.measured_s += max(0.0, taken_s)
            self.measured_work += work

    @property
    def total_s(self) -> float:
        """Of all stretches, estimated from those that were measured."""
        return self.measured_s * self.work / self.measured_work if self.measured_work else 0.0


@dataclass(frozen=True, slots=True)
class WaitError:
    """How far estimated waits are from true ones, of placements that had to wait at all.

    Attributes:
        count: Of placements that were compared.
        mean_true_s: The mean true wait.
        mean_estimated_s: The mean estimate.
        bias: Their difference as a share of the true one.
        median: Of |estimate - true| / true, the median over placements.
        within_quarter: Share of the placements whose estimate is within 25 % of the true wait.
    """

    count: int
    mean_true_s: float
    mean_estimated_s: float
    bias: float
    median: float
    within_quarter: float


@dataclass(slots=True)
class Measures:
    """Sums of one run.

    Attributes:
        floor_s: Waits below this are not compared: next to the latency of two messages they are
            nothing.
    """

    floor_s: float
    tasks_submitted: int = 0
    tasks_ended: int = 0
    tasks_rerun: int = 0
    placed_locally: int = 0
    decisions: int = 0
    deciding: Stopwatch = field(default_factory=lambda: Stopwatch(4))
    reporting: Stopwatch = field(default_factory=lambda: Stopwatch(64))
    infeasible: int = 0
    retried: int = 0
    virtual_s: float = 0.0
    ended_while_submitting: int = 0
    submitting_s: float = 0.0
    quality: list[float] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    slowdowns: list[float] = field(default_factory=list)
    _compared: int = 0
    _rng: random.Random = field(default_factory=lambda: random.Random(0), repr=False)

    def waited(self, estimated_s: float, true_s: float) -> None:
        """A placed task starts; of very many a sample is kept."""
        if max(estimated_s, true_s) < self.floor_s:
            return
        self._compared += 1
        if len(self.waits) < _KEPT_MAX:
            self.waits.append((estimated_s, true_s))
        elif (at := self._rng.randrange(self._compared)) < _KEPT_MAX:
            self.waits[at] = estimated_s, true_s

    def tasks_per_s(self) -> float:
        """In virtual time, while tasks came: the last ones that run alone are no throughput."""
        return self.ended_while_submitting / self.submitting_s if self.submitting_s else 0.0

    def decisions_per_s(self) -> float:
        """On one core, with the reports of nodes that came meanwhile."""
        cpu_s = self.deciding.total_s + self.reporting.total_s
        return self.decisions / cpu_s if cpu_s else 0.0

    def wait_error(self) -> WaitError:
        """Estimates against the truth."""
        true_s = sum(true for _, true in self.waits)
        estimated_s = sum(estimated for estimated, _ in self.waits)
        relative = [abs(e - t) / max(t, self.floor_s) for e, t in self.waits]
        count = max(1, len(self.waits))
        return WaitError(
            count=self._compared,
            mean_true_s=true_s / count,
            mean_estimated_s=estimated_s / count,
            bias=(estimated_s - true_s) / true_s if true_s else 0.0,
            median=percentile(relative, 0.5),
            within_quarter=sum(error <= 0.25 for error in relative) / count,
        )
