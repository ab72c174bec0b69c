"""Nodes driven by the `rostral` command, in a runtime directory of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class CommandLine:
    """The `rostral` command of this environment, with a runtime directory of its own."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o700)
        self.folder = folder
        self.environment = {**os.environ, "ROSTRAL_RUNTIME_DIR": str(folder)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs one command to its end."""
        command = [str(Path(sys.executable).with_name("rostral")), *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )

    def start(self, *arguments: str) -> str:
        """Starts a node; returns its cluster's address."""
        result = self.run(
            "start", "--num-cpus", "1", "--object-store-memory", str(64 << 20), *arguments
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.split("cluster at ")[1].split()[0]

    def nodes(self) -> list[dict[str, Any]]:
        """What `rostral status --json` says."""
        listed: list[dict[str, Any]] = json.loads(self.run("status", "--json").stdout)["nodes"]
        return listed

    def program(self, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a driver program to its end."""
        return subprocess.run(
            [sys.executable, "-c", source, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def processes_of(folder: str) -> list[str]:
    """Command lines of the processes that were started with the runtime directory."""
    mark = f"ROSTRAL_RUNTIME_DIR={folder}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found
