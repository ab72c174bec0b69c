"""What a cluster must not have when nobody uses it any more: the end of the soak of nodes.

Owns the list of places where something can be left. It looks and changes nothing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from service_cluster import HostNode, ServiceCluster

from rostral_gcs import ActorState, GcsClient, JobState
from rostral_gcs.errors import RostralError
from rostral_gcs.tokens import Tokens
from rostral_objectstore._native import repair
from rostral_objectstore._native.check import check
from rostral_objectstore.layout import SlotState

LOOK_INTERVAL_S = 0.2
RECIPES = "rostral.actors"
NOT_ON_THE_WAY = ("forwarded", "hosted", "remote_actors", "elsewhere", "remembered")


def until_none(look: Callable[[], list[str]], patience_s: float) -> list[str]:
    """What is still found after so long; none as soon as none is."""
    deadline_s = time.monotonic() + patience_s
    while found := look():
        if time.monotonic() > deadline_s:
            return found
        time.sleep(LOOK_INTERVAL_S)
    return []


def in_cluster(cluster: ServiceCluster) -> list[str]:
    """What jobs that are over have left in nodes and tables."""
    found = []
    for node in cluster.nodes:
        found += [f"node {node.number}: {what}" for what in _on_node(node)]
    return found + [f"gcs: {what}" for what in _in_tables(cluster)]


def _on_node(node: HostNode) -> Iterator[str]:
    status = node.status()
    if status is None:
        yield "its scheduler does not answer"
        return
    yield from _held(status)
    try:
        yield from _stored(node)
    except RostralError as error:
        yield f"its store does not answer: {error}"


def _held(status: dict[str, Any]) -> Iterator[str]:
    for name in ("jobs", "actors", "queues"):
        if status[name]:
            yield f"{name}: {status[name]!r:.500}"
    for name in NOT_ON_THE_WAY:
        if status[name]:
            yield f"{name}: {status[name]}"
    if at_work := [worker for worker in status["workers"] if worker["job_id"]]:
        yield f"workers: {at_work!r:.500}"
    if status["available"] != status["resources"]:
        yield f"of {status['resources']} only {status['available']} is free"


def _stored(node: HostNode) -> Iterator[str]:
    with node.store_client() as store:
        if objects := store.list_objects():
            yield f"{len(objects)} objects, such as {', '.join(map(str, objects[:5]))}"
        for state in (SlotState.DEAD, SlotState.REPAIRED):
            if slots := store.segment.slots_in_state(state):
                yield f"slots {slots} are {state.name}"
        audit, chunks = repair.audit(store.table), store.stats().chunks
        if audit["objects"] or audit["tasks"] or chunks["queues"]:
            yield f"audit: {audit}, chunks: {chunks}"
        yield from check(store.table)
    if files := [path.name for path in node.spill.rglob("*") if path.name.endswith(".spill")]:
        yield f"spilled files {files}"


def _in_tables(cluster: ServiceCluster) -> Iterator[str]:
    try:
        with GcsClient(cluster.address, Tokens(str(cluster.token_file))) as gcs:
            yield from _rows(gcs, cluster)
    except RostralError as error:
        yield f"does not answer: {error}"


def _rows(gcs: GcsClient, cluster: ServiceCluster) -> Iterator[str]:
    alive = [row for row in gcs.list_nodes() if row.state.value == "ALIVE"]
    if len(alive) != len(cluster.nodes):
        yield f"{len(alive)} nodes are alive, not {len(cluster.nodes)}"
    if jobs := [str(row.job_id) for row in gcs.list_jobs() if row.state is JobState.RUNNING]:
        yield f"jobs are not finished: {jobs}"
    if actors := [row for row in gcs.list_actors() if row.state is not ActorState.DEAD]:
        yield f"actors are not dead: {actors!r:.800}"
    if recipes := gcs.kv_keys(namespace=RECIPES):
        yield f"{len(recipes)} recipes of actors"
    if groups := gcs.list_placement_groups():
        yield f"{len(groups)} placement groups"


def processes(folder: Path) -> list[str]:
    """Command lines of processes that know the folder as their runtime directory."""
    mark = f"ROSTRAL_RUNTIME_DIR={folder}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                found.append(f"process {process.name}: {line.decode(errors='replace')}")
        except OSError:
            continue  # It has just ended, or is another user's.
    return found


def listening(cluster: ServiceCluster) -> list[str]:
    """The GCS's address, if anybody still answers there."""
    host, _, port = cluster.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except OSError:
        return []
    return [f"somebody listens at {cluster.address}"]


def files(cluster: ServiceCluster) -> list[str]:
    """Sockets and spilled objects of services that have ended."""
    found = []
    for path in cluster.folder.rglob("*"):
        if path.is_socket() or path.name.endswith(".spill") or path.name == "node.json":
            found.append(f"file {path.relative_to(cluster.folder)}")
    return found


def tracebacks(cluster: ServiceCluster) -> list[str]:
    """Services that have written a Python traceback, with its beginning."""
    found = []
    for service in cluster.supervisor.services:
        text = service.log.read_text(errors="replace")
        at = text.find("Traceback (most recent call last)")
        if at >= 0:
            found.append(f"{service.name}: {text[max(0, at - 300) : at + 1500]}")
    return found
