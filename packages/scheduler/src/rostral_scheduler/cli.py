"""The command ``rostral-scheduler``: the only place where command line and environment are read.

Exit status: 0 done, 2 wrong usage, 78 wrong configuration, 1 any other typed error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from rostral_gcs.auth import load_token
from rostral_gcs.errors import ConfigError, InsecureBindError, RostralError, TokenFileError
from rostral_scheduler.config import LocalSchedulerConfig, default_cpu_count
from rostral_scheduler.global_.config import GlobalSchedulerConfig

__all__ = ["main"]

_EXIT_CONFIG: Final = 78
_EXIT_FAILED: Final = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rostral-scheduler")
def main() -> None:
    """The schedulers of Rostral."""


@main.command()
@click.option("--store-socket", required=True, help="The object store's socket on this node.")
@click.option("--socket", "socket_path", required=True, help="Where to listen.")
@click.option(
    "--session-dir",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="For the workers' logs; made when missing.",
)
@click.option("--num-cpus", type=float, help="CPUs to hand out.  [default: all that we may use]")
@click.option("--num-gpus", default=0, show_default=True, help="GPUs to hand out.")
@click.option(
    "--resource",
    "resources",
    multiple=True,
    metavar="NAME=AMOUNT",
    help="A further resource; may be repeated.",
)
@click.option("--worker-module", help="What workers run.  [default: rostral.worker:main]")
@click.option("--gcs", metavar="HOST:PORT", help="The GCS.  [default: none, this node is alone]")
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="The cluster token, with --gcs."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
)
def local(
    *,
    store_socket: str,
    socket_path: str,
    session_dir: Path,
    num_cpus: float | None,
    num_gpus: int,
    resources: tuple[str, ...],
    worker_module: str | None,
    gcs: str | None,
    token_file: Path | None,
    log_level: str,
) -> None:
    """Schedule this node until SIGTERM or SIGINT; print one READY line when serving."""
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    if (gcs is None) != (token_file is None):
        raise click.UsageError("--gcs and --token-file go together")
    defaults = LocalSchedulerConfig.__dataclass_fields__
    with _errors_shown():
        config = LocalSchedulerConfig(
            store_socket=store_socket,
            socket_path=socket_path,
            session_dir=session_dir,
            num_cpus=default_cpu_count() if num_cpus is None else num_cpus,
            num_gpus=num_gpus,
            resources=dict(_parse_resource(text) for text in resources),
            worker_module=worker_module or str(defaults["worker_module"].default),
            gcs_address=gcs,
            gcs_token="" if token_file is None else load_token(token_file),
        )
        config.validate()
        asyncio.run(_serve(config))


@main.command("global")
@click.option("--gcs", required=True, metavar="HOST:PORT", help="The GCS.")
@click.option(
    "--token-file",
    required=True,
    type=click.Path(path_type=Path),
    help="The cluster token.",
)
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default=True, help="TCP port; 0 takes any free one.")
@click.option("--advertise", default="", help="The host others reach it at.  [default: --bind]")
@click.option("--insecure", is_flag=True, help="Allow more than loopback without TLS.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
)
def global_(
    *,
    gcs: str,
    token_file: Path,
    bind: str,
    port: int,
    advertise: str,
    insecure: bool,
    log_level: str,
) -> None:
    """Place tasks of all nodes until SIGTERM or SIGINT; print one READY line when serving.

    Run as many as you like: they find everything they need in the GCS, and are found there.
    """
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    with _errors_shown():
        config = GlobalSchedulerConfig(
            gcs_address=gcs,
            token=load_token(token_file),
            bind=bind,
            port=port,
            advertise=advertise,
            insecure=insecure,
        )
        config.validate()
        asyncio.run(_serve_global(config))


async def _serve_global(config: GlobalSchedulerConfig) -> None:
    # Here, so that `--help` and usage errors do not wait for grpc.
    from rostral_scheduler.global_.daemon import GlobalScheduler

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    scheduler = GlobalScheduler(config)
    starting = asyncio.ensure_future(scheduler.start())
    stopping = asyncio.ensure_future(stopped.wait())
    try:
        # It waits for the node table: that may take long, and must not outlast a SIGTERM.
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            click.echo(f"READY rostral-scheduler global at {scheduler.address}")
            sys.stdout.flush()
            await stopping
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await scheduler.stop()


def _parse_resource(text: str) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    try:
        return name, float(amount)
    except ValueError as error:
        raise click.UsageError(f"--resource {text!r}: give NAME=AMOUNT") from error


async def _serve(config: LocalSchedulerConfig) -> None:
    # Here, so that `--help` and usage errors wait for nothing.
    from rostral_scheduler.local.daemon import LocalScheduler

    scheduler = LocalScheduler(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, scheduler.stopping.set)
    await scheduler.start()
    try:
        click.echo(f"READY rostral-scheduler local at {config.socket_path}")
        sys.stdout.flush()
        await scheduler.stopping.wait()
    finally:
        await scheduler.stop()


@contextlib.contextmanager
def _errors_shown() -> Iterator[None]:
    try:
        yield
    except RostralError as error:
        click.echo(f"rostral-scheduler: {error}", err=True)
        wrong_config = isinstance(error, ConfigError | InsecureBindError | TokenFileError)
        sys.exit(_EXIT_CONFIG if wrong_config else _EXIT_FAILED)
