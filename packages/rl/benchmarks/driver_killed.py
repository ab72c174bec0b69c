"""Kills a training's driver half-way, resumes with other numbers of workers, compares the curves.

    tox -e learn-killed -- --json packages/rl/results/ppo-CartPole-v1-driver-killed.json

1. An undisturbed training says what the curve is. 2. A driver of the same training, in a process of
its own, is killed by SIGKILL once a checkpoint of half of the updates is there. 3. As many workers
as before, and fewer, and none, go on from that checkpoint to the end. With as many, all numbers
must be the same to the last bit; with others, products of other batch sizes round otherwise, so
that episodes are the same until a rounding tips a choice: `TOLERANCE` says what a curve may lose
by that.
"""

from __future__ import annotations

import os

# Before NumPy and torch look at it: one thread, as the driver has.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import datetime as dt
import importlib.metadata
import json
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import rostral
import rostral_rl as rl
from rostral_rl.train.algorithms import settings_for
from rostral_rl.train.trainer import Iteration

ALGORITHM, ENV = "ppo", "CartPole-v1"
WORKERS = 2
"""Of the training that is killed."""
RESUMED_WITH = (2, 1, 0)
TOLERANCE = 0.02
"""Share of the largest return by which the mean of a resumed curve may differ from the other's."""
CHECKPOINT_S_MAX = 120.0
TIMED = ("steps_per_s", "simulate_share", "learn_share")
"""Metrics that depend on the clock."""

Row = dict[str, float]


def main() -> int:
    arguments = parsed()
    settings = settings_for(ALGORITHM, ENV, {})
    total = settings.batch * max(4, arguments.steps // settings.batch)
    with rostral.init("local", num_cpus=WORKERS):
        with settings.build(ENV, total_steps=total, seed=arguments.seed, workers=WORKERS) as whole:
            expected = plain(whole)
        with tempfile.TemporaryDirectory() as folder:
            killed_at = killed(Path(folder), total, arguments.seed, half=len(expected) // 2)
            runs = [resumed(Path(folder), workers, expected) for workers in RESUMED_WITH]
    print(
        f"{ALGORITHM} {ENV}, {len(expected)} updates of {settings.batch} steps, {WORKERS} workers: "
        f"the driver was killed after {killed_at}"
    )
    for run in runs:
        print(
            f"resumed with {run['workers']} workers: {run['same_updates']} of {run['updates']} "
            f"updates as if nothing had happened, mean return {run['return_mean']:.2f} "
            f"(undisturbed {run['expected_return_mean']:.2f}): "
            f"{'pass' if run['passed'] else 'fail'}"
        )
    verdict = "PASS" if all(run["passed"] for run in runs) else "FAIL"
    print(verdict)
    if arguments.json is not None:
        result = {
            "command": f"tox -e learn-killed -- {shlex.join(sys.argv[1:])}",
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "versions": {
                "python": platform.python_version(),
                **{n: importlib.metadata.version(n) for n in ("rostral-rl", "torch", "numpy")},
            },
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "algorithm": ALGORITHM,
            "env": ENV,
            "seed": arguments.seed,
            "workers": WORKERS,
            "settings": settings.plain(),
            "updates": len(expected),
            "killed_after": killed_at,
            "verdict": verdict,
            "curve": [round(row["return_mean"], 2) for row in expected],
            "resumed": runs,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if verdict == "PASS" else 1


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000, help="of the whole training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps must be positive")
    return arguments


def killed(folder: Path, total: int, seed: int, *, half: int) -> int:
    """Kills a driver once it has written a checkpoint of `half` updates; how many that one has."""
    command = [sys.executable, "-m", "rostral_rl", "train", ALGORITHM, ENV, f"--out={folder}"]
    command += [f"--total-steps={total}", f"--seed={seed}", f"--workers={WORKERS}"]
    command += ["--checkpoint-every=1", "--no-progress"]
    manifest = folder / "checkpoint" / "checkpoint.json"
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until_s = time.monotonic() + CHECKPOINT_S_MAX
    try:
        while not manifest.exists() or updates_of(manifest) < half:
            if driver.poll() is not None or time.monotonic() > until_s:
                raise SystemExit(f"no checkpoint of {half} updates came: {shlex.join(command)}")
            time.sleep(0.01)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    return updates_of(manifest)


def resumed(folder: Path, workers: int, expected: list[Row]) -> dict[str, Any]:
    """The rest of the training with so many workers, beside what it should be."""
    with rl.resume(folder / "checkpoint", workers=workers) as trainer:
        done = trainer.update
        rows = plain(trainer)
    others = expected[done:]
    same = next(
        (i for i, (a, b) in enumerate(zip(rows, others, strict=True)) if not alike(a, b, workers)),
        len(rows),
    )
    found, wanted = (float(np.nanmean([r["return_mean"] for r in part])) for part in (rows, others))
    largest = float(np.nanmax([row["return_mean"] for row in expected]))
    exact = workers != WORKERS or same == len(rows)
    return {
        "workers": workers,
        "updates": len(rows),
        "same_updates": same,
        "return_mean": found,
        "expected_return_mean": wanted,
        "passed": exact and abs(found - wanted) <= TOLERANCE * largest,
        "curve": [round(row["return_mean"], 2) for row in rows],
    }


def alike(row: Row, other: Row, workers: int) -> bool:
    """Whether an update came out the same: to the bit where nothing was divided otherwise."""
    if workers == WORKERS:
        return repr(row) == repr(other)  # Which are the same for equal floats only, and for NaN.
    return bool(np.isclose(row["return_mean"], other["return_mean"], rtol=1e-3, equal_nan=True))


def plain(trainer: Iterable[Iteration]) -> list[Row]:
    """What the iterations say that does not depend on the clock."""
    return [{k: v for k, v in row.metrics.items() if k not in TIMED} for row in trainer]


def updates_of(manifest: Path) -> int:
    """Updates behind a checkpoint; it is replaced in one rename, so never read in part."""
    updates: int = json.loads(manifest.read_text())["values"]["counters"]["update"]
    return updates


if __name__ == "__main__":
    sys.exit(main())
