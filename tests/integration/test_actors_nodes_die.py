"""Nodes die on which actors live that others call."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.exceptions import ActorDiedError

from .nodes import Marks, cluster_of, until

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
TIMEOUT_S = 30
ARM = {"num_cpus": 2, "resources": {"arm": 2}}


class LogClass:
    """Notes what it is told, in its order."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def tell(self, what: Any) -> int:
        self.told.append(what)
        return len(self.told)

    def sleep(self, path: str, time_s: float) -> str:
        Path(path, f"{time.monotonic_ns()}").touch()
        time.sleep(time_s)
        return "slept"


Log: Any = rostral.remote(LogClass).options(resources={"arm": 0.5})


def test_the_death_of_its_node_ends_an_actor(tmp_path: Path) -> None:
    with cluster_of({"num_cpus": 2}, ARM) as cluster:
        log, other = Log.remote(), Log.remote()
        assert rostral.get(other.tell.remote(1), timeout=TIMEOUT_S) == 1
        sleeping = log.sleep.remote(str(tmp_path), 600.0)
        queued = log.tell.remote(1)
        until(Marks(tmp_path).count, "a call runs")
        (node,) = cluster.worker_nodes
        os.kill(node.process.record.pid, signal.SIGKILL)
        for ref in (sleeping, queued, other.tell.remote(2)):
            with pytest.raises(ActorDiedError, match=node.node_id):
                rostral.get(ref, timeout=TIMEOUT_S)
        cluster.remove_node(node, allow_graceful=False)
