"""A node that was cut off, and found dead, comes back: as a new one, and alone."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import rostral
from rostral.exceptions import NodeDiedError
from rostral.launcher import NodeSettings, start_node, stop_node
from rostral.session import live_records

from .nodes import STORE_BYTES, runtime_folder, until

pytestmark = pytest.mark.slow

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
TIMEOUT_S = 30


@rostral.remote(resources={"arm": 1}, max_retries=0)
def node_id() -> str:
    return str(rostral.get_runtime_context().get_node_id())


@rostral.remote(resources={"arm": 1}, max_retries=0)
def hang() -> None:
    signal.pause()


def alive() -> set[str]:
    """Ids of the nodes that the cluster takes for alive."""
    return {node["NodeID"] for node in rostral.nodes() if node["Alive"]}


def test_a_node_that_was_found_dead_joins_again_under_another_id() -> None:
    """1. A node that was started by hand freezes. 2. It is dead, and its task with it.

    3. It wakes up, is refused, and what was it ends. 4. A new one with the same resources joins,
    and runs tasks.
    """
    with runtime_folder():
        small: dict[str, Any] = {"num_cpus": 1.0, "memory_bytes": STORE_BYTES, "detached": True}
        first = start_node(NodeSettings(**small))
        head = first.record
        try:
            joins: dict[str, Any] = {"head": False, "gcs_address": head.address}
            joins["token_file"] = head.token_file
            node = start_node(NodeSettings(**small, **joins, resources={"arm": 1.0}))
            rostral.init(head.address)
            assert rostral.get(node_id.remote(), timeout=TIMEOUT_S) == node.record.node_id
            hanging = hang.remote()
            os.kill(node.record.pid, signal.SIGSTOP)
            with pytest.raises(NodeDiedError):
                rostral.get(hanging, timeout=TIMEOUT_S)
            until(lambda: alive() == {head.node_id}, "all know of it")
            os.kill(node.record.pid, signal.SIGCONT)
            until(lambda: len(alive()) == 2, "it has joined again", TIMEOUT_S)
            assert node.process.wait(TIMEOUT_S) == 0
            found = rostral.get(node_id.remote(), timeout=TIMEOUT_S)
            assert found in alive() - {head.node_id, node.record.node_id}
        finally:
            rostral.shutdown()
            for record in sorted(live_records(), key=lambda record: record.head):
                stop_node(record)
            first.process.wait(TIMEOUT_S)
