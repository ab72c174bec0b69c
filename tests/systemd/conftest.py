"""A machine with systemd on which Rostral is installed from its wheels, once for all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from .installation import Installation
from .machine import booted, why_not


@pytest.fixture(scope="session")
def installed() -> Iterator[Installation]:
    """Rostral in a booted machine: commands installed, no service yet."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no systemd in namespaces: {reason}")
    wheels = os.environ.get("ROSTRAL_WHEELS")
    if wheels is None:
        pytest.skip("ROSTRAL_WHEELS names no folder with wheels; run: tox -e systemd")
    # Where what we depend on is installed.
    dependencies = Path(click.__file__).parent.parent
    exposed = [Path(sys.base_prefix), dependencies, Path(wheels)]
    with booted(exposed) as machine:
        yield Installation(machine)
