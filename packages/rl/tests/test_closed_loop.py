"""The example that learns from what it serves: ends by itself, loses nothing, says so in a line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "closed_loop.py"


@pytest.mark.slow
@pytest.mark.parametrize("players", [1, 3])
def test_the_closed_loop_learns_and_swaps_while_it_serves(players: int) -> None:
    """Any number of actors; the mean of the last episodes doubles within 15 updates."""
    options = ["--updates", "15", "--goal", "45", "--players", str(players)]
    command = [sys.executable, str(SCRIPT), *options]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["lost"] == 0
    assert result["answered"] > 0
    assert result["swaps"] >= 1
    assert result["versions_seen"] >= 2
    assert result["last_return_mean"] > 1.5 * result["first_return_mean"]
    assert result["env_steps"] == result["swaps"] * players * (32 // players) * 32
