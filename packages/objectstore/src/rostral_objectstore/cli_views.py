"""The commands that look at a running store: stats, ls, top.

Data goes to standard output, talk to standard error. With `--json`, one object per line, whose keys
stay what they are within a major version.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import click
import msgspec

from rostral_gcs.errors import ConfigError, RostralError, TokenFileError
from rostral_gcs.ids import ObjectID
from rostral_objectstore.client import StoreClient
from rostral_objectstore.observed import ObjectInfo, StateName, StoreStats

EXIT_FAILED = 1
EXIT_UNREACHABLE = 3
EXIT_BAD_CONFIG = 78
TOP_ROWS = 20

socket_option = click.option(
    "--socket",
    "socket_path",
    type=click.Path(),
    default=None,
    help="Unix socket of the store. [default: $ROSTRAL_STORE, else this user's]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@contextlib.contextmanager
def errors_as_statuses(*, unreachable: int = EXIT_UNREACHABLE) -> Iterator[None]:
    """Says what went wrong in one line, and exits with the status that stands for it."""
    try:
        yield
    except (RostralError, ConnectionError) as error:
        click.echo(f"rostral-objectstore: {error}", err=True)
        if isinstance(error, ConfigError | TokenFileError):
            sys.exit(EXIT_BAD_CONFIG)
        sys.exit(unreachable if isinstance(error, ConnectionError) else EXIT_FAILED)


@contextlib.contextmanager
def connected(socket_path: str | None) -> Iterator[StoreClient]:
    """A client of the store, or the end of the command."""
    with errors_as_statuses(), StoreClient.connect(socket_path) as client:
        yield client


def size(size_bytes: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def _echo_json(value: object) -> None:
    def encode(other: object) -> str:
        if isinstance(other, ObjectID):
            return other.hex()
        raise NotImplementedError(f"{type(other).__name__} has no form in JSON")

    click.echo(msgspec.json.encode(value, enc_hook=encode))


@click.command()
@socket_option
@json_option
def stats(*, socket_path: str | None, as_json: bool) -> None:
    """Show how full the store is."""
    with connected(socket_path) as client:
        answer = client.stats()
    if as_json:
        _echo_json(answer)
    else:
        click.echo(_summary(answer))


def _summary(answer: StoreStats) -> str:
    return (
        f"used {answer.used_bytes} of {answer.capacity_bytes} bytes, "
        f"{answer.objects} objects, {answer.pinned} pinned, {answer.clients} processes"
    )


@click.command()
@socket_option
@json_option
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--state", type=click.Choice(get_args(StateName)), help="Only objects in this state.")
def ls(*, socket_path: str | None, as_json: bool, limit: int, state: StateName | None) -> None:
    """List the objects: id, state, size, who holds them."""
    with connected(socket_path) as client:
        objects = client.list_objects(limit, state=state)
    for info in objects:
        if as_json:
            _echo_json(info)
        else:
            click.echo(
                f"{info.id.hex()}  {info.state:8}  {info.size_bytes:>15}  {_holders(info)}".rstrip()
            )
    if len(objects) == limit:
        click.echo(f"the first {limit} objects: --limit shows more", err=True)


def _holders(info: ObjectInfo) -> str:
    words = [str(pid) for pid in info.holders]
    if info.pinned:
        words.append("pinned")
    if info.containers:
        words.append(f"in {info.containers} values")
    return " ".join(words)


@click.command()
@socket_option
@click.option("--interval", "interval_s", type=click.FloatRange(0.1), default=1.0, help="Seconds.")
@click.option("--once", is_flag=True, help="Show it once and leave.")
def top(*, socket_path: str | None, interval_s: float, once: bool) -> None:
    """Show the largest objects and who holds them, until Ctrl-C."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        click.echo(
            "rostral-objectstore: top needs the package rich; "
            "pip install 'rostral-objectstore[top]'",
            err=True,
        )
        sys.exit(EXIT_FAILED)
    with connected(socket_path) as client:
        view = _View(client)
        if once:
            Console().print(view.table())
            return
        with contextlib.suppress(KeyboardInterrupt), Live(view.table(), screen=True) as live:
            while True:
                time.sleep(interval_s)
                live.update(view.table())


class _View:
    """What `top` shows, with the rates since it showed it last."""

    def __init__(self, client: StoreClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._clock = client, clock
        self._last: tuple[float, StoreStats] | None = None

    def table(self) -> Any:
        """A table for rich."""
        from rich.table import Table

        answer = self._client.stats()
        objects = sorted(self._client.list_objects(), key=lambda info: -info.size_bytes)
        table = Table(title=_summary(answer), caption=self._rates(answer), expand=True)
        table.add_column("object", no_wrap=True)
        table.add_column("state")
        table.add_column("size", justify="right")
        table.add_column("held by")
        for info in objects[:TOP_ROWS]:
            table.add_row(info.id.hex(), info.state, size(info.size_bytes), _holders(info))
        return table

    def _rates(self, answer: StoreStats) -> str:
        now = self._clock()
        last, self._last = self._last, (now, answer)
        if last is None or now <= last[0]:
            return f"{size(answer.used_bytes)} used, {size(answer.free_bytes)} free"
        seconds = now - last[0]
        grown = (answer.used_bytes - last[1].used_bytes) / seconds
        more = (answer.objects - last[1].objects) / seconds
        return f"{size(grown)}/s and {more:+.0f} objects/s more in use"
