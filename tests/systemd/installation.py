"""Rostral on a machine: its wheels in an environment of their own, its services by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from .machine import Machine

# Where boot.sh shows what the fixture exposes: the interpreter, the packages that tox installed
# beside ours, and our wheels.
BASE: Final = "/srv/exposed/1"
DEPENDENCIES: Final = "/srv/exposed/2"
WHEELS: Final = "/srv/exposed/3"
PREFIX: Final = Path("/srv/rostral")


class Installation:
    """Commands of Rostral in a machine.

    Attributes:
        machine: Where.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        name = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
        # The system's own if it is of our version: one that was built in a home may have libraries
        # there, which services do not see.
        system = Path("/usr") / name
        python = str(system) if system.exists() else f"{BASE}/{name}"
        machine.run(python, "-m", "venv", "--without-pip", str(PREFIX))
        ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = machine.run(f"{PREFIX}/bin/python", "-c", ask).stdout.strip()
        # After ours in the search path, so that only what ours need is taken from there.
        machine.write(f"{packages}/dependencies.pth", f"{DEPENDENCIES}\n")
        wheels = machine.run("sh", "-c", f"ls {WHEELS}/*.whl").stdout.split()
        pip = [f"{PREFIX}/bin/python", "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
        machine.run(*pip, "--prefix", str(PREFIX), "--ignore-installed", *wheels, timeout_s=120.0)

    def command(self, name: str) -> str:
        """The path of one of our commands."""
        return str(PREFIX / "bin" / name)

    def install(self, name: str, *which: str) -> None:
        """Installs the units of one of our commands, as an operator does."""
        self.machine.run(self.command(name), "systemd", *which, "install")

    def python(
        self, program: str, *, user: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs a Python program to its end."""
        return self.machine.run(self.command("python"), "-c", program, user=user, check=check)

    def conversation(self, program: str, *, user: str | None = None) -> Conversation:
        """Starts a Python program that says ``ready`` and ends when it is told to."""
        return Conversation(self.machine.command(self.command("python"), "-c", program, user=user))


class Conversation:
    """A program in the machine that works until it is told to stop, and then says a result."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise AssertionError(self._process.communicate()[1])

    def finish(self) -> dict[str, Any]:
        """Tells it to stop; what it says then, as JSON."""
        out, err = self._process.communicate("\n", timeout=60)
        assert self._process.returncode == 0, err
        result: dict[str, Any] = json.loads(out)
        return result
