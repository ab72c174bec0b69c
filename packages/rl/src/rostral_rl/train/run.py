"""Trains from start to end, showing progress and stopping early, and holds what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rostral_rl.errors import CheckpointMismatchError, ConfigError, InvalidSettingError
from rostral_rl.policy import Policy
from rostral_rl.simulate.make import EnvSource
from rostral_rl.train.algorithms import settings_class
from rostral_rl.train.parts.evaluate import Evaluation, evaluate
from rostral_rl.train.parts.evaluator import (
    NO_METRICS,
    EvaluationPlan,
    Evaluator,
    Scored,
    make_evaluator,
)
from rostral_rl.train.parts.live import LiveView
from rostral_rl.train.parts.log import Sinks
from rostral_rl.train.parts.settings import check_count, read_settings
from rostral_rl.train.parts.snapshot import load_snapshot
from rostral_rl.train.trainer import Iteration, Trainer

STOP_EPISODES = 100
"""Evaluation episodes behind the decision to stop early."""
STOP_RECENT = 20
"""Newest training episodes whose mean makes a look worth its time."""
STOP_PAUSE = 4
"""Updates between two looks, at least."""
STOP_SHARE = 0.01
"""Share of the training between two looks, at least: an update of some algorithms is one step."""
CHECKPOINT = "checkpoint"
"""Folder of checkpoints inside the one for results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished training.

    Attributes:
        policy: What was learned.
        env: What it was learned in.
        seed: Root seed.
        env_steps: Environment steps taken, those of evaluation not counted.
        train_s: Wall seconds from the first step to the last update, looks at `stop_at` included.
        restarts: Rollout actors that died and were replaced.
        history: Metrics of each update.
        evaluations: Those of `evaluate_every`, in their order.
        device_reason: Where gradient steps ran, and why there; empty if the algorithm knows no
            device but the CPU.
    """

    policy: Policy
    env: EnvSource
    seed: int
    env_steps: int
    train_s: float
    restarts: int
    history: tuple[dict[str, float], ...]
    evaluations: tuple[Scored, ...] = ()
    device_reason: str = ""

    def evaluate(
        self, episodes: int = 100, *, seed: int | None = None, sample: bool = False
    ) -> Evaluation:
        """Plays the policy, greedily by default; on streams that training never used."""
        return evaluate(
            self.policy,
            self.env,
            episodes=episodes,
            seed=self.seed if seed is None else seed,
            sample=sample,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """What a training shows and leaves, and when it may stop; see `rostral_rl.train`.

    Attributes:
        evaluate_every: Updates between two evaluations; 0 evaluates at the end alone, by `Run`.
        evaluate_episodes: Episodes of each.
        evaluators: Actors that play them; 0 plays them here, between two updates.
        after: Called after each update, with the training and what the update brought.
    """

    stop_at: float | None = None
    progress: bool = False
    out: Path | None = None
    checkpoint_every: int = 0
    tensorboard: bool = False
    evaluate_every: int = 0
    evaluate_episodes: int = 20
    evaluators: int = 0
    after: Callable[[Trainer[Any], Iteration], None] | None = None

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "evaluate_every", "evaluators"):
            if getattr(self, name) < 0:
                raise ConfigError(name, getattr(self, name), allowed="an integer >= 0")
        check_count("evaluate_episodes", self.evaluate_episodes)
        if self.out is None and (self.checkpoint_every or self.tensorboard):
            raise InvalidSettingError(
                "checkpoints and event files need a folder", hint="give out (--out)"
            )


class Evaluations:
    """Those of one training, as its reports ask for them."""

    def __init__(self, trainer: Trainer[Any], reports: Reports) -> None:
        self._trainer = trainer
        self._every = reports.evaluate_every
        self._done: list[Scored] = []
        self._evaluator: Evaluator | None = None
        if self._every:
            plan = EvaluationPlan(
                env=trainer.env, episodes=reports.evaluate_episodes, seed=trainer.seed
            )
            # Where rollout actors are, the cluster has been joined already.
            address = None if trainer.plan.workers else trainer.plan.address
            self._evaluator = make_evaluator(plan, actors=reports.evaluators, address=address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._evaluator is not None:
            self._evaluator.close()

    def after(self, update: int) -> dict[str, float]:
        """Begins what is due after an update; returns the newest figures, if any were asked for."""
        if self._evaluator is None:
            return {}
        if update % self._every == 0:
            self._evaluator.begin(self._trainer.policy)
        self._keep(self._evaluator.poll())
        return self._done[-1].metrics() if self._done else NO_METRICS

    def all(self) -> tuple[Scored, ...]:
        """Waits for what is under way."""
        if self._evaluator is not None:
            self._keep(self._evaluator.drain())
        return tuple(self._done)

    def _keep(self, scored: Scored | None) -> None:
        if scored is not None:
            self._done.append(scored)


def run_training(trainer: Trainer[Any], reports: Reports) -> Run:
    """Runs a training to its end, or until `stop_at`, and saves what came of it."""
    history: list[dict[str, float]] = []
    algorithm = trainer.settings.algorithm
    title = f"{algorithm} {trainer.env}" if isinstance(trainer.env, str) else algorithm
    total = trainer.total_steps
    stop_at = reports.stop_at
    with (
        Sinks(reports.out, tensorboard=reports.tensorboard) as sinks,
        LiveView(title, total, enabled=reports.progress) as live,
        Evaluations(trainer, reports) as evaluations,
    ):
        started = time.perf_counter()
        pause = max(STOP_PAUSE * trainer.settings.batch, int(STOP_SHARE * total))
        looked = -pause
        for iteration in trainer:
            metrics = {**iteration.metrics, **evaluations.after(iteration.update)}
            history.append(metrics)
            sinks.write(metrics)
            live.update(metrics)
            if reports.after is not None:
                reports.after(trainer, iteration)
            if reports.checkpoint_every and iteration.update % reports.checkpoint_every == 0:
                assert reports.out is not None
                trainer.save(reports.out / CHECKPOINT)
            if (
                stop_at is not None
                and iteration.env_steps - looked >= pause
                and _near(trainer, stop_at)
            ):
                looked = iteration.env_steps
                if _reached(trainer, stop_at):
                    break
        run = Run(
            policy=trainer.policy,
            env=trainer.env,
            seed=trainer.seed,
            env_steps=trainer.env_steps,
            train_s=time.perf_counter() - started,
            restarts=trainer.restarts,
            history=tuple(history),
            evaluations=evaluations.all(),
            device_reason=trainer.device_reason,
        )
    if reports.out is not None:
        run.policy.save(reports.out)
    return run


def resume_training(
    folder: Path,
    *,
    env: EnvSource | None,
    total_steps: int | None,
    workers: int,
    address: str | None,
    algorithm: str | None,
) -> Trainer[Any]:
    """See `rostral_rl.resume`."""
    snapshot = load_snapshot(folder)
    manifest = snapshot.manifest
    if algorithm is not None and manifest["algorithm"] != algorithm:
        raise CheckpointMismatchError(
            f"the checkpoint in {folder} is of {manifest['algorithm']}, not of {algorithm}",
            hint=f"resume it as {manifest['algorithm']}",
        )
    planned = manifest["plan"]
    chosen = env if env is not None else planned["env"]
    if chosen is None:
        raise InvalidSettingError(
            "the training was given a callable, which no checkpoint can hold", hint="give env"
        )
    kind = settings_class(manifest["algorithm"])
    settings = read_settings(kind, manifest["algorithm"], manifest["settings"])
    trainer = settings.build(
        chosen,
        total_steps=planned["total_steps"] if total_steps is None else total_steps,
        seed=planned["seed"],
        workers=workers,
        address=address,
    )
    try:
        trainer.load(snapshot, folder)
    except BaseException:
        trainer.close()
        raise
    return trainer


def _near(trainer: Trainer[Any], stop_at: float) -> bool:
    """Whether training comes close: sampled actions score below greedy ones, so 4/5 is enough."""
    newest = trainer.recent_returns[-STOP_RECENT:]
    if len(newest) < STOP_RECENT:
        return False
    return math.fsum(newest) / STOP_RECENT >= stop_at - 0.2 * abs(stop_at)


def _reached(trainer: Trainer[Any], stop_at: float) -> bool:
    result = evaluate(trainer.policy, trainer.env, episodes=STOP_EPISODES, seed=trainer.seed)
    # The interval's lower end: what scored just enough by luck would fail at the next look.
    return result.ci_low >= stop_at
