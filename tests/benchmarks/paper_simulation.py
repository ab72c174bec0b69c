"""The paper's Table 4: simulation runs of unequal length, with barriers and without.

OSDI'18 section 5.2.3: on n CPUs, 3n runs of Pendulum in three rounds with a barrier after each, as
a bulk-synchronous MPI program has it, against the same runs with each result gathered as it comes.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np

import rostral
from paper_figures import Point, counts_up_to

ENV = "Pendulum-v1"
ROUNDS = 3
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


MODES: dict[str, Callable[[list[int], int], int]] = {
    "with barriers": barriered,
    "asynchronous": asynchronous,
}


def run(cpus: int, seconds: float) -> list[Point]:
    """Both ways, on 1, 2, 4, ... of so many CPUs; each for so many seconds, taking turns."""
    rostral.get(_submitted(0, [1] * cpus))  # Every worker has made its environment.
    points = []
    for count in counts_up_to(cpus):
        rates: dict[str, list[float]] = {name: [] for name in MODES}
        until_s = time.perf_counter() + 2 * seconds
        trial = 0
        while trial < 3 or time.perf_counter() < until_s:
            work = lengths(trial, ROUNDS * count)
            for name, play in MODES.items():
                start_s = time.perf_counter()
                steps = play(work, count)
                rates[name].append(steps / (time.perf_counter() - start_s))
            trial += 1
        points += [
            Point(
                experiment="simulation",
                series=name,
                x=count,
                x_is="CPUs",
                # Trials differ in length: their mean weighs the long ones no less than they took.
                value=statistics.harmonic_mean(runs),
                unit="timesteps/s",
                runs=tuple(runs),
            )
            for name, runs in rates.items()
        ]
    return points
