"""The `rostral` command and driver programs, as processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class CommandLine:
    """Runs commands and programs in this environment; they inherit ROSTRAL_RUNTIME_DIR."""

    def __init__(self, runtime_dir: str) -> None:
        self.runtime_dir = runtime_dir

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs one command to its end."""
        command = [str(Path(sys.executable).with_name("rostral")), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def start_head(self, *arguments: str) -> str:
        """Starts a head with 2 CPUs; returns its cluster's address."""
        shape = ("--num-cpus", "2", "--object-store-memory", str(128 << 20))
        result = self.run("start", "--head", "--port", "0", *shape, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout.split("cluster at ")[1].split()[0]

    def nodes(self) -> list[dict[str, Any]]:
        """What `rostral status --json` says of the nodes."""
        listed: list[dict[str, Any]] = json.loads(self.run("status", "--json").stdout)["nodes"]
        return listed


def program(source: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a driver program."""
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_program(source: str, *arguments: str) -> str:
    """Runs a driver program to its end; returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", source, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
