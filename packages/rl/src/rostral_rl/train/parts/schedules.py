"""Settings that change with progress: from the fraction done, in [0, 1], to a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Linear:
    """Straight line from `start` at the first update to `end` at the last."""

    start: float
    end: float = 0.0

    def __call__(self, fraction: float) -> float:
        """Value when `fraction` of the training is done."""
        return self.start + (self.end - self.start) * min(max(fraction, 0.0), 1.0)


Schedule: TypeAlias = float | Linear


def linear(start: float, end: float = 0.0) -> Linear:
    """A linear schedule, for use as a setting: `PPO(lr=linear(1e-3))`."""
    return Linear(start, end)


def at(schedule: Schedule, fraction: float) -> float:
    """Value of a setting that may be a schedule or a plain number."""
    return schedule(fraction) if isinstance(schedule, Linear) else float(schedule)


def largest(schedule: Schedule) -> float:
    """Largest value the setting ever takes."""
    return max(schedule.start, schedule.end) if isinstance(schedule, Linear) else float(schedule)


def smallest(schedule: Schedule) -> float:
    """Smallest value the setting ever takes."""
    return min(schedule.start, schedule.end) if isinstance(schedule, Linear) else float(schedule)
