"""Learning: one readable file per algorithm, and `parts` that they share.

Only light things are imported here; torch is loaded with the first algorithm that is asked for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rostral_rl.names import unknown_name

if TYPE_CHECKING:
    from rostral_rl.simulate.make import EnvSource
    from rostral_rl.train.run import Run

__all__ = ["ALGORITHMS", "train"]

ALGORITHMS = ("ppo",)


def train(
    algorithm: str,
    env: EnvSource,
    *,
    total_steps: int = 100_000,
    seed: int = 0,
    workers: int = 0,
    address: str | None = None,
    stop_at: float | None = None,
    progress: bool = False,
    out: str | os.PathLike[str] | None = None,
    **settings: object,
) -> Run:
    """Trains a policy and returns it with its history. Blocks until done.

    Args:
        algorithm: One of `ALGORITHMS`.
        env: Gymnasium id, or a callable that makes one environment.
        total_steps: Environment steps at most, rounded up to whole updates.
        seed: Root of every random stream; the same seed gives the same run.
        workers: Rollout actors on a cluster; 0 simulates in this process and needs no cluster.
        address: Cluster to use; None for the one this process has joined, else a new one for this
            run.
        stop_at: Stop as soon as 100 greedy evaluation episodes say that the mean return is at least
            this: the lower end of its 95 % confidence interval.
        progress: Show a live line on stderr.
        out: Folder for `metrics.csv` and `metrics.jsonl`, and for the policy; None writes nothing.
        settings: The algorithm's settings; they win over the preset tested for `env`, which wins
            over defaults.

    Raises:
        UnknownNameError: No such algorithm, environment or setting.
        InvalidSettingError: A value of the wrong type or out of range.
        UnsupportedSpaceError: The environment's spaces are of a kind the algorithm cannot use.
        NonFiniteLossError: Training diverged.
        SimulationError: An environment failed.
        WorkersLostError: Rollout actors kept dying.
    """
    if algorithm not in ALGORITHMS:
        raise unknown_name("algorithm", algorithm, ALGORITHMS)
    from rostral_rl.train.parts.settings import build_settings
    from rostral_rl.train.ppo import PPO
    from rostral_rl.train.run import run_training

    folder = None if out is None else Path(out)
    run = run_training(
        build_settings(PPO, algorithm, env if isinstance(env, str) else None, settings),
        env,
        total_steps=total_steps,
        seed=seed,
        workers=workers,
        address=address,
        stop_at=stop_at,
        progress=progress,
        out=folder,
    )
    if folder is not None:
        run.policy.save(folder)
    return run
