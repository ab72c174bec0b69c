"""Trains from start to end, showing progress and stopping early, and holds what came of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from rostral_rl.policy import Policy
from rostral_rl.simulate.make import EnvSource
from rostral_rl.train.parts.evaluate import Evaluation, evaluate
from rostral_rl.train.parts.log import LiveLine, MetricsFile
from rostral_rl.train.ppo import PPO, Trainer

STOP_EPISODES = 100
"""Evaluation episodes behind the decision to stop early."""
STOP_RECENT = 20
"""Newest training episodes whose mean makes a look worth its time."""
STOP_PAUSE = 4
"""Updates between two looks."""


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
    """

    policy: Policy
    env: EnvSource
    seed: int
    env_steps: int
    train_s: float
    restarts: int
    history: tuple[dict[str, float], ...]

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


def run_training(
    settings: PPO,
    env: EnvSource,
    *,
    total_steps: int,
    seed: int,
    workers: int,
    address: str | None,
    stop_at: float | None,
    progress: bool,
    out: Path | None,
) -> Run:
    """Runs a training; see `rostral_rl.train` for the arguments."""
    history: list[dict[str, float]] = []
    metrics = MetricsFile(out)
    title = f"ppo {env}" if isinstance(env, str) else "ppo"
    try:
        with (
            settings.build(
                env, total_steps=total_steps, seed=seed, workers=workers, address=address
            ) as trainer,
            LiveLine(title, trainer.updates * settings.batch, enabled=progress) as live,
        ):
            started = time.perf_counter()
            looked = -STOP_PAUSE
            for iteration in trainer:
                history.append(iteration.metrics)
                metrics.write(iteration.metrics)
                live.update(iteration.metrics)
                if (
                    stop_at is not None
                    and iteration.update - looked >= STOP_PAUSE
                    and _near(trainer, stop_at)
                ):
                    looked = iteration.update
                    if _reached(trainer, stop_at):
                        break
            return Run(
                policy=trainer.policy,
                env=env,
                seed=seed,
                env_steps=trainer.env_steps,
                train_s=time.perf_counter() - started,
                restarts=int(history[-1]["restarts"]),
                history=tuple(history),
            )
    finally:
        metrics.close()


def _near(trainer: Trainer, stop_at: float) -> bool:
    """Whether training comes close: sampled actions score below greedy ones, so 4/5 is enough."""
    newest = trainer.recent_returns[-STOP_RECENT:]
    if len(newest) < STOP_RECENT:
        return False
    return math.fsum(newest) / STOP_RECENT >= stop_at - 0.2 * abs(stop_at)


def _reached(trainer: Trainer, stop_at: float) -> bool:
    result = evaluate(trainer.policy, trainer.env, episodes=STOP_EPISODES, seed=trainer.seed)
    # The interval's lower end: what scored just enough by luck would fail at the next look.
    return result.ci_low >= stop_at
