"""Clusters of a few nodes for the tests of what crosses between them, and looks inside nodes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.cluster_utils import Cluster, ClusterNode
from rostral.launcher import NodeProcess, NodeSettings, start_node
from rostral.session import live_records
from rostral_objectstore import StoreClient
from rostral_objectstore.control import ControlClient

from .command_line import processes_of

STORE_BYTES = 64 << 20


@contextlib.contextmanager
def runtime_folder() -> Iterator[str]:
    """A runtime directory of its own, in which nothing is left."""
    # Not pytest's tmp_path: the path of a socket has at most 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="rostral-") as folder,
        pytest.MonkeyPatch.context() as at,
    ):
        at.setenv("ROSTRAL_RUNTIME_DIR", folder)
        at.delenv("ROSTRAL_ADDRESS", raising=False)
        yield folder
        until(lambda: not processes_of(folder), "the end of all processes")
        live_records()  # cleans up after those that were killed
        assert [path.name for path in Path(folder).rglob("*") if path.name != "nodes"] == []


@contextlib.contextmanager
def cluster_of(head: dict[str, Any], *others: dict[str, Any]) -> Iterator[Cluster]:
    """A cluster in a runtime directory of its own, with this process as a driver on its head."""
    with runtime_folder():
        cluster = Cluster()
        try:
            for shape in (head, *others):
                cluster.add_node(object_store_memory=STORE_BYTES, **shape)
            cluster.connect()
            yield cluster
        finally:
            rostral.shutdown()
            cluster.shutdown()


class Gcs:
    """A GCS in a process of its own, which may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self._port}"

    @property
    def token_file(self) -> str:
        """Where the cluster's token lies."""
        return str(self._folder / "token")

    def start(self) -> None:
        """Starts it, at the port that it had before, and waits until it serves."""
        port_file = self._folder / "port"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "rostral_gcs", "serve", "--data-dir", str(self._folder)]
        command += ["--port", str(self._port), "--port-file", str(port_file)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(lambda: port_file.exists() and port_file.read_text().strip(), "the GCS serves")
        self._port = int(port_file.read_text())

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def nodes_of(gcs: Gcs, *shapes: dict[str, Any]) -> Iterator[list[NodeProcess]]:
    """Nodes of a cluster without a head; what connects to its address is on the last."""
    nodes: list[NodeProcess] = []
    try:
        for shape in shapes:
            settings = NodeSettings(
                head=False,
                gcs_address=gcs.address,
                token_file=gcs.token_file,
                memory_bytes=STORE_BYTES,
                **shape,
            )
            nodes.append(start_node(settings))
        yield nodes
    finally:
        rostral.shutdown()
        for node in nodes:
            node.stop()


def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Polls until the condition holds; fails, saying what did not come, after the timeout."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"within {timeout_s} s: {what}"
        time.sleep(0.005)


def nothing_left(node: ClusterNode | NodeProcess, *, code: bool = False) -> None:
    """Waits until the node's store has no object; but for the `code` of functions."""
    deadline_s = time.monotonic() + 10.0
    while found := [item for item in objects_of(node) if not (code and "00000040)" in item)]:
        assert time.monotonic() < deadline_s, f"left on the node: {found}"
        time.sleep(0.01)


def status_of(node: ClusterNode | NodeProcess) -> dict[str, Any]:
    """What the node's scheduler says of itself."""
    process = node.process if isinstance(node, ClusterNode) else node
    with contextlib.closing(ControlClient(process.record.scheduler_socket)) as scheduler:
        answer: dict[str, Any] = scheduler.call("status", {})
        return answer


def workers_of(node: ClusterNode | NodeProcess) -> list[dict[str, Any]]:
    """The node's workers that work for some job."""
    return [worker for worker in status_of(node)["workers"] if worker["job_id"]]


def objects_of(node: ClusterNode | NodeProcess) -> list[str]:
    """The objects of the node's store, with who holds them, for people."""
    process = node.process if isinstance(node, ClusterNode) else node
    with StoreClient.connect(process.record.store_socket) as store:
        return [f"{found}" for found in store.list_objects()]


def log_of(node: ClusterNode) -> str:
    """What the node's daemons have written."""
    path = Path(node.process.record.session_dir, "logs", "node.log")
    return path.read_text(errors="replace")


class Marks:
    """A directory in which tasks leave a file for each run."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder)

    def count(self) -> int:
        """Runs so far."""
        return len(os.listdir(self.path))

    def has(self, count: int) -> bool:
        """Whether there were so many runs."""
        return self.count() >= count
