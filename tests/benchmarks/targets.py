"""The rows of `bench-core`: name, unit, which group measures it, what it must and should reach.

Owns the numbers that the project has set itself for one node with two CPUs, and which script and
peer a group needs; measures nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

PeerName = Literal["ray", "executor", "pool", "joblib", "dask"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that one script measures in one process."""

    script: str = "workloads.py"
    # Beside whom; None: Rostral alone.
    peer: PeerName | None = "ray"
    # A group of the slower engine needs up to half a minute; what takes this long hangs.
    timeout_s: float = 150.0
    # What compares a run's end with its beginning is long and need not be repeated.
    rounds_max: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One row.

    Invariant: `must` and `aim` are ratios to the peer where `kind` is "ratio" and values in the
    row's unit where it is "value".
    """

    name: str
    unit: str
    group: str  # a key of GROUPS
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


# What is "never slower": two runs of the same thing differ by so much on a quiet machine.
LEVEL = 0.97


def _beside(
    group: str, first: tuple[str, float, float], *others: tuple[str, float, float]
) -> list[Target]:
    """The rows of one group of pool_workloads.py: what it is, must, aim."""
    names = (first, *others, ("functions of 1 ms", LEVEL, 1), ("functions of 10 ms", LEVEL, 1))
    return [_rate(f"{group}: {what}", group, must, aim) for what, must, aim in names]


def _end_over_beginning(name: str, group: str) -> Target:
    return _measure(name, group, 0.8, 1, "ratio", less_is_better=False)


def _growing() -> Group:
    return Group(script="growth.py", peer=None, timeout_s=600.0, rounds_max=1)


def _pooled(peer: PeerName) -> Group:
    return Group(script="pool_workloads.py", peer=peer)


GROUPS: dict[str, Group] = {
    "objects": Group(),
    "tasks": Group(),
    "actors": Group(),
    "async_actors": Group(),
    "placement_groups": Group(),
    "startup": Group(),
    "recovery": Group(),
    "large": Group(),
    "put_after_start": Group(),
    "wheels": Group(peer=None, rounds_max=1),
    "executor": _pooled("executor"),
    "pool": _pooled("pool"),
    "dask": _pooled("dask"),
    "pool_interface": _pooled("pool"),
    "joblib_interface": _pooled("joblib"),
    "growth_queued": _growing(),
    "growth_finished": _growing(),
    "growth_wide": _growing(),
    "growth_actors": _growing(),
}

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
    _measure("wheels of a worker node", "wheels", 5, 2, "MB"),
    *_beside("executor", ("no-op calls in bulk", 5, 10), ("no-op calls one by one", 5, 20)),
    *_beside("pool", ("no-op calls in chunks of one", 1.5, 3)),
    *_beside("dask", ("no-op calls in bulk", 100, 300), ("no-op calls one by one", 100, 500)),
    *_beside("pool_interface", ("no-op calls", LEVEL, 1)),
    *_beside("joblib_interface", ("no-op calls", LEVEL, 1)),
    _end_over_beginning("1,000,000 queued tasks: submitting, end/beginning", "growth_queued"),
    _end_over_beginning("1,000,000 queued tasks: running, end/beginning", "growth_queued"),
    _measure("1,000,000 queued tasks: memory of each", "growth_queued", 1000, 500, "bytes"),
    _end_over_beginning("10,000 object arguments of one task, each/of a tenth", "growth_wide"),
    _end_over_beginning("3,000 returns of one task, each/of a tenth", "growth_wide"),
    _end_over_beginning("get of 10,000 objects, each/of a tenth", "growth_wide"),
    _end_over_beginning("1,000 live actors: creating, end/beginning", "growth_actors"),
    _end_over_beginning("10,000,000 finished tasks: running, end/beginning", "growth_finished"),
    # What the allocators of a dozen processes may round up.
    _measure(
        "10,000,000 finished tasks: memory after the first tenth", "growth_finished", 10, 1, "MB"
    ),
)
