"""Whether an algorithm learns what it promises: PASS or FAIL, interquartile mean and steps.

    tox -e learn -- ppo CartPole-v1 --seeds 5 --json packages/rl/results/ppo-CartPole-v1.json

Trains once per seed with the preset for the environment, until evaluation says that the gate is
reached or the gate's steps are spent, and then scores the policy on fresh episodes. The settings
are those that `rostral-rl train` would take; `--set` changes one. One thread per seed.

With `--workers N --kill-every S` a rollout actor is killed every S seconds, and the gate may be
reached a fifth later.
"""

from __future__ import annotations

import os

# Before NumPy and torch look at it: one thread a seed, whatever else the machine does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import concurrent.futures
import dataclasses
import datetime as dt
import importlib.metadata
import json
import multiprocessing
import platform
import shlex
import statistics
import sys
import tomllib
from pathlib import Path
from typing import Any

# The scripts of this folder import each other; it is on the path when one of them is run.
from gates import EPISODES, GATES, Gate, interquartile_mean, seeds_needed
from kills import LATER, Killer

from rostral_rl.train.algorithms import settings_for
from rostral_rl.train.run import Reports, run_training
from rostral_rl.train.trainer import Plan

CURVE_POINTS = 100
"""Points of a learning curve that a result file keeps."""
EVALUATION_SEED = 1_000
"""Added to a seed for the episodes that score it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One seed's training, as it is handed to a process."""

    algorithm: str
    env: str
    seed: int
    workers: int
    gate: Gate
    settings: dict[str, Any]
    kill_every_s: float


def main() -> int:
    arguments = parsed()
    gate = chosen_gate(arguments)
    settings = {k: v for item in arguments.settings for k, v in tomllib.loads(item).items()}
    jobs = [
        Job(
            algorithm=arguments.algorithm,
            env=arguments.env,
            seed=seed,
            workers=arguments.workers,
            gate=gate,
            settings=settings,
            kill_every_s=arguments.kill_every,
        )
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    ]
    rows = []
    for row in map(train, jobs) if arguments.jobs == 1 else in_processes(jobs, arguments.jobs):
        print(
            f"seed {row['seed']}: return {row['return']:.1f} after {row['env_steps']:,} steps, "
            f"{row['train_s']:.1f} s, {row['steps_per_s']:,.0f} steps/s: "
            f"{'pass' if row['passed'] else 'fail'}",
            flush=True,
        )
        rows.append(row)
    result = summary(arguments, gate, rows)
    print(
        f"{result['verdict']}: {arguments.algorithm} {arguments.env}, IQM {result['iqm']:.1f} "
        f"(gate {gate.reach:g}), median {result['median_steps']:,.0f} steps (gate {gate.steps:,}), "
        f"median {result['median_s']:.1f} s; {sum(r['passed'] for r in rows)} of {len(rows)} seeds"
    )
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["verdict"] == "PASS" else 1


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("algorithm")
    parser.add_argument("env")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="seeds trained at the same time")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument(
        "--kill-every", type=float, default=0.0, metavar="S", help="kill a worker every S seconds"
    )
    parser.add_argument("--reach", type=float, help="another gate than the recorded one")
    parser.add_argument("--steps", type=int, help="the same, in environment steps")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.kill_every and not arguments.workers:
        parser.error("--kill-every needs --workers")
    return arguments


def chosen_gate(arguments: argparse.Namespace) -> Gate:
    known = GATES.get((arguments.algorithm, arguments.env))
    if arguments.reach is not None and arguments.steps is not None:
        return Gate(arguments.reach, arguments.steps)
    if known is None:
        listed = ", ".join(" ".join(key) for key in GATES)
        raise SystemExit(f"no gate is recorded for this: give --reach and --steps; known: {listed}")
    reach = known.reach if arguments.reach is None else arguments.reach
    steps = int(known.steps * LATER) if arguments.kill_every else known.steps
    return Gate(reach, steps if arguments.steps is None else arguments.steps)


def train(job: Job) -> dict[str, Any]:
    """Trains and scores one seed."""
    settings = settings_for(job.algorithm, job.env, job.settings)
    plan = Plan(
        env=job.env,
        # Whole updates: what is played beyond the gate does not count.
        total_steps=max(settings.batch, job.gate.steps // settings.batch * settings.batch),
        seed=job.seed,
        workers=job.workers,
    )
    killer = Killer(job.kill_every_s) if job.kill_every_s else None
    with settings.trainer(plan) as trainer:
        run = run_training(trainer, Reports(stop_at=job.gate.reach, after=killer))
    score = run.evaluate(episodes=EPISODES, seed=EVALUATION_SEED + job.seed)
    return {
        "seed": job.seed,
        "passed": score.mean >= job.gate.reach and run.env_steps <= job.gate.steps,
        "return": score.mean,
        "return_iqm": score.iqm,
        "env_steps": run.env_steps,
        "train_s": round(run.train_s, 2),
        "steps_per_s": round(run.history[-1]["steps_per_s"]),
        "killed": killer.killed if killer else 0,
        "restarts": run.restarts,
        "curve": curve(run.history),
    }


def curve(history: tuple[dict[str, float], ...]) -> list[tuple[int, float]]:
    """(environment steps, mean return of the newest training episodes), thinned out."""
    rows = [row for row in history if row["return_mean"] == row["return_mean"]]
    stride = max(1, -(-len(rows) // CURVE_POINTS))
    return [(int(row["env_steps"]), round(row["return_mean"], 2)) for row in rows[::stride]]


def in_processes(jobs: list[Job], count: int) -> list[dict[str, Any]]:
    """The same in `count` processes at a time."""
    # Forking a process that has loaded torch's thread pools is asking for a hang.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(count, mp_context=context) as pool:
        return list(pool.map(train, jobs))


def summary(
    arguments: argparse.Namespace, gate: Gate, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """The result file: what was run, on what, and what came of it."""
    passed = sum(row["passed"] for row in rows)
    given = {k: v for item in arguments.settings for k, v in tomllib.loads(item).items()}
    return {
        "command": f"tox -e learn -- {shlex.join(sys.argv[1:])}",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{
                n: importlib.metadata.version(n)
                for n in ("rostral-rl", "torch", "gymnasium", "numpy")
            },
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "algorithm": arguments.algorithm,
        "env": arguments.env,
        "workers": arguments.workers,
        "settings": settings_for(arguments.algorithm, arguments.env, given).plain(),
        "gate": dataclasses.asdict(gate),
        "episodes": EPISODES,
        "verdict": "PASS" if passed >= seeds_needed(len(rows)) else "FAIL",
        "iqm": interquartile_mean([row["return"] for row in rows]),
        "median_steps": statistics.median(row["env_steps"] for row in rows),
        "median_s": statistics.median(row["train_s"] for row in rows),
        "seeds": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
