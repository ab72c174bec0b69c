"""The example that learns from what it serves: ends by itself, loses nothing, says so in a line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "closed_loop.py"


@pytest.mark.slow
def test_the_closed_loop_learns_and_swaps_while_it_serves() -> None:
    command = [sys.executable, str(SCRIPT), "--updates", "4", "--goal", "15"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["lost"] == 0
    assert result["answered"] > 0
    assert result["swaps"] >= 1
    assert result["versions_seen"] >= 2
    assert result["env_steps"] == result["swaps"] * 2 * 16 * 32
