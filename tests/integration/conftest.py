"""Clusters for the tests that need more than one package."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .command_line import CommandLine, processes_of


@pytest.fixture
def command_line() -> Iterator[CommandLine]:
    """A command line whose nodes are stopped at the end, and that has left nothing."""
    # Not pytest's tmp_path: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rostral-") as folder:
        line = CommandLine(Path(folder))
        yield line
        line.run("stop")
        assert processes_of(folder) == []
        assert [path.name for path in Path(folder).rglob("*") if path.name != "nodes"] == []
