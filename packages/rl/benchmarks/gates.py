"""What an algorithm must reach in an environment, within how many steps; `learn.py` holds it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gate:
    """A promise about learning.

    Attributes:
        reach: Mean greedy return over `EPISODES` fresh episodes.
        steps: Environment steps within which it must be reached, over all environments.
    """

    reach: float
    steps: int


EPISODES = 100
"""Evaluation episodes behind a seed's score; they have no part in the decision to stop."""
SHARE = 0.8
"""Of the seeds, how many must pass: four of five."""

GATES: dict[tuple[str, str], Gate] = {
    ("ppo", "CartPole-v1"): Gate(475.0, 100_000),
    ("ppo", "Pendulum-v1"): Gate(-200.0, 100_000),
    ("ppo", "LunarLander-v3"): Gate(200.0, 1_000_000),
    ("dqn", "CartPole-v1"): Gate(475.0, 50_000),
    ("dqn", "LunarLander-v3"): Gate(150.0, 100_000),
    ("sac", "Pendulum-v1"): Gate(-180.0, 20_000),
    ("sac", "HalfCheetah-v5"): Gate(9_000.0, 1_000_000),
    ("appo", "CartPole-v1"): Gate(475.0, 100_000),
    ("es", "CartPole-v1"): Gate(475.0, 50_000),
    ("ars", "CartPole-v1"): Gate(475.0, 50_000),
}


def seeds_needed(seeds: int) -> int:
    """How many of `seeds` must pass."""
    return math.ceil(SHARE * seeds)


def interquartile_mean(scores: list[float]) -> float:
    """Mean of the middle half; of all where there are fewer than four."""
    ordered = sorted(scores)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return math.fsum(middle) / len(middle)
