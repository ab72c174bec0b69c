"""The command ``rostral-scheduler``: the only place where its command line is read.

Exit status: 0 done, 2 wrong usage, 78 wrong configuration, 1 any other typed error.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from rostral_gcs.errors import GcsUnavailableError
from rostral_gcs.services.commands import (
    config_group,
    config_option,
    errors_shown,
    systemd_group,
)
from rostral_gcs.services.flags import given_flags, setting_options
from rostral_gcs.services.life import ServiceLife
from rostral_gcs.services.reloading import Reloader
from rostral_gcs.services.systemd import configure_logging
from rostral_gcs.services.unit_files import UnitFiles
from rostral_gcs.services.users import keep_capabilities
from rostral_objectstore.errors import StoreUnavailableError
from rostral_scheduler import global_settings, local_settings
from rostral_scheduler.config import LocalSchedulerConfig
from rostral_scheduler.global_.config import GlobalSchedulerConfig
from rostral_scheduler.metrics import global_figures, local_figures
from rostral_scheduler.metrics import serve as serve_metrics

__all__ = ["main"]

_LOCAL = local_settings.SETTINGS
_GLOBAL = global_settings.SETTINGS


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rostral-scheduler")
def main() -> None:
    """The schedulers of Rostral."""


@main.group("config")
def config_() -> None:
    """Look at the configuration that a scheduler would start with."""


@main.group("systemd")
def systemd_() -> None:
    """Run schedulers as services of systemd."""


config_.add_command(config_group(_LOCAL, initial=local_settings.INITIAL), "local")
config_.add_command(config_group(_GLOBAL, initial=global_settings.INITIAL), "global")
systemd_.add_command(
    systemd_group(
        UnitFiles(
            "rostral_scheduler",
            "local-scheduler",
            names=["rostral-local-scheduler.service", "rostral-node.target", "rostral-node.slice"],
            isolation=["rostral-local-scheduler.service.d/isolated-workers.conf"],
            configuration=lambda: _LOCAL.default_file(local_settings.INITIAL),
        )
    ),
    "local",
)
systemd_.add_command(
    systemd_group(
        UnitFiles(
            "rostral_scheduler",
            "global-scheduler",
            names=["rostral-global-scheduler.service"],
            configuration=lambda: _GLOBAL.default_file(global_settings.INITIAL),
        )
    ),
    "global",
)


@main.command()
@config_option
@setting_options(
    _LOCAL,
    {
        "--store-socket": "store_socket",
        "--socket": "socket_path",
        "--session-dir": "session_dir",
        "--num-cpus": "num_cpus",
        "--num-gpus": "num_gpus",
        "--resource": "resources",
        "--worker-module": "worker_module",
        "--gcs": "gcs_address",
        "--token-file": "token_file",
        "--tls-certificate": "tls_certificate_file",
        "--tls-key": "tls_key_file",
        "--tls-ca": "tls_ca_file",
        "--delegated-cgroup": "delegated_cgroup",
        "--metrics": "metrics_address",
        "--log-level": "log_level",
    },
)
def local(config_file: Path | None, **_: object) -> None:
    """Schedule this node until SIGTERM or SIGINT; print one READY line when serving.

    SIGHUP reads the configuration again. All other settings: rostral-scheduler config local show
    --default.
    """
    flags = given_flags(_LOCAL)
    with errors_shown("rostral-scheduler"):
        configured = _LOCAL.read(config_file, flags=flags)
        configure_logging(configured.values["log_level"])
        config = local_settings.with_token(configured.config)
        reload = Reloader(_LOCAL, config_file, flags, configured)
        asyncio.run(_serve_local(configured.config, config, reload))


async def _serve_local(
    serving: local_settings.Serving, config: LocalSchedulerConfig, reload: Callable[[], str]
) -> None:
    # Here, so that `--help` and usage errors wait for nothing.
    from rostral_scheduler.local.cgroup import divide_cgroup
    from rostral_scheduler.local.daemon import LocalScheduler
    from rostral_scheduler.local.node_file import write_node_file

    keep_capabilities()
    if serving.delegated_cgroup:
        group = divide_cgroup(serving.workers_memory_max_bytes)
        config = replace(config, worker_cgroup=group)

    async def started() -> LocalScheduler:
        scheduler = LocalScheduler(config)
        await scheduler.start()
        return scheduler

    async with ServiceLife(reload=reload) as life:
        scheduler = await life.patiently(started, StoreUnavailableError, GcsUnavailableError)
        if scheduler is None:
            return
        passing_on = asyncio.create_task(_pass_on(scheduler.stopping, life.stopping))
        page = None
        try:
            if serving.metrics is not None:
                figures = partial(local_figures, scheduler)
                page = serve_metrics(
                    "local_scheduler", serving.metrics, str(serving.token_file), figures
                )
            if serving.node_file is not None:
                write_node_file(serving.node_file, config, scheduler.memory.node_id)
            life.ready(f"serving at {config.socket_path}")
            click.echo(f"READY rostral-scheduler local at {config.socket_path}")
            sys.stdout.flush()
            await life.wait()
            if not scheduler.stopping.is_set():
                # By a signal, and not by a client or the GCS: tasks end where they can.
                await scheduler.drain(config.drain_timeout_s)
        finally:
            passing_on.cancel()
            if page is not None:
                await asyncio.to_thread(page.close)
            if serving.node_file is not None:
                await asyncio.to_thread(serving.node_file.unlink, missing_ok=True)
            await scheduler.stop()


async def _pass_on(wanted: asyncio.Event, stopping: asyncio.Event) -> None:
    """A client, or the GCS, wants the node to stop."""
    await wanted.wait()
    stopping.set()


@main.command("global")
@config_option
@setting_options(
    _GLOBAL,
    {
        "--gcs": "gcs_address",
        "--token-file": "token_file",
        "--bind": "bind",
        "--port": "port",
        "--advertise": "advertise",
        "--insecure": "insecure",
        "--tls-certificate": "tls_certificate_file",
        "--tls-key": "tls_key_file",
        "--tls-ca": "tls_ca_file",
        "--metrics": "metrics_address",
        "--log-level": "log_level",
    },
)
def global_(config_file: Path | None, **_: object) -> None:
    """Place tasks of all nodes until SIGTERM or SIGINT; print one READY line when serving.

    Run as many as you like: they find everything they need in the GCS, and are found there. SIGHUP
    reads the configuration again. All other settings: rostral-scheduler config global show
    --default.
    """
    flags = given_flags(_GLOBAL)
    with errors_shown("rostral-scheduler"):
        configured = _GLOBAL.read(config_file, flags=flags)
        configure_logging(configured.values["log_level"])
        config = global_settings.with_token(configured.config)
        reload = Reloader(_GLOBAL, config_file, flags, configured)
        asyncio.run(_serve_global(configured.config, config, reload))


async def _serve_global(
    serving: global_settings.Serving, config: GlobalSchedulerConfig, reload: Callable[[], str]
) -> None:
    # Here, so that `--help` and usage errors do not wait for grpc.
    from rostral_scheduler.global_.daemon import GlobalScheduler

    async def started() -> GlobalScheduler:
        scheduler = GlobalScheduler(config)
        # It waits for the node table: that may take long.
        await scheduler.start()
        return scheduler

    async with ServiceLife(reload=reload) as life:
        scheduler = await life.patiently(started, GcsUnavailableError)
        if scheduler is None:
            return
        page = None
        try:
            if serving.metrics is not None:
                figures, times = partial(global_figures, scheduler), scheduler.placer.times
                page = serve_metrics(
                    "global_scheduler", serving.metrics, str(serving.token_file), figures, times
                )
            life.ready(f"serving at {scheduler.address}")
            click.echo(f"READY rostral-scheduler global at {scheduler.address}")
            sys.stdout.flush()
            await life.wait()
        finally:
            if page is not None:
                await asyncio.to_thread(page.close)
            await scheduler.stop()
