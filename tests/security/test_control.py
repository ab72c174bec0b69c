"""S6, S7, S8, S22, S28: what comes in on a node's control sockets cannot hurt who listens there."""

from __future__ import annotations

import array
import os
import random
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rostral_objectstore.control import MAGIC

from .control import GREETING, Peer, frame
from .services import Nodes, nodes

STORE_METHODS = {
    "attach": ["kind", "pid"],
    "reattach": ["slot", "pid", "incarnation"],
    "stats": [],
    "pin": ["id", "loc", "version"],
    "unpin": ["id"],
    "make_room": ["size", "waited_s"],
    "restore": ["id", "loc", "version"],
    "free": ["objects"],
    "list_objects": ["limit", "state"],
    "fetch": ["id", "holders", "timeout_s"],
    "transfer_stats": [],
    "device_to_host": ["packed"],
}
SCHEDULER_METHODS = {
    "register_worker": ["worker_id", "pid", "slot"],
    "worker_name": ["name"],
    "progress": ["bar", "name", "desc", "unit", "total", "done", "ended"],
    "worker_assignment": [],
    "worker_resources": ["near"],
    "job_info": ["job_id"],
    "get_queue": ["job_id", "resources", "depth", "priority", "environment", "bundle"],
    "package_dir": [],
    "prepare_environment": ["environment"],
    "environment_failed": ["message"],
    "create_actor": ["actor_id", "job_id", "detached", "name", "resources"],
    "actor_ready": ["actor_id"],
    "actor_failed": ["actor_id", "error"],
    "checkpoint_actor": ["actor_id", "loc", "version", "id", "covers"],
    "get_actor": ["name", "namespace"],
    "actor_info": ["actor_id"],
    "list_actors": [],
    "kill_actor": ["actor_id", "no_restart"],
    "exit_actor": ["actor_id"],
    "create_group": ["job_id", "group_id", "bundles", "strategy", "name"],
    "remove_group": ["group_id"],
    "get_group": ["group_id", "name"],
    "list_groups": [],
    "export_function": ["function_id", "name", "blob"],
    "cancel_task": ["task", "task_id", "force", "grace_s", "recursive"],
    "cancel_children": ["task_id"],
    "nodes": [],
    "cluster_resources": [],
    "available_resources": [],
    "status": [],
}
# What no field of any request may be, and what only some may.
HOSTILE: list[object] = [
    *(None, True, 0, -1, 1, 7, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(float("nan"), float("inf"), -0.5, 1e308),
    *("", "x", "\0", "../../etc/passwd", "a" * 100_000, "\u202e\U0001f600"),
    *(b"", b"\0" * 16, b"\xff" * 20, os.urandom(20), b"z" * 100_000),
    *([], [[]] * 1000, [b"\0" * 20] * 3, {}, {"CPU": -1.0}, {"CPU": float("nan")}),
    {"CPU": 2**70 * 1.0, "": 1.0, "\0": float("inf")},
]


@pytest.fixture(scope="module")
def node() -> Iterator[tuple[Nodes, dict[str, Any]]]:
    """A node, and its record."""
    with tempfile.TemporaryDirectory(prefix="rostral-") as path, nodes(Path(path)) as line:
        line.start("--head", "--port", "0")
        (record,) = line.records()
        yield line, record


def socket_of(record: dict[str, Any], daemon: str) -> str:
    return str(record[f"{daemon}_socket"])


def fd_count(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def memory_kb(pid: int) -> int:
    (line,) = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("RssAnon")
    ]
    return int(line.split()[1])


def until_back(pid: int, count: int) -> None:
    """Waits until the process has so few descriptors again."""
    deadline = time.monotonic() + 20
    while fd_count(pid) > count:
        assert time.monotonic() < deadline, f"{fd_count(pid)} descriptors, there were {count}"
        time.sleep(0.01)


def assert_serves(node: tuple[Nodes, dict[str, Any]]) -> None:
    """Both daemons answer, and a task runs."""
    line, record = node
    for daemon, method in (("store", "stats"), ("scheduler", "status")):
        with Peer(socket_of(record, daemon)) as peer:
            answer = peer.call(method, {})
            assert answer is not None and answer[1] is True
    source = (
        "import sys, rostral\nrostral.init(sys.argv[1])\n"
        "@rostral.remote\ndef f(x): return x + 1\nprint(rostral.get(f.remote(41)))\n"
    )
    ran = line.program(source, record["address"])
    assert ran.stdout == "42\n", ran.stderr


@pytest.mark.parametrize("daemon", ["store", "scheduler"])
def test_descriptors_that_a_peer_passes_are_closed_unseen(
    node: tuple[Nodes, dict[str, Any]], daemon: str
) -> None:
    _, record = node
    before = fd_count(record["pid"])
    with open("/dev/null", "rb") as null:
        bomb = array.array("i", [null.fileno()] * 200)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, bomb)]
        with Peer(socket_of(record, daemon)) as peer:
            for _ in range(20):
                peer.socket.sendmsg([frame(b"\x93\x01\xa5stats\x80")], rights)
                assert peer.receive() is not None
                assert fd_count(record["pid"]) <= before + 10
    until_back(record["pid"], before)


