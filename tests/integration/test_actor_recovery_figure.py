"""The paper's figure of actors recovered in a short form; `tox -e recovery-actors` draws it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "soaks" / "soak_actor_recovery.py"
ACTORS, NODES, INTERVAL = 9, 3, 4


@pytest.mark.slow
def test_paper_checkpoints_bound_what_is_run_again_after_a_node_dies(tmp_path: Path) -> None:
    """It takes as long as it does since a node must die, be missed, and its actors be made anew."""
    found = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--actors", str(ACTORS), "--nodes", str(NODES)]
    command += ["--seconds", "4", "--pace", "0.1", "--interval", str(INTERVAL)]
    command += ["--json", str(found)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads(found.read_text())
    for run in (report["checkpoints"], report["no_checkpoints"]):
        assert run["wrong"] == []
        assert run["left"] == []
        assert run["recovered_within_s"] > 0
    assert report["checkpoints"]["re_executed"] <= ACTORS // NODES * 2 * INTERVAL
    assert report["no_checkpoints"]["re_executed"] > report["checkpoints"]["re_executed"]
