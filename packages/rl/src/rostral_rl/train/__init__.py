"""Learning: one readable file per algorithm, and `parts` that they share.

Only light things are imported here; torch is loaded with the first algorithm that is asked for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rostral_rl.simulate.make import EnvSource
    from rostral_rl.train.run import Run
    from rostral_rl.train.trainer import Trainer

__all__ = ["resume", "train"]


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
    checkpoint_every: int = 0,
    tensorboard: bool = False,
    evaluate_every: int = 0,
    evaluate_episodes: int = 20,
    evaluators: int = 0,
    **settings: object,
) -> Run:
    """Trains a policy and returns it with its history. Blocks until done.

    Args:
        algorithm: "ppo", "dqn", "sac", ...; a wrong name lists them all.
        env: Gymnasium id, or a callable that makes one environment.
        total_steps: Environment steps at most, rounded up to whole updates.
        seed: Root of every random stream; the same seed gives the same run.
        workers: Rollout actors on a cluster; 0 simulates in this process and needs no cluster.
        address: Cluster to use; None for the one this process has joined, else a new one for this
            run.
        stop_at: Stop as soon as 100 greedy evaluation episodes say that the mean return is at least
            this: the lower end of its 95 % confidence interval.
        progress: Show the training live on stderr.
        out: Folder for `metrics.csv` and `metrics.jsonl`, and for the policy; None writes nothing.
        checkpoint_every: Updates between two checkpoints, in `out`'s folder `checkpoint`; 0 writes
            none. `resume` goes on from there.
        tensorboard: Write event files too, into `out`'s folder `tensorboard`.
        evaluate_every: Updates between two evaluations of the policy, always of the same episodes;
            0 makes none. They are in `Run.evaluations` and the columns `eval_*`.
        evaluate_episodes: Episodes of each.
        evaluators: Actors that play them while the training goes on; 0 has it wait.
        settings: The algorithm's settings; they win over the preset tested for `env`, which wins
            over defaults.

    Raises:
        UnknownNameError: No such algorithm, environment or setting.
        InvalidSettingError: A value of the wrong type or out of range.
        UnsupportedSpaceError: The environment's spaces are of a kind the algorithm cannot use.
        NonFiniteLossError: Training diverged.
        SimulationError: An environment failed.
        WorkersLostError: Rollout actors kept dying.
        MissingExtraError: `tensorboard` is asked for and not installed.
    """
    from rostral_rl.train.algorithms import settings_for
    from rostral_rl.train.run import Reports, run_training
    from rostral_rl.train.trainer import Plan

    chosen = settings_for(algorithm, env, settings)
    plan = Plan(env=env, total_steps=total_steps, seed=seed, workers=workers, address=address)
    reports = Reports(
        stop_at=stop_at,
        progress=progress,
        out=None if out is None else Path(out),
        checkpoint_every=checkpoint_every,
        tensorboard=tensorboard,
        evaluate_every=evaluate_every,
        evaluate_episodes=evaluate_episodes,
        evaluators=evaluators,
    )
    with chosen.trainer(plan) as trainer:
        return run_training(trainer, reports)


def resume(
    folder: str | os.PathLike[str],
    *,
    env: EnvSource | None = None,
    total_steps: int | None = None,
    workers: int = 0,
    address: str | None = None,
    algorithm: str | None = None,
) -> Trainer[Any]:
    """Goes on with a training from its checkpoint; iterate over the result and close it.

    With `workers` as before or another number: in sync mode the same steps follow as if the
    training had not been interrupted, up to the rounding of different batch sizes.

    Args:
        folder: What `Trainer.save` wrote.
        env: Needed only where the training was not given a Gymnasium id.
        total_steps: Another length than planned at first. Schedules run to the new end.
        workers: Rollout actors.
        address: Cluster to use.
        algorithm: Refuse a checkpoint of any other; None takes what comes.

    Raises:
        CheckpointError: No checkpoint there, or a damaged one.
        CheckpointMismatchError: It is of another algorithm, or the environment is another.
    """
    from rostral_rl.train.run import resume_training

    return resume_training(
        Path(folder),
        env=env,
        total_steps=total_steps,
        workers=workers,
        address=address,
        algorithm=algorithm,
    )
