"""Rostral on a machine: its wheels in an environment of their own, its services by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

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
        python = f"{BASE}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        machine.run(python, "-m", "venv", "--without-pip", str(PREFIX))
        ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = machine.run(f"{PREFIX}/bin/python", "-c", ask).stdout.strip()
        # After ours in the search path, so that only what ours need is taken from there.
        line = f"import site; site.addsitedir('{DEPENDENCIES}')\n"
        machine.write(f"{packages}/dependencies.pth", line)
        wheels = machine.run("sh", "-c", f"ls {WHEELS}/*.whl").stdout.split()
        pip = [f"{PREFIX}/bin/python", "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
        machine.run(*pip, "--prefix", str(PREFIX), "--ignore-installed", *wheels, timeout_s=120.0)

    def command(self, name: str) -> str:
        """The path of one of our commands."""
        return str(PREFIX / "bin" / name)

    def install(self, name: str) -> None:
        """Installs the units of one of our commands, as an operator does."""
        self.machine.run(self.command(name), "systemd", "install")
