"""The `rostral-objectstore` command."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rostral_gcs.errors import ConfigError, RostralError
from rostral_objectstore import fd_store, takeover
from rostral_objectstore.client import StoreClient
from rostral_objectstore.config import PAGES_AHEAD_BYTES, StoreConfig, default_memory_bytes
from rostral_objectstore.daemon import StoreDaemon

if TYPE_CHECKING:
    from rostral_objectstore.transfer import TransferConfig

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
@click.option(
    "--pages-ahead",
    "pages_ahead_bytes",
    type=int,
    default=PAGES_AHEAD_BYTES,
    show_default=True,
    help="Bytes of memory to take from the machine ahead of use.",
)
@click.option(
    "--huge-pages/--no-huge-pages",
    default=True,
    show_default=True,
    help="Use huge pages where the system gives them to who asks.",
)
@click.option(
    "--transfer",
    "transfer_address",
    metavar="HOST:PORT",
    help="Exchange objects with other nodes, and listen for them here; port 0 takes a free one.",
)
@click.option(
    "--transfer-bandwidth",
    "bandwidth_bytes_s",
    type=int,
    default=None,
    help="Bytes that leave in a second, at most. [default: no limit]",
)
@click.option(
    "--token-file",
    type=click.Path(),
    default=None,
    help="The cluster's token, made by rostral-gcs token; transfers need it.",
)
@click.option("--tls-certificate", type=click.Path(), default=None, help="PEM, this node's.")
@click.option("--tls-key", type=click.Path(), default=None, help="PEM, its key, of mode 0600.")
@click.option("--tls-ca", type=click.Path(), default=None, help="PEM, who signs the nodes'.")
@click.option("--verbose", is_flag=True, help="Log what happens, to standard error.")
def serve(
    *,
    socket_path: str,
    memory_bytes: int | None,
    pages_ahead_bytes: int,
    huge_pages: bool,
    verbose: bool,
    **transfer: Any,
) -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING)
    try:
        config = StoreConfig(
            socket_path=str(Path(socket_path).absolute()),
            memory_bytes=default_memory_bytes() if memory_bytes is None else memory_bytes,
            transfer=_transfer_config(**transfer),
            pages_ahead_bytes=pages_ahead_bytes,
            huge_pages=huge_pages,
        )
        config.validate()
        asyncio.run(_serve(config))
    except ConfigError as error:
        click.echo(f"rostral-objectstore: {error}", err=True)
        sys.exit(EXIT_BAD_CONFIG)
    except RostralError as error:
        click.echo(f"rostral-objectstore: {error}", err=True)
        sys.exit(1)


def _transfer_config(
    *,
    transfer_address: str | None,
    bandwidth_bytes_s: int | None,
    token_file: str | None,
    tls_certificate: str | None,
    tls_key: str | None,
    tls_ca: str | None,
) -> TransferConfig | None:
    if transfer_address is None:
        return None
    if token_file is None:
        raise ConfigError(
            "--transfer is given without --token-file",
            hint="make a token with: rostral-gcs token FILE",
        )
    # Brings Arrow Flight along, which is an extra.
    from rostral_objectstore.transfer import (
        Credentials,
        FetchConfig,
        TransferConfig,
        TransferServerConfig,
    )

    credentials = Credentials(
        token_file=token_file,
        tls_certificate_file=tls_certificate,
        tls_key_file=tls_key,
        tls_ca_file=tls_ca,
    )
    config = TransferConfig(
        server=TransferServerConfig(
            credentials=credentials,
            address=transfer_address,
            bandwidth_bytes_s=bandwidth_bytes_s,
        ),
        fetch=FetchConfig(credentials=credentials),
    )
    config.validate()
    return config


async def _serve(config: StoreConfig) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    inherited = fd_store.parked()
    segment = takeover.adopt_segment(inherited)
    if inherited and segment is None:
        fd_store.forget()
    daemon = StoreDaemon(config, segment)
    await daemon.start()
    fd_store.park(daemon.segment.fd)
    fd_store.notify("READY=1")
    try:
        click.echo(f"serving at {config.socket_path}")
        if daemon.transfer is not None:
            click.echo(f"transfers at {daemon.transfer.address}")
        await stopping.wait()
    finally:
        fd_store.notify("STOPPING=1")
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
