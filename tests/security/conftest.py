"""Services to attack; each is shared by the tests of one file that leave it as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .services import Service, gcs, service


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder of ours alone; short, since the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="rostral-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def gcs_with_token(folder: Path) -> Iterator[tuple[Service, Path]]:
    """A GCS and its token file."""
    with gcs(folder) as running:
        yield running


@pytest.fixture(scope="module")
def global_scheduler(folder: Path, gcs_with_token: tuple[Service, Path]) -> Iterator[Service]:
    """A global scheduler of that GCS."""
    running, token_file = gcs_with_token
    flags = ["--gcs", running.address, "--token-file", str(token_file), "--port", "0"]
    with service(folder, "rostral-scheduler", "global", *flags) as scheduler:
        yield scheduler


@pytest.fixture(scope="module")
def store(folder: Path, gcs_with_token: tuple[Service, Path]) -> Iterator[Service]:
    """A store that gives objects to other nodes."""
    _, token_file = gcs_with_token
    flags = ["--socket", str(folder / "store.sock"), "--memory", "64M"]
    transfer = ["--transfer", "127.0.0.1:0", "--token-file", str(token_file)]
    with service(
        folder, "rostral-objectstore", "serve", *flags, *transfer, line_count=2
    ) as running:
        yield running
