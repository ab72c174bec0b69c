"""`rostral nodes`, `actors`, `tasks`, `objects`: what there is.

Nodes and actors are the cluster's, as its GCS knows them; tasks and objects are those of this
user's nodes on this machine, as the nodes themselves know them.
"""

from __future__ import annotations

import collections
from typing import Any, Final

import click

from rostral.cli.output import json_option, show
from rostral.cli.reach import Cluster, ask, cluster_options, gcs_of, records, timeout_option

LIMIT: Final = 1000

limit_option = click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=LIMIT,
    show_default=True,
    help="At most so many.",
)


@click.command()
@cluster_options
@json_option
def nodes(*, cluster: Cluster, as_json: bool) -> None:
    r"""List the cluster's nodes, the dead ones too.

    \b
    rostral nodes
    rostral nodes --address 10.0.0.1:6380 --token-file token --json
    """
    with gcs_of(cluster) as gcs:
        rows = [
            {
                "node_id": row.node_id.binary().hex(),
                "state": row.state.value,
                "hostname": row.hostname,
                "address": row.address,
                "resources": dict(row.resources_total),
                "available": dict(row.resources_available),
                "labels": dict(row.labels),
                "epoch": row.epoch,
                "death_cause": row.death_cause,
            }
            for row in gcs.list_nodes()
        ]
    columns = {
        "NODE": "node_id",
        "STATE": "state",
        "HOST": "hostname",
        "RESOURCES": "resources",
        "FREE": "available",
        "CAUSE": "death_cause",
    }
    show("nodes", rows, columns, as_json=as_json)


@click.command()
@cluster_options
@click.option("--all", "with_dead", is_flag=True, help="The dead ones too.")
@click.option("--name", help="Only the actor with this name.")
@json_option
def actors(*, cluster: Cluster, with_dead: bool, name: str | None, as_json: bool) -> None:
    r"""List the cluster's actors.

    \b
    rostral actors
    rostral actors --all --json
    rostral actors --name scores
    """
    with gcs_of(cluster) as gcs:
        rows = [
            {
                "actor_id": row.actor_id.binary().hex(),
                "state": row.state.value,
                "name": row.name,
                "class_name": row.class_name,
                "namespace": row.namespace,
                "job_id": row.job_id.binary().hex(),
                "node_id": None if row.node_id is None else row.node_id.binary().hex(),
                "restarts": row.restarts,
                "death_cause": row.death_cause,
            }
            for row in gcs.list_actors()
        ]
    rows = [row for row in rows if with_dead or row["state"] != "DEAD"]
    rows = [row for row in rows if name is None or row["name"] == name]
    columns = {
        "ACTOR": "actor_id",
        "CLASS": "class_name",
        "STATE": "state",
        "NAME": "name",
        "NODE": "node_id",
        "RESTARTS": "restarts",
        "CAUSE": "death_cause",
    }
    show("actors", rows, columns, as_json=as_json)


@click.command()
@limit_option
@click.option("--summary", is_flag=True, help="Count them by their state instead.")
@timeout_option
@json_option
def tasks(*, limit: int, summary: bool, timeout_s: float, as_json: bool) -> None:
    r"""List the tasks that this user's nodes on this machine have, and where each stands.

    \b
    rostral tasks
    rostral tasks --summary
    rostral tasks --limit 100 --json
    """
    rows: list[dict[str, Any]] = []
    for record in records():
        answer = ask(record.scheduler_socket, "list_tasks", {"limit": limit}, timeout_s=timeout_s)
        rows += [{"node_id": record.node_id, **row} for row in answer["tasks"]]
    if summary:
        counts = collections.Counter(row["state"] for row in rows)
        rows = [{"state": state, "count": count} for state, count in sorted(counts.items())]
        show("tasks", rows, {"STATE": "state", "COUNT": "count"}, as_json=as_json)
        return
    columns = {
        "TASK": "task_id",
        "STATE": "state",
        "PID": "pid",
        "ACTOR CALL": "is_actor_call",
        "RETRIES LEFT": "retries_left",
        "JOB": "job_id",
    }
    show("tasks", rows[:limit], columns, as_json=as_json)


@click.command()
@limit_option
@click.option("--state", help="Only those in this state: pending, sealed, spilled, ...")
@timeout_option
@json_option
def objects(*, limit: int, state: str | None, timeout_s: float, as_json: bool) -> None:
    r"""List the objects in this user's stores on this machine, and who holds each.

    \b
    rostral objects
    rostral objects --state sealed --limit 20
    """
    rows: list[dict[str, Any]] = []
    for record in records():
        body = {"limit": limit, "state": state}
        answer = ask(record.store_socket, "list_objects", body, timeout_s=timeout_s)
        rows += [{"node_id": record.node_id, **row} for row in answer["objects"]]
    columns = {
        "OBJECT": "id",
        "STATE": "state",
        "BYTES": "size_bytes",
        "HELD BY": "holders",
        "PINNED": "pinned",
        "ERROR": "is_error",
    }
    show("objects", rows[:limit], columns, as_json=as_json)
