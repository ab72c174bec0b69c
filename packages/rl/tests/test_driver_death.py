"""A driver that is killed half-way: its training goes on elsewhere from the last checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rostral
import rostral_rl as rl
from rostral_rl.train.algorithms import settings_for
from rostral_rl.train.trainer import Iteration

GIVEN: dict[str, Any] = {"envs": 4, "steps": 16, "minibatch": 32, "epochs": 2}
TOTAL = 64 * 4_000
"""Far more than is played before the driver is killed."""
MORE = 12
"""Updates that are compared after it was resumed."""
SEED = 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with rostral.init("local", num_cpus=2):
        yield


def killed_driver(folder: Path) -> int:
    """Has a driver with two workers write checkpoints, and kills it; updates in the last one."""
    command = [sys.executable, "-m", "rostral_rl", "train", "ppo", "CartPole-v1"]
    command += [f"--total-steps={TOTAL}", f"--seed={SEED}", "--workers=2", f"--out={folder}"]
    command += ["--checkpoint-every=4", "--no-progress"]
    command += [f"--set={key}={json.dumps(value)}" for key, value in whole_settings().items()]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    manifest = folder / "checkpoint" / "checkpoint.json"
    deadline = time.monotonic() + 60
    try:
        while not manifest.exists() or done(manifest) < 8:
            assert driver.poll() is None, "it trains until it is killed"
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.02)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    return done(manifest)


def whole_settings() -> dict[str, Any]:
    """What makes the command's settings equal to GIVEN over the defaults, whatever the preset."""
    plain = settings_for("ppo", "", GIVEN).plain()
    return {k: plain[k] for k in (*GIVEN, "lam", "gamma", "ent_coef", "clip")} | {"lr": 1e-3}


def done(manifest: Path) -> int:
    updates: int = json.loads(manifest.read_text())["values"]["counters"]["update"]
    return updates


def metrics(row: Iteration) -> dict[str, float]:
    """What does not depend on the clock."""
    timed = ("steps_per_s", "simulate_share", "learn_share")
    return {k: v for k, v in row.metrics.items() if k not in timed}


def test_a_killed_drivers_training_is_resumed_with_the_same_curve(tmp_path: Path) -> None:
    """1. A driver is killed. 2. As many workers go on: the same bits. 3. Fewer: the same curve."""
    updates = killed_driver(tmp_path)
    settings = settings_for("ppo", "", whole_settings())
    with settings.build("CartPole-v1", total_steps=TOTAL, seed=SEED, workers=2) as trainer:
        expected = [metrics(row) for row in islice(trainer, updates + MORE)][updates:]
        weights = trainer.weights
    for workers in (2, 1, 0):
        with rl.resume(tmp_path / "checkpoint", workers=workers) as resumed:
            assert resumed.update == updates
            rows = [metrics(row) for row in islice(resumed, MORE)]
            for row, other in zip(rows, expected, strict=True):
                if workers == 2:
                    assert row == other
                else:
                    assert row["return_mean"] == pytest.approx(other["return_mean"], rel=1e-3)
            # The products of other batch sizes round otherwise.
            tolerance = 0.0 if workers == 2 else 2e-3
            for name, array in weights.items():
                np.testing.assert_allclose(
                    resumed.weights[name], array, rtol=0, atol=tolerance, err_msg=name
                )
