"""What all tests of the package share: the tests' own folder on the path, and nodes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .node import Driver, Node, running

# The worker modules are imported by name, in the zygote.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    short = Path(f"/tmp/rs-{os.getpid()}-{os.urandom(3).hex()}")
    short.mkdir(mode=0o700)
    yield short
    for path in sorted(short.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    short.rmdir()


@pytest.fixture
def node(folder: Path) -> Iterator[Node]:
    """A node with two CPUs."""
    with running(folder) as node:
        yield node


@pytest.fixture
def driver(node: Node) -> Iterator[Driver]:
    """A driver of that node; at its end nothing of its job may be left."""
    driver = Driver(node)
    yield driver
    node.check()
    driver.unregister()
    node.expect_nothing_left()
