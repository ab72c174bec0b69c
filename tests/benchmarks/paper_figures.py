"""What the paper's experiments have in common: points, series, and the paper's own figures.

Owns the paper's numbers (OSDI'18, sections 5.2 and 5.3); measures nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

# Table 4, Pendulum-v0: simulated timesteps a second by CPUs.
SIMULATION = {
    "MPI, bulk synchronous": {1: 22_600, 16: 208_000, 256: 2_160_000},
    "Ray, asynchronous": {1: 22_300, 16: 290_000, 256: 4_030_000},
}
# Table 3, one p3.8xlarge: states a second, batches of 64.
SERVING = {
    "small": {"Clipper": 4_400, "Ray": 6_200},
    "large": {"Clipper": 290, "Ray": 6_900},
}
# Figure 12a, 16 m4.16xl: seconds of an allreduce, by bytes. The text compares with OpenMPI 1.10.
ALLREDUCE = {"Ray": {100_000_000: 0.2, 1_000_000_000: 1.2}}
ALLREDUCE_OVER_OPENMPI = {100_000_000: 1.5, 1_000_000_000: 2.0}
# Figure 14a, Humanoid-v1 to a score of 6000: minutes on 8192 cores, and the best published before.
ES_MINUTES = {"Ray, 8192 cores": 3.7, "best published before": 10.0}
ES_SPEEDUP_OF_DOUBLING = 1.6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured figure.

    Attributes:
        experiment: "simulation", "serving", ...
        series: What was compared.
        x: CPUs, workers or bytes; what `x_is` says.
        x_is: Its name, with its unit.
        value: The median of `runs`.
        unit: Of `value`.
        runs: Every run's figure, in order.
    """

    experiment: str
    series: str
    x: float
    x_is: str
    value: float
    unit: str
    runs: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As it goes into the file."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A figure that the project wants to reach.

    Attributes:
        name: What it is.
        value: Measured; more is better.
        must: The least that it may be.
    """

    name: str
    value: float
    must: float

    @property
    def is_met(self) -> bool:
        """Whether it is reached."""
        return self.value >= self.must


def counts_up_to(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself."""
    counts = []
    count = 1
    while count < most:
        counts.append(count)
        count *= 2
    return [*counts, most]
