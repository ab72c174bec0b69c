"""Clusters on this machine whose nodes can be killed, stopped, cut off and slowed down, for tests.

With `hosts=True` every node but the head is on a host of its own (a network namespace), and what
passes between nodes is real traffic under mutual TLS, of certificates that are made for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from rostral.cluster_utils import Cluster, ClusterNode
from rostral.launcher import NodeProcess, NodeSettings, start_node
from rostral.virtual_hosts import Host, Switch

__all__ = ["LocalCluster"]


class LocalCluster(Cluster):
    """A Cluster for tests of what happens when parts of it fail. Not thread-safe.

    `kill`, `pause` and `resume` work for every node; `cut`, `unplug`, `slow` and `heal` only
    between hosts. All of it is undone by `shutdown`.

    Args:
        hosts: Each node but the head gets a host of its own. Needs root and the extra
            `rostral-gcs[certs]`.

    Raises: ClusterUnavailableError where hosts cannot be made; ConfigError without the extra.
    """

    def __init__(self, *, hosts: bool = False) -> None:
        self._switch: Switch | None = None
        self._pki: Path | None = None
        self._host_of: dict[str, Host] = {}
        if hosts:
            from rostral_gcs.certs import init_ca  # not at the top: it needs an extra

            folder = Path(tempfile.mkdtemp(prefix="rostral-pki-"))
            try:
                init_ca(folder / "pki")
                self._switch = Switch()
            except BaseException:
                shutil.rmtree(folder)
                raise
            self._pki = folder / "pki"
        super().__init__()

    def _start(self, settings: dict[str, Any]) -> NodeProcess:
        if self._switch is None or self._pki is None:
            return super()._start(settings)
        from rostral_gcs.certs import issue

        host = self._switch.here if self.head_node is None else self._switch.add_host()
        issued = issue(self._pki, f"node-{host.address}", hosts=[host.address])
        settings |= {
            "bind": host.address,
            "tls_certificate_file": str(issued.certificate_file),
            "tls_key_file": str(issued.key_file),
            "tls_ca_file": str(issued.ca_file),
        }
        process = start_node(NodeSettings(**settings), host.entering)
        self._host_of[process.record.node_id] = host
        return process

    # ---- processes

    def kill(self, node: ClusterNode) -> None:
        """Ends a node with SIGKILL, and all that runs there; the others find out by themselves."""
        self.remove_node(node, allow_graceful=False)

    def pause(self, node: ClusterNode) -> None:
        """Stops all processes of a node, as if its machine stood still: nothing there answers."""
        self._signal(node, signal.SIGSTOP)

    def resume(self, node: ClusterNode) -> None:
        """They go on. If the cluster has taken the node for dead meanwhile, it ends."""
        self._signal(node, signal.SIGCONT)

    def _signal(self, node: ClusterNode, number: int) -> None:
        for pid in _session(node.process.record.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # ---- the network

    def cut(self, source: ClusterNode, target: ClusterNode, *, one_way: bool = False) -> None:
        """Nothing passes between two nodes, or (`one_way`) from the first to the second.

        Raises ValueError without hosts.
        """
        switch = self._network()
        switch.cut(self._host(source), self._host(target))
        if not one_way:
            switch.cut(self._host(target), self._host(source))

    def unplug(self, node: ClusterNode) -> None:
        """Nothing passes between a node and any other. Raises ValueError without a host."""
        self._network().unplug(self._cable(node))

    def slow(self, node: ClusterNode, bytes_per_s: int) -> None:
        """No more than so much passes to the node, and as much from it, a second.

        Raises ValueError without a host.
        """
        if bytes_per_s <= 0:
            raise ValueError(f"bytes_per_s is {bytes_per_s}: it must be above 0; unplug() cuts off")
        self._network().slow(self._cable(node), bytes_per_s)

    def heal(self) -> None:
        """Every node reaches every other again, as fast as it can. Raises ValueError."""
        self._network().heal()

    def _network(self) -> Switch:
        if self._switch is None:
            raise ValueError("the nodes share this machine's network: LocalCluster(hosts=True)")
        return self._switch

    def _host(self, node: ClusterNode) -> Host:
        return self._host_of[node.node_id]

    def _cable(self, node: ClusterNode) -> Host:
        if node.is_head:
            raise ValueError("the head is on this machine itself, which has no cable: cut() it off")
        return self._host(node)

    def shutdown(self) -> None:
        """Ends all nodes, and removes their hosts. Idempotent."""
        for node in self.list_all_nodes():
            self.resume(node)
        if self._switch is not None:
            self._switch.heal()
        super().shutdown()
        if self._switch is not None and self._pki is not None:
            self._switch.close()
            shutil.rmtree(self._pki.parent, ignore_errors=True)


def _session(leader: int) -> list[int]:
    """The processes of a node, which has a session of its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # It has ended meanwhile.
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                found.append(int(path.parent.name))
    return found
