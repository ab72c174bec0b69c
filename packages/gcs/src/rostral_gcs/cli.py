"""The command ``rostral-gcs``: the only place where its command line is read.

Exit status: 0 done, 2 wrong usage, 3 nothing answers, 78 wrong configuration, 1 any other typed
error.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from rostral_gcs.auth import load_token, write_token
from rostral_gcs.cli_status import EXIT_UNREACHABLE, status
from rostral_gcs.config import GcsConfig
from rostral_gcs.errors import StorageError
from rostral_gcs.gcs_settings import SETTINGS, default_data_dir, with_token
from rostral_gcs.maintenance.commands import maintenance_commands
from rostral_gcs.services.commands import config_group, config_option, errors_shown, systemd_group
from rostral_gcs.services.flags import given_flags, setting_options
from rostral_gcs.services.life import ServiceLife
from rostral_gcs.services.reloading import Reloader
from rostral_gcs.services.systemd import configure_logging
from rostral_gcs.services.unit_files import UnitFiles

__all__ = ["main"]

_UNITS = UnitFiles(
    "rostral_gcs",
    "gcs",
    names=["rostral-gcs.service"],
    configuration=SETTINGS.default_file,
    token="token",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rostral-gcs")
def main() -> None:
    """The Global Control Store of Rostral."""


main.add_command(config_group(SETTINGS))
main.add_command(systemd_group(_UNITS))
main.add_command(status)
for _command in maintenance_commands(default_data_dir):
    main.add_command(_command)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
def token(file: Path) -> None:
    """Make a new cluster token in FILE, mode 0600."""
    with errors_shown("rostral-gcs"):
        write_token(file)
    click.echo(f"token written to {file}")


@main.command(name="add-shards")
@click.argument("shard_count", type=int)
@click.option("--address", default="127.0.0.1:6380", show_default=True, help="Of the server.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    default=lambda: default_data_dir() / "token",
    help="The cluster token; by default the one in the data directory.",
)
def add_shards(shard_count: int, address: str, token_file: Path) -> None:
    """Add shards to a running server until it has SHARD_COUNT; it goes on serving."""
    # Here, so that `--help` and usage errors do not wait for grpc.
    from rostral_gcs.sync_client import GcsClient

    with (
        errors_shown("rostral-gcs", unreachable=EXIT_UNREACHABLE),
        GcsClient(address, load_token(token_file)) as client,
    ):
        done = client.add_shards(shard_count)
    click.echo(
        f"{done.shard_count} shards; {done.moved_rows} rows moved, writes to them waited for "
        f"{done.blocked_s * 1e3:.0f} ms"
    )


@main.command()
@config_option
@setting_options(
    SETTINGS,
    {
        "--bind": "bind",
        "--port": "port",
        "--data-dir": "data_dir",
        "--token-file": "token_file",
        "--port-file": "port_file",
        "--shards": "shard_count",
        "--insecure": "insecure",
        "--metrics-port": "metrics_port",
        "--tls-certificate": "tls_certificate_file",
        "--tls-key": "tls_key_file",
        "--tls-ca": "tls_ca_file",
        "--backend": "backend",
        "--redis-url": "redis_urls",
        "--redis-password-file": "redis_password_file",
        "--redis-ca-file": "redis_ca_file",
        "--redis-cert-file": "redis_cert_file",
        "--redis-key-file": "redis_key_file",
        "--redis-prefix": "redis_prefix",
        "--redis-wait-replicas": "redis_wait_replicas",
        "--log-level": "log_level",
    },
)
def serve(config_file: Path | None, **_: object) -> None:
    """Serve until SIGTERM or SIGINT; print one line with the address when ready.

    SIGHUP reads the configuration again. All other settings: rostral-gcs config show --default.
    """
    flags = given_flags(SETTINGS)
    with errors_shown("rostral-gcs"):
        configured = SETTINGS.read(config_file, flags=flags)
        configure_logging(configured.values["log_level"])
        config = with_token(configured.config)
        reload = Reloader(SETTINGS, config_file, flags, configured)
        asyncio.run(_serve(config, configured.config.port_file, reload))


async def _serve(config: GcsConfig, port_file: Path | None, reload: Callable[[], str]) -> None:
    # Here, so that `--help` and usage errors do not wait for grpc.
    from rostral_gcs.service import GcsServer

    server = GcsServer(config)
    # What was imported stays: each full collection would else walk all of it, for 20 ms and more.
    gc.collect()
    gc.freeze()
    async with ServiceLife(probe=server.probe, reload=reload) as life:
        port = await server.start()
        try:
            if port_file is not None:
                await asyncio.to_thread(_write_port, port_file, port)
            life.ready(f"serving at {server.address}")
            click.echo(f"rostral-gcs serving at {server.address}")
            sys.stdout.flush()
            await life.wait()
        finally:
            await server.stop()
            if port_file is not None:
                await asyncio.to_thread(port_file.unlink, missing_ok=True)


def _write_port(port_file: Path, port: int) -> None:
    # Renamed into place, so that who waits for the file never reads half a number.
    scratch = port_file.with_name(f".{port_file.name}.{os.getpid()}")
    try:
        scratch.write_text(f"{port}\n", encoding="ascii")
        scratch.rename(port_file)
    except OSError as error:
        raise StorageError(
            f"cannot write port file {port_file}: {error.strerror}",
            hint="choose a directory you may write to",
        ) from error
