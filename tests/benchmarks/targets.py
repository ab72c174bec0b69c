"""The rows of `bench-core`: name, unit, which group measures it, what it must and should reach.

Owns the numbers that the project has set itself for one node with two CPUs; measures nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One row.

    Invariant: `must` and `aim` are ratios to the peer where `kind` is "ratio" and values in the
    row's unit where it is "value".
    """

    name: str
    unit: str
    group: str
    must: float
    aim: float
    kind: Literal["ratio", "value"]
    # Of times, sizes and counts less is better; of rates more.
    less_is_better: bool

    def ratio(self, ours: float, peers: float) -> float:
        """How many times better we are, whichever way the unit points."""
        better, worse = (ours, peers) if self.less_is_better else (peers, ours)
        return worse / better if better else float("inf")

    def is_met(self, ours: float | None, ratio: float | None) -> bool | None:
        """Whether `must` is reached; None where the run cannot say."""
        if self.kind == "ratio":
            return None if ratio is None else ratio >= self.must
        if ours is None:
            return None
        return ours <= self.must if self.less_is_better else ours >= self.must


def _rate(name: str, group: str, must: float, aim: float, unit: str = "calls/s") -> Target:
    return Target(
        name=name, unit=unit, group=group, must=must, aim=aim, kind="ratio", less_is_better=False
    )


def _measure(
    name: str, group: str, must: float, aim: float, unit: str, *, less_is_better: bool = True
) -> Target:
    return Target(
        name=name,
        unit=unit,
        group=group,
        must=must,
        aim=aim,
        kind="value",
        less_is_better=less_is_better,
    )


TARGETS: tuple[Target, ...] = (
    _rate("single client get calls", "objects", 20, 60),
    _rate("single client put calls", "objects", 50, 150),
    _rate("multi client put calls", "objects", 40, 100),
    _rate("single client put gigabytes", "objects", 2.5, 3.5, "GB/s"),
    _rate("multi client put gigabytes", "objects", 1, 1.2, "GB/s"),
    _rate("single client tasks sync", "tasks", 25, 100, "tasks/s"),
    _rate("single client tasks async", "tasks", 40, 100, "tasks/s"),
    _rate("single client tasks and get batch", "tasks", 30, 100, "batches/s"),
    _rate("multi client tasks async", "tasks", 40, 100, "tasks/s"),
    _rate("single client wait 1k refs", "objects", 30, 100, "batches/s"),
    _rate("single client get object containing 10k refs", "objects", 10, 30, "gets/s"),
    _rate("1:1 actor calls sync", "actors", 20, 60),
    _rate("1:1 actor calls async", "actors", 20, 60),
    _rate("1:1 actor calls concurrent", "actors", 15, 40),
    _rate("1:n actor calls async", "actors", 15, 40),
    _rate("n:n actor calls async", "actors", 15, 40),
    _rate("n:n actor calls with arg async", "actors", 30, 100),
    _rate("1:1 async-actor calls sync", "async_actors", 15, 40),
    _rate("1:1 async-actor calls async", "async_actors", 15, 40),
    _rate("placement group create/removal", "placement_groups", 5, 20, "groups/s"),
    _measure("init to first result", "startup", 0.5, 0.25, "s"),
    _measure("import", "startup", 0.15, 0.08, "s"),
    _measure("idle processes", "startup", 5, 4, "processes"),
    _measure("idle memory", "startup", 120, 80, "MB USS"),
    _measure("worker memory", "startup", 10, 4, "MB USS"),
    _measure("20 actors created and answering", "actors", 0.2, 0.06, "s"),
    _measure("task back after its worker was killed", "recovery", 0.1, 0.02, "s"),
    _measure("actor back after kill -9", "recovery", 0.1, 0.02, "s"),
    _measure("get of a local 128 MB array", "large", 50, 10, "us"),
    _measure("task with a 128 MB object argument", "large", 0.3, 0.1, "ms"),
    _measure("task with a 128 MB inline argument", "large", 40, 15, "ms"),
    _measure(
        "put of 128 MB just after start", "put_after_start", 2.5, 8, "GB/s", less_is_better=False
    ),
    _measure("shutdown", "startup", 0.3, 0.1, "s"),
)
