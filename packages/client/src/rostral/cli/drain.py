"""`rostral drain`: has a node of the cluster leave in order."""

from __future__ import annotations

import time
from typing import Any

import click

from rostral.cli.output import json_option, show_json
from rostral.cli.reach import ask, records
from rostral_gcs.errors import NotFoundError

_LOOK_S = 0.1
_CALL_TIMEOUT_S = 10.0
_GRACE_S = 10.0
"""For the way of the order, and for the end of its processes."""


@click.command()
@click.argument("node")
@click.option(
    "--within",
    "within_s",
    type=click.FloatRange(min=0, max=1e6),
    default=300.0,
    show_default=True,
    help="Seconds after which what still runs there is ended.",
)
@click.option("--no-wait", is_flag=True, help="Return when the node has been told.")
@json_option
def drain(*, node: str, within_s: float, no_wait: bool, as_json: bool) -> None:
    r"""Have NODE, an id or how it begins, take nothing new, finish its tasks and leave.

    Tasks that wait there go to other nodes, and none of that costs a retry. One of this user's
    nodes on this machine, of the same cluster, passes the order on.

    \b
    rostral nodes
    rostral drain 3fa2 --within 60
    """
    socket, node_id = _find(node)
    order = {"node_id": node_id, "within_s": within_s}
    ask(socket, "drain", order, timeout_s=_CALL_TIMEOUT_S)
    if not no_wait:
        deadline_s = time.monotonic() + within_s + _GRACE_S
        while _is_alive(node_id):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"node {node_id.hex()} is there still after {within_s:g} s")
            time.sleep(_LOOK_S)
    if as_json:
        show_json({"node_id": node_id.hex(), "left": not no_wait})
    else:
        click.echo(f"node {node_id.hex()} {'was told to leave' if no_wait else 'has left'}")


def _nodes_by_socket() -> list[tuple[str, list[dict[str, Any]]]]:
    """By each of our nodes on this machine, what it knows of its cluster."""
    sockets = [record.scheduler_socket for record in records()]
    return [(s, ask(s, "nodes", {}, timeout_s=_CALL_TIMEOUT_S)["nodes"]) for s in sockets]


def _find(begin: str) -> tuple[str, bytes]:
    """A socket by which to reach the one living node whose id begins so. Raises NotFoundError."""
    found: dict[bytes, str] = {}
    for socket, nodes in _nodes_by_socket():
        for node in nodes:
            if node["alive"] and node["node_id"].hex().startswith(begin.lower()):
                found.setdefault(node["node_id"], socket)
    if len(found) != 1:
        what = "several living nodes have" if found else "no living node has"
        raise NotFoundError(
            f"{what} an id that begins with {begin[:40]!r}", hint="rostral nodes lists them"
        )
    ((node_id, socket),) = found.items()
    return socket, node_id


def _is_alive(node_id: bytes) -> bool:
    from rostral.session import live_records

    if not live_records():
        return False  # It was the last one here.
    return any(
        node["node_id"] == node_id and node["alive"]
        for _, nodes in _nodes_by_socket()
        for node in nodes
    )
