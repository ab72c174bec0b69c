"""The workloads of `bench-rl` on Gymnasium alone: its NumPy form, and its Python environments."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np

from rl_timing import arguments, report

AT_ONCE = 256
TASKS = (
    ("CartPole", "CartPole-v1"),
    ("Pendulum", "Pendulum-v1"),
    ("MountainCar", "MountainCar-v0"),
    ("Acrobot", "Acrobot-v1"),
)


def one_by_one(env_id: str, seconds: float) -> float:
    """Steps a second of one environment that takes random actions."""
    env: Any = gymnasium.make(env_id, disable_env_checker=True)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(1_000)]
    start, steps = time.perf_counter(), 0
    while (now := time.perf_counter()) - start < seconds:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        steps += len(actions)
    return steps / (now - start)


def at_once(seconds: float) -> float:
    """Steps a second of CartPole's vector class, written in NumPy."""
    vector: Any = gymnasium.make_vec(
        "CartPole-v1", num_envs=AT_ONCE, vectorization_mode="vector_entry_point"
    )
    vector.reset(seed=0)
    actions = np.random.default_rng(0).integers(2, size=(64, AT_ONCE))
    start, steps = time.perf_counter(), 0
    while (now := time.perf_counter()) - start < seconds:
        for row in actions:
            vector.step(row)
        steps += actions.size
    return steps / (now - start)


def main() -> None:
    """Measures the one group."""
    given = arguments()
    report("CartPole, 256 at once", at_once(given.seconds / 4))
    for name, env in TASKS:
        report(f"{name}, one after the other", one_by_one(env, given.seconds / 4))


if __name__ == "__main__":
    main()
