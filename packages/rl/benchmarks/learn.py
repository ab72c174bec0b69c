"""Time until PPO holds 475 on CartPole-v1, and steps a second at the settings of SB3's zoo.

    python packages/rl/benchmarks/learn.py --seeds 20

Prints one line a seed and the medians. For comparison, Stable-Baselines3 2.9.2 with the zoo's
settings on a 2-core machine: 4,700 steps a second, 475 after 6.5 to 9 s and 31,000 to 42,000 steps.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from typing import Any

import rostral_rl as rl

ZOO: dict[str, Any] = {
    "envs": 8,
    "steps": 32,
    "minibatch": 256,
    "epochs": 20,
    "lr": rl.linear(1e-3),
    "clip": rl.linear(0.2),
}
"""The zoo's settings for PPO on CartPole-v1, where they differ from our preset."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    settings: dict[str, Any]
    for name, settings in (("preset", {}), ("zoo", ZOO)):
        seconds, steps, rates, scores = [], [], [], []
        for seed in range(arguments.seeds):
            run = rl.train(
                "ppo",
                "CartPole-v1",
                seed=seed,
                stop_at=475.0,
                workers=arguments.workers,
                **settings,
            )
            # On episodes that had no part in the decision to stop.
            score = run.evaluate(episodes=100, seed=1_000 + seed).mean
            rates.append(run.history[-1]["steps_per_s"])
            seconds.append(run.train_s)
            steps.append(run.env_steps)
            scores.append(score)
            print(
                f"{name} seed {seed}: {run.env_steps:,} steps, {run.train_s:.2f} s, "
                f"{rates[-1]:,.0f} steps/s, return {score:.1f}",
                flush=True,
            )
        print(
            f"{name}: median {statistics.median(steps):,.0f} steps, "
            f"{statistics.median(seconds):.2f} s, {statistics.median(rates):,.0f} steps/s; "
            f"lowest return {min(scores):.1f}"
        )


if __name__ == "__main__":
    main()
