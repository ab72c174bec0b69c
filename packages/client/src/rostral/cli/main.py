"""The `rostral` command: start, stop and look at the nodes of this user on this machine.

Exit statuses: 0 done, 1 failed, 2 wrong usage, 3 nothing to reach, 4 denied, 5 another version, 78
wrong configuration, 124 no answer in time. What the commands share is in output.py.
"""

from __future__ import annotations

import collections
import json
import sys
from typing import Any

import click

from rostral.cli.certs import certs
from rostral.cli.completion import completion
from rostral.cli.config import config
from rostral.cli.doctor import debug_bundle, doctor
from rostral.cli.drain import drain
from rostral.cli.listing import actors, nodes, objects, tasks
from rostral.cli.logs import logs
from rostral.cli.output import (
    EXIT_UNREACHABLE,
    Commands,
    json_option,
    printable,
    show_json,
    tell,
)
from rostral.cli.reach import ask, timeout_option
from rostral.cli.tokens import token
from rostral.launcher import STOP_TIMEOUT_S, NodeSettings, start_node, stop_node
from rostral_gcs.errors import RostralError


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rostral")
def main() -> None:
    """Tasks, actors and futures across processes and machines."""


_PEM = click.Path(exists=True, dir_okay=False, resolve_path=True)

for _command in (
    *(actors, nodes, objects, tasks, logs, drain, token, certs, config),
    *(doctor, debug_bundle, completion),
):
    main.add_command(_command)


@main.command()
@click.option("--head", is_flag=True, help="Start the first node of a new cluster.")
@click.option("--address", metavar="HOST:PORT", help="Join the cluster whose GCS listens there.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=6380,
    show_default=True,
    help="Port of a head's GCS; 0 takes a free one.",
)
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address of a head's GCS.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False),
    help="Cluster token; not needed to join a head of this user on this machine.",
)
@click.option("--tls-certificate", type=_PEM, help="PEM, this node's chain.")
@click.option("--tls-key", type=_PEM, help="PEM, its key, of mode 0600.")
@click.option("--tls-ca", type=_PEM, help="PEM, who signs the cluster's: rostral certs init.")
@click.option("--insecure", is_flag=True, help="Let a head bind beyond loopback without TLS.")
@click.option(
    "--num-cpus", type=click.FloatRange(min=0), help="CPUs to offer. [default: this machine's]"
)
@click.option("--num-gpus", type=click.FloatRange(min=0), default=0.0, help="GPUs to offer.")
@click.option("--resources", metavar="JSON", help="Custom resources, such as '{\"arm\": 2}'.")
@click.option("--labels", metavar="JSON", help='Labels of the node, such as \'{"zone": "a"}\'.')
@click.option(
    "--object-store-memory",
    type=click.IntRange(min=1),
    help="Bytes for objects. [default: 0.3 of memory]",
)
@click.option(
    "--worker-memory",
    type=click.IntRange(min=1),
    help="Bytes that workers may have together before some are ended. [default: all there is]",
)
@json_option
def start(
    *,
    head: bool,
    address: str | None,
    port: int,
    bind: str,
    token_file: str | None,
    tls_certificate: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    insecure: bool,
    num_cpus: float | None,
    num_gpus: float,
    resources: str | None,
    labels: str | None,
    object_store_memory: int | None,
    worker_memory: int | None,
    as_json: bool,
) -> None:
    r"""Start a node that runs until `rostral stop`.

    \b
    rostral start --head
    rostral start --address 10.0.0.1:6380 --token-file token --num-cpus 8
    """
    from rostral.session import live_records

    if head == (address is not None):
        raise click.UsageError("say either --head or --address HOST:PORT")
    if address is not None and token_file is None:
        heads = [record for record in live_records() if record.head and record.address == address]
        if not heads:
            raise click.UsageError(
                f"no head of this user at {address} runs on this machine: "
                "give its token with --token-file"
            )
        token_file = heads[0].token_file
    settings = NodeSettings(
        head=head,
        gcs_address=address,
        token_file=token_file,
        tls_certificate_file=tls_certificate,
        tls_key_file=tls_key,
        tls_ca_file=tls_ca,
        insecure=insecure,
        bind=bind,
        port=port,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources={name: float(value) for name, value in _parse(resources, (int, float)).items()},
        labels=_parse(labels, (str,)),
        memory_bytes=object_store_memory,
        worker_memory_bytes=worker_memory,
        detached=True,
    )
    record = start_node(settings).record
    said = (
        f"node {record.node_id} serves, cluster at {record.address}\n"
        f"connect with rostral.init({record.address!r}); end it with: rostral stop"
    )
    started = {"node_id": record.node_id, "address": record.address, "pid": record.pid}
    tell(said, started, as_json=as_json)


