"""The paper's Table 4: simulation runs of unequal length, with barriers and without.

OSDI'18 section 5.2.3: on n CPUs, 3n runs of Pendulum in three rounds with a barrier after each, as
a bulk-synchronous MPI program has it, against the same runs with each result gathered as it comes.

With three rounds the last run of all is often alone on its CPU: even free of all costs, two CPUs
would do 0.83 of twice one's work, and 1.30 times what they do with barriers. So the same is
measured with twelve rounds as well, where that end weighs less, and `best_spans` says what a
machine without any costs would reach. `gates` judges the paper's form.
"""

from __future__ import annotations

import functools
import heapq
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np

import rostral
from paper_figures import Gate, Point, counts_up_to

ENV = "Pendulum-v1"
ROUNDS = (3, 12)
"""Rounds of a measurement; the paper's first."""
STEPS = (100, 10_000)
"""Of a run, drawn log-uniformly: two orders of magnitude, as in section 5.3.1 (10 to 1000)."""


@functools.cache
def _env() -> Any:
    return gymnasium.make(ENV, disable_env_checker=True)


@rostral.remote
def simulate(seed: int, steps: int) -> int:
    """Takes so many steps with random actions; returns how many."""
    env = _env()
    env.reset(seed=seed)
    actions = np.random.default_rng(seed).uniform(-2.0, 2.0, (steps, 1)).astype(np.float32)
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return steps


def lengths(seed: int, count: int) -> list[int]:
    """Steps of each of so many runs."""
    low, high = np.log(STEPS)
    drawn = np.random.default_rng(seed).uniform(low, high, count)
    return [int(steps) for steps in np.exp(drawn)]


def barriered(work: list[int], cpus: int) -> int:
    """All steps, in rounds of `cpus` runs; the next round begins when the slowest run is over."""
    total = 0
    for start in range(0, len(work), cpus):
        total += sum(rostral.get(_submitted(start, work[start : start + cpus])))
    return total


def asynchronous(work: list[int], cpus: int) -> int:
    """All steps, `cpus` runs at a time; whichever is over makes room for the next."""
    total = 0
    todo = list(enumerate(work))
    under_way: list[Any] = []
    while todo or under_way:
        while todo and len(under_way) < cpus:
            index, steps = todo.pop(0)
            under_way += _submitted(index, [steps])
        done, under_way = rostral.wait(under_way)
        total += sum(rostral.get(done))
    return total


def _submitted(first: int, work: Iterable[int]) -> list[Any]:
    return [simulate.remote(first + i, steps) for i, steps in enumerate(work)]


def best_spans(work: list[int], cpus: int) -> dict[str, int]:
    """How long each way takes, in steps of one CPU, where nothing costs but the steps."""
    rounds = [work[start : start + cpus] for start in range(0, len(work), cpus)]
    busy = [0] * cpus
    for steps in work:
        heapq.heapreplace(busy, busy[0] + steps)
    return {"with barriers": sum(map(max, rounds)), "asynchronous": max(busy)}


MODES: dict[str, Callable[[list[int], int], int]] = {
    "with barriers": barriered,
    "asynchronous": asynchronous,
}


def run(cpus: int, seconds: float) -> list[Point]:
    """Both ways, on 1, 2, 4, ... of so many CPUs; each for about so many seconds, taking turns."""
    rostral.get(_submitted(0, [1] * cpus))  # Every worker has made its environment.
    counts = counts_up_to(cpus)
    taken: dict[tuple[str, int], list[float]] = defaultdict(list)
    best: dict[tuple[str, int], list[float]] = defaultdict(list)
    until_s = time.perf_counter() + seconds * len(MODES) * len(ROUNDS) * len(counts)
    trial = 0
    while not trial or time.perf_counter() < until_s:
        # All in turns, within each trial: what else the machine does meets them alike.
        for rounds in ROUNDS:
            for count in counts:
                work = lengths(trial, rounds * count)
                for name, play in MODES.items():
                    start_s = time.perf_counter()
                    steps = play(work, count)
                    series = series_name(name, rounds), count
                    taken[series].append(steps / (time.perf_counter() - start_s))
                    best[series].append(steps / best_spans(work, count)[name])
        trial += 1
    # Trials differ in length: their harmonic mean weighs the long ones no less than they took.
    points = [
        _point(name, count, statistics.harmonic_mean(runs), tuple(runs))
        for (name, count), runs in taken.items()
    ]
    alone = {point.series: point.value for point in points if point.x == 1}
    return points + [
        _point(f"{name}, at best", count, alone[name] * statistics.harmonic_mean(times))
        for (name, count), times in best.items()
        if name.startswith("asynchronous")
    ]


def series_name(mode: str, rounds: int) -> str:
    """What a line is called; the paper's form bears the mode's name alone."""
    return mode if rounds == ROUNDS[0] else f"{mode}, {rounds} rounds"


def _point(series: str, count: int, value: float, runs: tuple[float, ...] = ()) -> Point:
    return Point(
        experiment="simulation",
        series=series,
        x=count,
        x_is="CPUs",
        value=value,
        unit="timesteps/s",
        runs=runs,
    )


def gates(points: list[Point]) -> list[Gate]:
    """What a figure of this experiment must reach, and whether it did; none on a single CPU."""
    rates = {(p.series, int(p.x)): p.value for p in points if p.experiment == "simulation"}
    cpus = max((count for _, count in rates), default=1)
    if cpus == 1:
        return []
    gathered, barrier = (series_name(name, ROUNDS[0]) for name in ("asynchronous", "with barriers"))
    return [
        Gate(
            name=f"asynchronous over barriers, {ROUNDS[0]} rounds on {cpus} CPUs",
            value=rates[gathered, cpus] / rates[barrier, cpus],
            must=1.3,
        ),
        Gate(
            name=f"efficiency of {cpus} CPUs against one, asynchronous, {ROUNDS[0]} rounds",
            value=rates[gathered, cpus] / rates[gathered, 1] / cpus,
            must=0.85,
        ),
    ]