@pytest.mark.parametrize(
    ("daemon", "methods"), [("store", STORE_METHODS), ("scheduler", SCHEDULER_METHODS)]
)
def test_no_field_of_any_request_can_hurt_the_daemon(
    node: tuple[Nodes, dict[str, Any]], daemon: str, methods: dict[str, list[str]]
) -> None:
    _, record = node
    path = socket_of(record, daemon)
    chance = random.Random(8)
    with Peer(path) as first:
        peer = first
        for method, fields in methods.items():
            bodies: list[object] = [{}, *HOSTILE[:3], [1], {"\0": 1}]
            for name in fields:
                bodies += [{**dict.fromkeys(fields, 0), name: value} for value in HOSTILE]
            bodies += [
                {name: chance.choice(HOSTILE) for name in fields} for _ in range(40 * bool(fields))
            ]
            for body in bodies:
                answer = peer.call(method, body)
                if answer is None:  # It may end the talk, but then takes up another.
                    peer.socket.close()
                    peer = Peer(path)
                    assert peer.call("stats" if daemon == "store" else "status", {}) is not None, (
                        f"{daemon} is gone after {method} {str(body)[:200]}"
                    )
        peer.socket.close()
    assert_serves(node)


@pytest.mark.parametrize("daemon", ["store", "scheduler"])
def test_bytes_that_are_no_protocol_leave_no_trace(
    node: tuple[Nodes, dict[str, Any]], daemon: str
) -> None:
    _, record = node
    path = socket_of(record, daemon)
    chance = random.Random(80)
    before, memory = fd_count(record["pid"]), memory_kb(record["pid"])
    for _ in range(1500):
        greeting = chance.choice([GREETING, GREETING, chance.randbytes(16), b""])
        length = chance.choice([None, 0, 1, 2**20, 64 << 20, (64 << 20) + 1, 2**32 - 1])
        payload = chance.randbytes(chance.randrange(200))
        data = frame(payload) if length is None else struct.pack("<I", length) + payload
        with Peer(path, greeting=greeting) as peer:
            peer.send(data)
    until_back(record["pid"], before)
    assert memory_kb(record["pid"]) - memory < 32 << 10
    assert_serves(node)


@pytest.mark.parametrize("daemon", ["store", "scheduler"])
@pytest.mark.parametrize("version", [0, 2, 2**32 - 1])
def test_a_peer_of_another_protocol_is_turned_away(
    node: tuple[Nodes, dict[str, Any]], daemon: str, version: int
) -> None:
    _, record = node
    with Peer(socket_of(record, daemon), greeting=struct.pack("<8sII", MAGIC, version, 0)) as peer:
        assert peer.is_closed()


def test_peers_that_say_nothing_are_sent_away_and_keep_nobody_out(
    node: tuple[Nodes, dict[str, Any]],
) -> None:
    _, record = node
    before = fd_count(record["pid"])
    idle = [Peer(socket_of(record, "scheduler"), greeting=b"") for _ in range(300)]
    with Peer(socket_of(record, "scheduler")) as peer:
        assert peer.call("status", {}) is not None
    assert idle[0].is_closed(), "a handshake has a deadline"
    for peer in idle:
        peer.socket.close()
    until_back(record["pid"], before)
