"""The paper's figure 14: evolution strategies and PPO, by workers.

OSDI'18 section 5.3. The paper trains Humanoid-v1 on thousands of cores; a laptop has two, so what
is measured is steps a second by workers, and seconds until CartPole is solved. Environments are
Gymnasium's own, stepped one by one in Python: what costs little is not worth a cluster.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import gymnasium

import rostral_rl as rl
from paper_figures import Point, counts_up_to

SOLVED = 475.0
STEPS_MAX = 200_000
ES_SETTINGS: dict[str, Any] = {"pairs": 32, "hidden": (64, 64), "normalise_obs": True}
PPO_SETTINGS: dict[str, Any] = {"envs": 16, "steps": 64, "minibatch": 256, "epochs": 4}


def rate(settings: Any, env: str, workers: int, seconds: float) -> float:
    """Steps a second while learning, after the first update."""
    make = functools.partial(gymnasium.make, env, disable_env_checker=True)
    with settings.build(make, total_steps=1_000_000_000, seed=1, workers=workers) as trainer:
        start_s, before, steps = 0.0, 0, 0
        for iteration in trainer:
            now_s = time.perf_counter()
            if not start_s:
                start_s, before = now_s, iteration.env_steps
            elif now_s >= start_s + seconds:
                steps = iteration.env_steps - before
                break
        return steps / (now_s - start_s)


def solve_s(algorithm: str, workers: int) -> float:
    """Seconds from the first step until 100 episodes reach `SOLVED` on CartPole.

    Raises:
        RuntimeError: They never did.
    """
    start_s = time.perf_counter()
    trained = rl.train(
        algorithm,
        "CartPole-v1",
        total_steps=STEPS_MAX,
        seed=1,
        workers=workers,
        stop_at=SOLVED,
        progress=False,
    )
    took_s = time.perf_counter() - start_s
    mean = trained.evaluate(episodes=100).mean
    if mean < SOLVED:
        raise RuntimeError(f"{algorithm} reached {mean:.0f} in {trained.env_steps} steps")
    return took_s


def es(cpus: int, seconds: float, *, solving: bool) -> list[Point]:
    """Evolution strategies, of Pendulum's pairs, by workers; and CartPole solved by all."""
    return _both("es", rl.ES(**ES_SETTINGS), "Pendulum-v1", cpus, seconds, solving=solving)


def ppo(cpus: int, seconds: float, *, solving: bool) -> list[Point]:
    """PPO by workers; and CartPole solved by all."""
    return _both("ppo", rl.PPO(**PPO_SETTINGS), "CartPole-v1", cpus, seconds, solving=solving)


def _both(
    algorithm: str, settings: Any, env: str, cpus: int, seconds: float, *, solving: bool
) -> list[Point]:
    points = [
        Point(
            experiment=algorithm,
            series=f"{algorithm.upper()}, {env}",
            x=workers,
            x_is="workers",
            value=rate(settings, env, workers, seconds),
            unit="steps/s",
        )
        for workers in counts_up_to(cpus)
    ]
    if solving:
        points.append(
            Point(
                experiment=algorithm,
                series=f"{algorithm.upper()}, CartPole-v1 to {SOLVED:g}",
                x=cpus,
                x_is="workers",
                value=solve_s(algorithm, cpus),
                unit="s",
            )
        )
    return points
