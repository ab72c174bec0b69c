"""What the soak of nodes kills, and when: every kind of process, in an order that the seed decides.

Owns the choice and the kill. One kind is drawn for each kill; what of it there is, is drawn then. A
node dies whole, store and all it holds, only while every other one serves.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
from collections.abc import Callable
from typing import Any

from service_cluster import HostNode, ServiceCluster

# How many of a hundred kills.
WEIGHTS = {
    "worker": 46,
    "actor": 22,
    "zygote": 4,
    "local scheduler": 5,
    "store": 6,
    "node": 3,
    "global scheduler": 5,
    "gcs": 4,
    "driver": 5,
}


class Killer:
    """Ends processes of a cluster with SIGKILL.

    Args:
        cluster: Whose processes.
        kill_driver: Kills one of the drivers, by a number that may be any; False: there is none.
        seed: Of the order.
    """

    def __init__(
        self, cluster: ServiceCluster, kill_driver: Callable[[int], bool], seed: int
    ) -> None:
        self._cluster, self._kill_driver = cluster, kill_driver
        self._random = random.Random(seed)
        self.killed: collections.Counter[str] = collections.Counter()

    def pause_s(self, longest_s: float) -> float:
        """How long to wait before the next one."""
        return self._random.uniform(0.0, longest_s)

    def kill_one(self, kinds: tuple[str, ...] = tuple(WEIGHTS)) -> str | None:
        """Kills something; returns its kind, or None if there was nothing of what was drawn."""
        kind = self._random.choices(kinds, [WEIGHTS[one] for one in kinds])[0]
        node = self._random.choice(self._cluster.nodes)
        if not self._kill(kind, node):
            return None
        self.killed[kind] += 1
        return kind

    def _kill(self, kind: str, node: HostNode) -> bool:
        match kind:
            case "worker" | "actor":
                return self._kill_process(_workers(node, is_actor=kind == "actor"))
            case "zygote":
                status = node.status()
                return self._kill_process([] if status is None else [status["zygote_pid"]])
            case "local scheduler":
                return node.scheduler.kill()
            case "store":
                return node.store.kill()
            case "node":
                return self._kill_node(node)
            case "global scheduler":
                return self._random.choice(self._cluster.placers).kill()
            case "gcs":
                return self._cluster.gcs.kill()
            case _:
                return self._kill_driver(self._random.randrange(1 << 16))

    def _kill_node(self, node: HostNode) -> bool:
        if not all(one.is_ready for one in self._cluster.nodes):
            return False
        return node.store.kill(lose_parked=True) and node.scheduler.kill()

    def _kill_process(self, pids: list[int]) -> bool:
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._random.choice(pids), signal.SIGKILL)
            return True
        return False


def _workers(node: HostNode, *, is_actor: bool) -> list[int]:
    """Processes that are at work, for actors or for tasks."""
    status: dict[str, Any] | None = node.status()
    if status is None:
        return []
    return [
        worker["pid"]
        for worker in status["workers"]
        if worker["pid"] and worker["job_id"] and bool(worker["actor_id"]) == is_actor
    ]
