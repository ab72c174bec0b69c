"""The paper's experiments run in their short form, and draw themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "bench_paper.py"
EXPERIMENTS = {"simulation", "serving", "es", "ppo", "allreduce"}


def test_every_experiment_of_the_paper_gives_figures_and_a_plot(tmp_path: Path) -> None:
    """In one run, for half of its seconds go into starting and importing."""
    report, plots = tmp_path / "paper.json", tmp_path / "plots"
    command = [sys.executable, str(SCRIPT), "--quick", "--json", str(report), "--plots", str(plots)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=480)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(report.read_text())
    assert all(point["value"] > 0 for point in found["points"])
    counts = Counter(point["experiment"] for point in found["points"])
    assert set(counts) == EXPERIMENTS
    assert counts["serving"] == 6
    assert {p["series"] for p in found["points"] if p["experiment"] == "allreduce"} == {
        *("Rostral", "Gloo"),
    }
    assert {path.stem for path in plots.glob("*.svg")} == EXPERIMENTS