def _parse(text: str | None, types: tuple[type, ...]) -> dict[str, Any]:
    """A JSON object whose values are of the types. Raises click.BadParameter."""
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise click.BadParameter(f"{text!r:.80} is no JSON: {error}") from error
    if not isinstance(found, dict) or not all(type(value) in types for value in found.values()):
        kind = "strings" if str in types else "numbers"
        raise click.BadParameter(f"{text!r:.80} is no JSON object of names and {kind}")
    return found


@main.command()
@click.option("-f", "--force", is_flag=True, help="Kill instead of ending in order.")
@click.option(
    "-g",
    "--grace-period",
    "grace_s",
    type=click.FloatRange(min=0),
    default=STOP_TIMEOUT_S,
    show_default=True,
    help="Seconds that a node may take before it is killed.",
)
@json_option
def stop(*, force: bool, grace_s: float, as_json: bool) -> None:
    r"""Stop this user's nodes on this machine that `rostral start` started.

    A node that runs as services is stopped by: systemctl stop rostral-node.target

    \b
    rostral stop
    rostral stop --grace-period 60
    """
    from rostral.session import live_records

    # The head last: the others say good-bye to its GCS.
    ours = (r for r in live_records() if r.detached and not r.is_service)
    records = sorted(ours, key=lambda r: r.head)
    for record in records:
        stop_node(record, force=force, grace_s=grace_s)
    said = f"stopped {len(records)} node{'s' if len(records) != 1 else ''}"
    tell(said, {"stopped": [record.node_id for record in records]}, as_json=as_json)


@main.command()
@timeout_option
@json_option
def status(*, timeout_s: float, as_json: bool) -> None:
    r"""Show this user's running nodes on this machine, their resources, workers and actors.

    \b
    rostral status
    rostral status --json
    """
    from rostral.session import live_records

    nodes = []
    for record in live_records():
        node: dict[str, Any] = {}
        try:
            node = ask(record.scheduler_socket, "status", {}, timeout_s=timeout_s)
        except RostralError as error:
            node = {"error": str(error)}
        nodes.append(
            {
                **node,
                "node_id": record.node_id,
                "address": record.address,
                "head": record.head,
                "pid": record.pid,
            }
        )
    if as_json:
        show_json({"nodes": nodes})
    elif nodes:
        for node in nodes:
            _print_node(node)
    if not nodes:
        if not as_json:
            click.echo(
                "no node of this user runs on this machine; start one with: rostral start --head",
                err=True,
            )
        sys.exit(EXIT_UNREACHABLE)


def _print_node(node: dict[str, Any]) -> None:
    kind = "head" if node["head"] else "node"
    click.echo(f"node {node['node_id']}  {kind}  {node['address']}  pid {node['pid']}")
    if "error" in node:
        click.echo(f"  does not answer: {node['error']}")
        return
    free = node["available"]
    resources = (f"{free.get(k, 0):g} of {v:g} {k} free" for k, v in node["resources"].items())
    click.echo(f"  resources  {', '.join(resources) or 'none'}")
    store = node["store"]
    used, capacity = store["used_bytes"] / 1e6, store["capacity_bytes"] / 1e6
    click.echo(f"  store      {used:,.1f} of {capacity:,.1f} MB used")
    stages = collections.Counter(worker["stage"].lower() for worker in node["workers"])
    workers = ", ".join(f"{count} {stage}" for stage, count in sorted(stages.items()))
    click.echo(f"  workers    {len(node['workers'])}{f' ({workers})' if workers else ''}")
    click.echo(f"  queued     {sum(queue['length'] for queue in node['queues'])} tasks")
    for job in node["jobs"]:
        click.echo(f"  job        {job['job_id'].hex()}  {printable(job['entrypoint'])}")
    for actor in node["actors"]:
        name = f"  {actor['name']!r}" if actor["name"] else ""
        described = f"{printable(actor['class_name'])}  {actor['state']}  pid {actor['pid']}{name}"
        click.echo(f"  actor      {actor['actor_id'].hex()}  {described}")
