"""The paper's recovery figure in a short form; `tox -e recovery` draws it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "soaks" / "soak_recovery.py"
SECONDS = 12


@pytest.mark.slow
def test_throughput_comes_back_after_two_nodes_die_and_two_come(tmp_path: Path) -> None:
    """It takes as long as it does since nodes must die, be missed, and be replaced.

    Half of the throughput is enough: other tests share the machine's cores.
    """
    found = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--seconds", str(SECONDS), "--json", str(found)]
    command += ["--regained", "0.5"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads(found.read_text())
    assert report["wrong"] == []
    assert report["left"] == []
    assert [event["what"] for event in report["events"]] == ["kill", "kill", "add", "add"]
    assert report["re_executed"] > 0
