"""The `rostral-objectstore` command."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

import click

from rostral_gcs.errors import ConfigError, RostralError
from rostral_objectstore.client import StoreClient
from rostral_objectstore.config import StoreConfig, default_memory_bytes
from rostral_objectstore.daemon import StoreDaemon

EXIT_UNREACHABLE = 3
EXIT_BAD_CONFIG = 78


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rostral-objectstore", prog_name="rostral-objectstore")
def main() -> None:
    """The shared-memory object store of a node."""


@main.command()
@click.option(
    "--socket", "socket_path", required=True, type=click.Path(), help="Unix socket to listen at."
)
@click.option(
    "--memory",
    "memory_bytes",
    type=int,
    default=None,
    help="Bytes for objects. [default: 0.3 of the machine's memory]",
)
@click.option("--verbose", is_flag=True, help="Log what happens, to standard error.")
def serve(*, socket_path: str, memory_bytes: int | None, verbose: bool) -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING)
    try:
        config = StoreConfig(
            socket_path=str(Path(socket_path).absolute()),
            memory_bytes=default_memory_bytes() if memory_bytes is None else memory_bytes,
        )
        config.validate()
        asyncio.run(_serve(config))
    except ConfigError as error:
        click.echo(f"rostral-objectstore: {error}", err=True)
        sys.exit(EXIT_BAD_CONFIG)
    except RostralError as error:
        click.echo(f"rostral-objectstore: {error}", err=True)
        sys.exit(1)


async def _serve(config: StoreConfig) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    daemon = StoreDaemon(config)
    await daemon.start()
    try:
        click.echo(f"serving at {config.socket_path}")
        await stopping.wait()
    finally:
        await daemon.stop()


@main.command()
@click.option(
    "--socket", "socket_path", required=True, type=click.Path(), help="Unix socket of the store."
)
def stats(socket_path: str) -> None:
    """Show how full the store is."""
    try:
        with StoreClient.connect(socket_path) as client:
            answer = client.stats()
    except ConnectionError as error:
        click.echo(f"rostral-objectstore: {error}", err=True)
        sys.exit(EXIT_UNREACHABLE)
    click.echo(
        f"used {answer.used_bytes} of {answer.capacity_bytes} bytes, {answer.clients} processes"
    )
