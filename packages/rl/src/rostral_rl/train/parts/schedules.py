"""Settings that change with progress: from the fraction done, in [0, 1], to a value.

In TOML and on the command line: `{start = 1e-3, end = 0.0}`, with `shape = "cosine"` for the other
curve, and `{points = [[0.0, 1e-3], [0.5, 1e-4], [1.0, 0.0]]}` for straight lines between points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from rostral_rl.errors import InvalidSettingError


@dataclass(frozen=True, slots=True)
class Linear:
    """From `start` at the first update to `end` at the last: a straight line, or half a cosine."""

    start: float
    end: float = 0.0
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if self.shape not in ("linear", "cosine"):
            raise InvalidSettingError(f"a schedule is linear or cosine, got {self.shape!r}")

    def __call__(self, fraction: float) -> float:
        """Value when `fraction` of the training is done."""
        done = min(max(fraction, 0.0), 1.0)
        if self.shape == "cosine":
            done = 0.5 - 0.5 * math.cos(math.pi * done)
        return self.start + (self.end - self.start) * done

    def values(self) -> tuple[float, ...]:
        """Its extremes."""
        return (self.start, self.end)


@dataclass(frozen=True, slots=True)
class Piecewise:
    """Straight lines between points (fraction, value); level before the first, after the last."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        pairs = tuple((float(at), float(value)) for at, value in self.points)
        object.__setattr__(self, "points", pairs)
        if not pairs or any(later <= earlier for (earlier, _), (later, _) in pairwise(pairs)):
            raise InvalidSettingError(
                f"the fractions of a schedule must rise, got {[at for at, _ in pairs]}"
            )

    def __call__(self, fraction: float) -> float:
        """Value when `fraction` of the training is done."""
        if fraction <= self.points[0][0]:
            return self.points[0][1]
        for (left, before), (right, after) in pairwise(self.points):
            if fraction <= right:
                return before + (after - before) * (fraction - left) / (right - left)
        return self.points[-1][1]

    def values(self) -> tuple[float, ...]:
        """Its extremes are among these."""
        return tuple(value for _, value in self.points)


Schedule: TypeAlias = float | Linear | Piecewise


def linear(start: float, end: float = 0.0) -> Linear:
    """A linear schedule, for use as a setting: `PPO(lr=linear(1e-3))`."""
    return Linear(start, end)


def cosine(start: float, end: float = 0.0) -> Linear:
    """A schedule that leaves `start` and reaches `end` without haste."""
    return Linear(start, end, "cosine")


def piecewise(points: Sequence[tuple[float, float]]) -> Piecewise:
    """Straight lines between points (fraction done, value)."""
    return Piecewise(tuple(points))


def at(schedule: Schedule, fraction: float) -> float:
    """Value of a setting that may be a schedule or a plain number."""
    return schedule(fraction) if isinstance(schedule, Linear | Piecewise) else float(schedule)


def largest(schedule: Schedule) -> float:
    """Largest value the setting ever takes."""
    return max(_values(schedule))


def smallest(schedule: Schedule) -> float:
    """Smallest value the setting ever takes; NaN if it ever is."""
    values = _values(schedule)
    return math.nan if any(value != value for value in values) else min(values)


def _values(schedule: Schedule) -> tuple[float, ...]:
    if isinstance(schedule, Linear | Piecewise):
        return schedule.values()
    return (float(schedule),)
