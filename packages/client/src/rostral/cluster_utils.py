"""Clusters of several nodes on this machine, for tests of what happens between nodes.

Each node is a process of its own with store, scheduler and workers, and ends with the program that
has added it. The first is the head, which the others join.
"""

from __future__ import annotations

import atexit
import contextlib
import time
from collections.abc import Mapping
from typing import Any

from rostral.context import Context
from rostral.driver import init
from rostral.exceptions import ClusterUnavailableError, RostralError
from rostral.init_arguments import check_directory, check_others, check_shape
from rostral.launcher import NodeProcess, NodeSettings, start_node
from rostral_objectstore.control import ControlClient

STORE_BYTES = 150 << 20
NODES_TIMEOUT_S = 30.0
LOOK_INTERVAL_S = 0.02


class ClusterNode:
    """One node of a Cluster.

    Attributes:
        process: The node's process; its pid is `process.record.pid`.
        is_head: Whether the cluster's GCS is in it.
    """

    def __init__(self, process: NodeProcess, *, is_head: bool) -> None:
        self.process = process
        self.is_head = is_head

    @property
    def node_id(self) -> str:
        """As `nodes()` has it."""
        return self.process.record.node_id

    unique_id = node_id

    def __repr__(self) -> str:
        return f"ClusterNode({self.node_id}{', head' if self.is_head else ''})"


class Cluster:
    """Nodes on this machine that make one cluster. Not thread-safe.

    Args:
        initialize_head: Add a head now.
        connect: Connect this process to it, as `connect()` does.
        head_node_args: What the head is added with, as `add_node` takes it.
        shutdown_at_exit: Shut down when this program ends, if it has not done so itself.

    Raises: what `add_node` and `init` do; ValueError for `connect` without a head.
    """

    def __init__(
        self,
        initialize_head: bool = False,  # noqa: FBT001 - Ray's
        connect: bool = False,  # noqa: FBT001 - Ray's
        head_node_args: Mapping[str, Any] | None = None,
        shutdown_at_exit: bool = True,  # noqa: FBT001 - Ray's
    ) -> None:
        self.head_node: ClusterNode | None = None
        self.worker_nodes: list[ClusterNode] = []
        if not initialize_head and (connect or head_node_args):
            raise ValueError("connect and head_node_args need initialize_head=True")
        if shutdown_at_exit:
            # Nodes end with this process anyway; in order, they leave nothing behind.
            atexit.register(self.shutdown)
        if initialize_head:
            self.add_node(**(head_node_args or {}))
        if connect:
            self.connect()

    @property
    def address(self) -> str:
        """HOST:PORT for `init`. Raises ClusterUnavailableError when there is no head."""
        return self._head().process.record.address

    def list_all_nodes(self) -> list[ClusterNode]:
        """The nodes that were added and not removed, the head first."""
        return [*([self.head_node] if self.head_node else []), *self.worker_nodes]

    def connect(self, namespace: str | None = None) -> Context:
        """Connects this process to the head as a driver. Raises what `init` does."""
        return init(self.address, namespace=namespace)

    def add_node(
        self,
        wait: bool = True,  # noqa: FBT001 - Ray's
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        memory: int | None = None,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        object_store_memory: int = STORE_BYTES,
        object_spilling_directory: str | None = None,
        **others: object,
    ) -> ClusterNode:
        """Starts a node: the head, if there is none yet. Returns when it serves.

        Args:
            wait: Until the head knows of it, too.
            num_cpus: As `init` takes it; so all that follow but for `memory`.
            num_gpus: See there.
            memory: Bytes of the resource `memory` that it offers.
            resources: See there.
            labels: See there.
            object_store_memory: Bytes for objects.
            object_spilling_directory: See there.
            others: See there.

        Raises: as `init` does for a new cluster's shape.
        """
        settings: dict[str, Any] = check_others(self.add_node, others)
        settings |= check_shape(num_cpus, num_gpus, resources, labels, object_store_memory)
        if memory is not None:
            settings |= check_others(self.add_node, {"_memory": memory})
        if object_spilling_directory is not None:
            settings["spill_directory"] = check_directory(object_spilling_directory)
        if self.head_node is None:
            node = self.head_node = ClusterNode(self._start(settings), is_head=True)
        else:
            head = self.head_node.process.record
            settings |= {"gcs_address": head.address, "token_file": head.token_file}
            node = ClusterNode(self._start({**settings, "head": False}), is_head=False)
            self.worker_nodes.append(node)
        if wait:
            self.wait_for_nodes()
        return node

    def _start(self, settings: dict[str, Any]) -> NodeProcess:
        """Starts the process of a node."""
        return start_node(NodeSettings(**settings))

    def remove_node(
        self,
        node: ClusterNode,
        allow_graceful: bool = True,  # noqa: FBT001 - Ray's
    ) -> None:
        """Ends a node with all that runs there; returns when its process is gone.

        Args:
            node: As `add_node` returned it.
            allow_graceful: It says good-bye; else it is killed, and the others find out.

        Raises ValueError for a node that is not, or no more, of this cluster.
        """
        if node is self.head_node:
            self.head_node = None
        elif node in self.worker_nodes:
            self.worker_nodes.remove(node)
        else:
            raise ValueError(f"{node!r} is no node of this cluster, or was removed already")
        if not allow_graceful:
            node.process.process.kill()
        node.process.stop()

    def wait_for_nodes(self, timeout: float = NODES_TIMEOUT_S) -> None:
        """Waits until the head knows of all nodes as alive, and of no other.

        Raises: TimeoutError after `timeout` seconds; ClusterUnavailableError when there is no head.
        """
        wanted = {node.node_id for node in self.list_all_nodes()}
        deadline_s = time.monotonic() + timeout
        while (found := self._alive()) != wanted:
            if time.monotonic() > deadline_s:
                raise TimeoutError(
                    f"after {timeout} s the head knows of {len(found)} living nodes, not of "
                    f"{len(wanted)}: missing {sorted(wanted - found)}, too many "
                    f"{sorted(found - wanted)}"
                )
            time.sleep(LOOK_INTERVAL_S)

    def shutdown(self) -> None:
        """Ends all nodes, the head last: the others say good-bye to it. Idempotent."""
        atexit.unregister(self.shutdown)
        for node in reversed(self.list_all_nodes()):
            self.remove_node(node)

    def _head(self) -> ClusterNode:
        if self.head_node is None:
            raise ClusterUnavailableError(
                "the cluster has no head", hint="the first node that add_node() makes is one"
            )
        return self.head_node

    def _alive(self) -> set[str]:
        """Ids of the nodes that the head takes for alive."""
        client = ControlClient(self._head().process.record.scheduler_socket)
        with contextlib.closing(client):
            try:
                nodes = client.call("nodes", {})["nodes"]
            except RostralError as error:
                raise ClusterUnavailableError(f"the head does not answer: {error}") from error
        return {node["node_id"].hex() for node in nodes if node["alive"]}
