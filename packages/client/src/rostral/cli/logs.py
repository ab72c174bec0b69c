"""`rostral logs`: what the processes of this user's nodes on this machine have written."""

from __future__ import annotations

import collections
import time
from pathlib import Path

import click

from rostral.cli.output import json_option, show, show_json
from rostral.cli.reach import records
from rostral_gcs.errors import NotFoundError

_PAUSE_S = 0.2
_BYTES_MAX = 16 << 20


def log_files() -> dict[str, Path]:
    """The logs by their names; a name that two nodes have gets the node's id in front."""
    found: dict[str, Path] = {}
    for record in records():
        for path in sorted(Path(record.session_dir, "logs").glob("*")):
            # A link could lead anywhere: a task may write into this directory.
            if path.is_file() and not path.is_symlink():
                name = path.name if path.name not in found else f"{record.node_id}/{path.name}"
                found[name] = path
    return found


@click.command()
@click.argument("name", default="")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    help="The last so many.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted.")
@json_option
def logs(*, name: str, lines: int, follow: bool, as_json: bool) -> None:
    r"""List the logs, or print the end of the one with the name NAME.

    \b
    rostral logs
    rostral logs node.log -n 20 --follow
    """
    if as_json and follow:
        raise click.UsageError("--json tells of one moment: leave --follow out")
    files = log_files()
    if not name:
        rows = [
            {"name": each, "size_bytes": path.stat().st_size, "path": str(path)}
            for each, path in files.items()
        ]
        columns = {"NAME": "name", "BYTES": "size_bytes", "PATH": "path"}
        show("logs", rows, columns, as_json=as_json)
        return
    path = files.get(name)
    if path is None:
        raise NotFoundError(f"there is no log named {name[:80]!r}", hint="rostral logs lists them")
    with path.open("rb") as stream:
        size = path.stat().st_size
        stream.seek(max(0, size - _BYTES_MAX))
        last = [line.rstrip(b"\n") for line in collections.deque(stream, maxlen=lines)]
        if as_json:
            shown = [line.decode(errors="replace") for line in last]
            show_json({"log": name, "lines": shown})
            return
        for line in last:
            click.echo(line)
        while follow:
            more = stream.read(1 << 16)
            if more:
                click.echo(more, nl=False)
            else:
                time.sleep(_PAUSE_S)
