"""How every engine of `bench-rl` is timed: steps a second while learning, and seconds to 475.

Imported by the engines' own scripts, in whatever interpreter they run: needs Gymnasium and NumPy.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

SOLVED = 475.0
EPISODES = 20
"""Greedy episodes behind a look at whether the task is solved; their time does not count."""
LOOK_EVERY = 2_000
"""Environment steps between two looks."""
EVALUATION_SEED = 10_000

Act = Callable[[Any], Any]


class Rate:
    """Steps a second from the end of the first `skip` steps on, until `seconds` have passed."""

    def __init__(self, seconds: float, *, skip: int = 0) -> None:
        self._seconds = seconds
        self._skip = skip
        self._from: tuple[float, int] | None = None
        self._to: tuple[float, int] = (0.0, 0)

    def look(self, steps: int) -> bool:
        """Called between updates with the steps so far; whether to go on."""
        now = time.perf_counter()
        if self._from is None:
            if steps >= self._skip:
                self._from = (now, steps)
            return True
        self._to = (now, steps)
        return now - self._from[0] < self._seconds

    def value(self) -> float | None:
        """Steps a second; None where nothing was measured."""
        if self._from is None or self._to[1] <= self._from[1]:
            return None
        return (self._to[1] - self._from[1]) / (self._to[0] - self._from[0])


class Solving:
    """Seconds of training until greedy episodes score 475 in the mean."""

    def __init__(self, act: Act, limit_s: float) -> None:
        self._act = act
        self._limit_s = limit_s
        self._start = time.perf_counter()
        self._paused = 0.0
        self._looked = 0
        self._trained_s = 0.0
        self._solved = False
        self._steps = 0

    def look(self, steps: int) -> bool:
        """Called between updates with the steps so far; whether to go on."""
        self._steps = steps
        now = time.perf_counter()
        self._trained_s = now - self._start - self._paused
        if steps - self._looked >= LOOK_EVERY:
            self._looked = steps
            if greedy_mean(self._act) >= SOLVED:
                self._solved = True
                return False
            self._paused += time.perf_counter() - now
        return self._trained_s < self._limit_s

    def report(self, name: str) -> None:
        """Prints the row: the seconds, or where it was not solved those that were spent."""
        report(name, self._trained_s, steps=self._steps, solved=self._solved)


def greedy_mean(act: Act) -> float:
    """Mean return of `EPISODES` episodes of CartPole-v1, one in each of as many environments."""
    envs = [gymnasium.make("CartPole-v1").unwrapped for _ in range(EPISODES)]
    obs = np.stack([env.reset(seed=EVALUATION_SEED + i)[0] for i, env in enumerate(envs)])
    score, playing = np.zeros(EPISODES), np.ones(EPISODES, np.bool_)
    for _ in range(500):
        actions = np.asarray(act(obs))
        for i in np.flatnonzero(playing):
            obs[i], reward, terminated, _, _ = envs[i].step(int(actions[i]))
            score[i] += float(reward)
            playing[i] = not terminated
        if not playing.any():
            break
    return float(score.mean())


def report(name: str, value: float | None, **more: object) -> None:
    """Prints one row, as the caller reads it; says why there is none."""
    row = {"name": name, "value": value, **more}
    if value is None:
        row["reason"] = "not within the time allowed"
    print(json.dumps(row), flush=True)


def arguments() -> argparse.Namespace:
    """What every engine's script is called with."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--group", required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of a measured rate")
    parser.add_argument("--limit", type=float, required=True, help="seconds to 475, at most")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()
