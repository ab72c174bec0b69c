"""What a batcher has done, as plain numbers: cheap to count, read when somebody asks.

Single writer: the batcher, though from its thread where passes are slow. A reader may see one
number a moment older than another.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

LATENCY_BOUNDS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
"""Upper bounds of the latency histogram's buckets; one more holds what took longer."""


@dataclass(slots=True)
class Tally:
    """Counts since the start.

    Attributes:
        requests: Answered with actions.
        rows: Observations among them.
        passes: Forward passes.
        pass_s: Seconds that these took in all.
        refused: Turned away because the queue was full.
        late: Dropped because their deadline had passed.
        failed: In a pass that raised.
        latency_s: Seconds of all answered requests, from arrival to answer.
        latency_counts: How many of them in each bucket of `LATENCY_BOUNDS_S`.
    """

    requests: int = 0
    rows: int = 0
    passes: int = 0
    pass_s: float = 0.0
    refused: int = 0
    late: int = 0
    failed: int = 0
    latency_s: float = 0.0
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))

    def count_pass(self, rows: int, took_s: float) -> None:
        """Counts one forward pass."""
        self.passes += 1
        self.rows += rows
        self.pass_s += took_s

    def count_answer(self, latency_s: float) -> None:
        """Counts one answered request."""
        self.requests += 1
        self.latency_s += latency_s
        self.latency_counts[bisect_left(LATENCY_BOUNDS_S, latency_s)] += 1
