"""A runtime directory for each test module, and a cluster in it that leaves nothing behind."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

import rostral

from .command_line import CommandLine
from .generators import expect_nothing_left
from .inline_subset import BOTH_MODES, NOT_INLINE
from .waiting import files_of, nothing_left, object_ids, processes_of, until

STORE_BYTES = 256 << 20

# A shell has what it runs in the background ignore Ctrl-C, and all that is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of the modules that are named in `inline_subset` run in both modes."""
    module = metafunc.module.__name__.rpartition(".")[2]
    if "cluster" not in metafunc.fixturenames or module not in BOTH_MODES:
        return
    # A task that waits for a mark would keep the very thread that is to write it.
    no_sense = metafunc.function.__name__ in NOT_INLINE or "marks" in metafunc.fixturenames
    metafunc.parametrize(
        "cluster", ["cluster"] if no_sense else ["cluster", "inline"], indirect=True, scope="module"
    )


@pytest.fixture(scope="module", autouse=True)
def runtime_dir() -> Iterator[str]:
    """A directory of this module's own, so that no node but its own is found."""
    # Not pytest's tmp_path: the path of a socket has at most 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="rostral-") as folder,
        pytest.MonkeyPatch.context() as at,
    ):
        at.setenv("ROSTRAL_RUNTIME_DIR", folder)
        at.delenv("ROSTRAL_ADDRESS", raising=False)
        yield folder


@pytest.fixture
def leaves_nothing(runtime_dir: str) -> Iterator[str]:
    """The runtime directory; after the test no process and no file of a node may be left."""
    yield runtime_dir
    rostral.shutdown()
    until(lambda: not processes_of(runtime_dir), f"the end of {processes_of(runtime_dir)}")
    assert files_of(runtime_dir) == []


@pytest.fixture(scope="module")
def cluster(runtime_dir: str, request: pytest.FixtureRequest) -> Iterator[rostral.Context]:
    """This module's cluster: one node of 2 CPUs, or what looks like one from inside, inline."""
    mode: Literal["cluster", "inline"] = getattr(request, "param", "cluster")
    with rostral.init(num_cpus=2, object_store_memory=STORE_BYTES, mode=mode) as context:
        yield context
        if rostral.is_initialized():  # a test may have ended the session itself
            nothing_left()
    until(lambda: not processes_of(runtime_dir), f"the end of {processes_of(runtime_dir)}")
    assert files_of(runtime_dir) == []


@pytest.fixture
def leaves_no_object(cluster: rostral.Context) -> Iterator[None]:
    """After the test no object and no task of it may be left on the node."""
    del cluster
    before = object_ids()
    yield
    expect_nothing_left(before)


@pytest.fixture
def command_line(leaves_nothing: str) -> Iterator[CommandLine]:
    """The `rostral` command; its nodes are stopped after the test."""
    line = CommandLine(leaves_nothing)
    yield line
    rostral.shutdown()
    line.run("stop")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A file in which tasks leave marks for the test to see."""
    path = tmp_path / "marks"
    path.touch()
    return path
