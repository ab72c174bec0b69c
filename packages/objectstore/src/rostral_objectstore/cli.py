"""The `rostral-objectstore` command."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rostral_gcs.errors import ConfigError
from rostral_objectstore import fd_store, metrics, takeover
from rostral_objectstore.addresses import default_socket_path
from rostral_objectstore.cli_views import EXIT_FAILED, errors_as_statuses, ls, stats, top
from rostral_objectstore.config import PAGES_AHEAD_BYTES, StoreConfig, default_memory_bytes
from rostral_objectstore.daemon import StoreDaemon

if TYPE_CHECKING:
    from rostral_objectstore.transfer import TransferConfig


UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes: 65536, 64K, 64M, 4G, 1.5T; a B or iB after the unit changes nothing."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes. Fails as a usage error."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r} is no size: write 65536, 64M or 1.5G", param, ctx)
        return int(float(found[1]) * UNITS[found[2].upper()])


SIZE = Size()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rostral-objectstore", prog_name="rostral-objectstore")
def main() -> None:
    """The shared-memory object store of a node."""


@main.command()
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(),
    default=None,
    help="Unix socket to listen at. [default: $ROSTRAL_STORE, else this user's]",
)
@click.option(
    "--memory",
    "memory_bytes",
    type=SIZE,
    default=None,
    help="Room for objects. [default: 0.3 of the machine's memory]",
)
@click.option(
    "--spill-dir",
    "spill_directories",
    type=click.Path(),
    multiple=True,
    help="Where objects go when memory is short; several disks share the work.",
)
@click.option(
    "--spill-limit",
    "spill_limit_bytes",
    type=SIZE,
    default=None,
    help="How much may be spilled. [default: until 5 % of a disk are free]",
)
@click.option(
    "--full-timeout",
    "full_timeout_s",
    type=float,
    default=10.0,
    show_default=True,
    help="Seconds that a put waits for room before it is an error.",
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
@click.option(
    "--metrics",
    "metrics_address",
    metavar="HOST:PORT",
    default=None,
    help="Serve metrics for Prometheus there, on this machine alone.",
)
@click.option("--verbose", is_flag=True, help="Log what happens, to standard error.")
def serve(
    *,
    socket_path: str | None,
    memory_bytes: int | None,
    pages_ahead_bytes: int,
    huge_pages: bool,
    metrics_address: str | None,
    spill_directories: tuple[str, ...],
    spill_limit_bytes: int | None,
    full_timeout_s: float,
    verbose: bool,
    **transfer: Any,
) -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING)
    with errors_as_statuses(unreachable=EXIT_FAILED):
        config = StoreConfig(
            socket_path=str(Path(socket_path or default_socket_path()).absolute()),
            memory_bytes=default_memory_bytes() if memory_bytes is None else memory_bytes,
            spill_directories=tuple(str(Path(path).absolute()) for path in spill_directories),
            spill_limit_bytes=spill_limit_bytes,
            full_timeout_s=full_timeout_s,
            transfer=_transfer_config(**transfer),
            pages_ahead_bytes=pages_ahead_bytes,
            huge_pages=huge_pages,
        )
        config.validate()
        address = None if metrics_address is None else metrics.parse_address(metrics_address)
        asyncio.run(_serve(config, address))


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


async def _serve(config: StoreConfig, metrics_address: tuple[str, int] | None) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    inherited = fd_store.parked()
    segment = takeover.adopt_segment(inherited)
    if inherited and segment is None:
        fd_store.forget()
    daemon = StoreDaemon(config, segment)
    page = None if metrics_address is None else metrics.serve(metrics_address, daemon.stats)
    try:
        await daemon.start()
        daemon.is_parked = fd_store.park(daemon.segment.fd)
        fd_store.notify("READY=1")
        click.echo(f"serving at {config.socket_path}")
        if daemon.transfer is not None:
            click.echo(f"transfers at {daemon.transfer.address}")
        await stopping.wait()
    finally:
        fd_store.notify("STOPPING=1")
        if page is not None:
            await asyncio.to_thread(page.shutdown)
            page.server_close()
        await daemon.stop()


main.add_command(stats)
main.add_command(ls)
main.add_command(top)
