"""The `rostral-objectstore` command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import click

from rostral_gcs.services.commands import config_group, config_option, systemd_group
from rostral_gcs.services.flags import given_flags, setting_options
from rostral_gcs.services.life import ServiceLife
from rostral_gcs.services.reloading import Reloader
from rostral_gcs.services.settings import Flag
from rostral_gcs.services.systemd import configure_logging
from rostral_gcs.services.unit_files import UnitFiles
from rostral_objectstore import fd_store, metrics, takeover
from rostral_objectstore.cli_views import EXIT_FAILED, errors_as_statuses, ls, stats, top
from rostral_objectstore.daemon import StoreDaemon
from rostral_objectstore.store_settings import SETTINGS, Serving

_UNITS = UnitFiles(
    "rostral_objectstore",
    "objectstore",
    names=["rostral-objectstore.service"],
    isolation=["rostral-objectstore.service.d/isolated-workers.conf"],
    configuration=SETTINGS.default_file,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rostral-objectstore", prog_name="rostral-objectstore")
def main() -> None:
    """The shared-memory object store of a node."""


@main.command()
@config_option
@setting_options(
    SETTINGS,
    {
        "--socket": "socket_path",
        "--memory": "memory_bytes",
        "--spill-dir": "spill_directories",
        "--spill-limit": "spill_limit_bytes",
        "--full-timeout": "full_timeout_s",
        "--device-memory": "device_memory_bytes",
        "--device-idle": "device_idle_s",
        "--pages-ahead": "pages_ahead_bytes",
        "--huge-pages": "huge_pages",
        "--transfer": "transfer_address",
        "--transfer-bandwidth": "bandwidth_bytes_s",
        "--token-file": "token_file",
        "--tls-certificate": "tls_certificate",
        "--tls-key": "tls_key",
        "--tls-ca": "tls_ca",
        "--metrics": "metrics_address",
        "--log-level": "log_level",
    },
)
@click.option("--verbose", is_flag=True, help="The same as --log-level debug.")
def serve(config_file: Path | None, *, verbose: bool, **_: object) -> None:
    """Serve until SIGTERM or SIGINT.

    SIGHUP reads the configuration again. All other settings: rostral-objectstore config show
    --default.
    """
    flags = given_flags(SETTINGS)
    if verbose:
        flags["log_level"] = Flag("--verbose", "debug")
    with errors_as_statuses(unreachable=EXIT_FAILED):
        configured = SETTINGS.read(config_file, flags=flags)
        configure_logging(configured.values["log_level"])
        reload = Reloader(SETTINGS, config_file, flags, configured)
        asyncio.run(_serve(configured.config, reload))


async def _serve(serving: Serving, reload: Callable[[], str]) -> None:
    inherited = fd_store.parked()
    segment = takeover.adopt_segment(inherited)
    if inherited and segment is None:
        fd_store.forget()
    config = serving.config
    async with ServiceLife(reload=reload) as life:
        daemon = StoreDaemon(config, segment)
        page = None
        if serving.metrics is not None:
            address, token_file = serving.metrics
            page = metrics.serve(address, daemon.stats, token_file)
        try:
            await daemon.start()
            daemon.is_parked = fd_store.park(daemon.segment.fd)
            life.ready(f"serving at {config.socket_path}")
            click.echo(f"serving at {config.socket_path}")
            if daemon.transfer is not None:
                click.echo(f"transfers at {daemon.transfer.address}")
            await life.wait()
        finally:
            if page is not None:
                await asyncio.to_thread(page.close)
            await daemon.stop()


main.add_command(stats)
main.add_command(ls)
main.add_command(top)
main.add_command(config_group(SETTINGS))
main.add_command(systemd_group(_UNITS))
