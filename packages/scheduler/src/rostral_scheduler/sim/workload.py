"""What a simulated cluster is asked to do: tasks of power-law lengths, inputs of power-law sizes.

This file owns the draw. Functions differ by their mean length, which follows a power law; the runs
of one function vary little. All of it follows from the seed.
"""

from __future__ import annotations

import math
import random
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["SimTask", "Workload", "WorkloadSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSettings:
    """A workload's shape.

    Attributes:
        load: Share of all CPUs that the tasks keep busy.
        function_count: Functions, each with a mean length of its own.
        length_s_min: Shortest mean length.
        length_s_max: Longest.
        length_exponent: Of the power law of mean lengths; smaller is heavier.
        length_sigma: Of the logarithm of one run's length around its function's mean.
        input_share: Of tasks that have an input worth moving them for.
        size_bytes_min: Smallest input.
        size_bytes_max: Largest.
        size_exponent: Of the power law of sizes.
        gpu_share: Of tasks that need a GPU and no CPU.
        hot_nodes_share: Part of the nodes at which drivers run;
        hot_tasks_share: and the part of all tasks that is submitted there.
    """

    load: float = 0.8
    function_count: int = 500
    length_s_min: float = 0.1
    length_s_max: float = 20.0
    length_exponent: float = 1.5
    length_sigma: float = 0.3
    input_share: float = 0.5
    size_bytes_min: float = 1e4
    size_bytes_max: float = 1e9
    size_exponent: float = 1.1
    gpu_share: float = 0.02
    hot_nodes_share: float = 0.2
    hot_tasks_share: float = 0.6


@dataclass(slots=True, eq=False)
class SimTask:
    """One task.

    Attributes:
        number: Its place in the order of submission.
        function: What it runs.
        length_s: How long it will run: nobody knows before.
        needs_gpu: A GPU, else a CPU.
        input_bytes: Size of its input; 0: none worth moving it for.
        input_node: Where that is.
        origin: Where it was submitted.
        attempt: Counts the nodes that died under it.
        placed_at_s: When a global scheduler placed it; below 0: none did.
        wait_s: The wait that was estimated then.
    """

    number: int
    function: int
    length_s: float
    needs_gpu: bool
    input_bytes: int
    input_node: int
    origin: int
    attempt: int = 0
    placed_at_s: float = -1.0
    wait_s: float = 0.0


class Workload:
    """Draws tasks and the times at which they come.

    Args:
        settings: Its shape.
        node_count: Of the cluster.
        cpu_count: Of the cluster.
        seed: Of everything that is drawn.
    """

    def __init__(
        self, settings: WorkloadSettings, *, node_count: int, cpu_count: float, seed: int
    ) -> None:
        self.settings = settings
        self._rng = random.Random(seed)
        self._node_count = node_count
        self._hot_count = max(1, int(node_count * settings.hot_nodes_share))
        self.mean_lengths_s = [self._mean_length_s() for _ in range(settings.function_count)]
        # Of each function as much work: long ones are called rarely.
        weights = [1.0 / length_s for length_s in self.mean_lengths_s]
        self._cumulated = list(accumulate(weights))
        mean_s = sum(w * s for w, s in zip(weights, self.mean_lengths_s, strict=True)) / sum(
            weights
        )
        self.tasks_per_s = settings.load * cpu_count / mean_s / (1.0 - settings.gpu_share)
        self._correction = math.exp(-(settings.length_sigma**2) / 2)
        self._number = 0

    def _mean_length_s(self) -> float:
        settings = self.settings
        drawn_s = settings.length_s_min * self._rng.paretovariate(settings.length_exponent)
        return min(drawn_s, settings.length_s_max)

    def next_gap_s(self) -> float:
        """Until the next task."""
        return self._rng.expovariate(self.tasks_per_s)

    def next_task(self) -> SimTask:
        """The next task."""
        rng, settings = self._rng, self.settings
        number = self._number
        self._number += 1
        function = bisect(self._cumulated, rng.random() * self._cumulated[-1])
        length_s = (
            self.mean_lengths_s[function]
            * rng.lognormvariate(0.0, settings.length_sigma)
            * self._correction
        )
        size, holder = 0, 0
        if rng.random() < settings.input_share:
            drawn = settings.size_bytes_min * rng.paretovariate(settings.size_exponent)
            size = int(min(drawn, settings.size_bytes_max))
            holder = rng.randrange(self._node_count)
        if rng.random() < settings.hot_tasks_share:
            origin = rng.randrange(self._hot_count)
        else:
            origin = rng.randrange(self._node_count)
        needs_gpu = rng.random() < settings.gpu_share
        return SimTask(number, function, length_s, needs_gpu, size, holder, origin)
