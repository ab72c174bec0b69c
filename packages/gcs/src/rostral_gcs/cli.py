"""The command ``rostral-gcs``: the only place where command line and environment are read.

Exit status: 0 done, 2 wrong usage, 78 wrong configuration, 1 any other typed error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from rostral_gcs.auth import load_token, write_token
from rostral_gcs.config import GcsConfig
from rostral_gcs.errors import (
    ConfigError,
    InsecureBindError,
    RostralError,
    StorageError,
    TokenFileError,
)

__all__ = ["main"]

_EXIT_CONFIG: Final = 78
_EXIT_FAILED: Final = 1


def _default_data_dir() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "rostral" / "gcs"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rostral-gcs")
def main() -> None:
    """The Global Control Store of Rostral."""


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
def token(file: Path) -> None:
    """Make a new cluster token in FILE, mode 0600."""
    with _errors_shown():
        write_token(file)
    click.echo(f"token written to {file}")


@main.command()
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=6380, show_default=True, help="TCP port; 0 takes any free one.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where the data lies.  [default: ~/.local/state/rostral/gcs]",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="The cluster token.  [default: DATA_DIR/token, made when missing]",
)
@click.option(
    "--port-file",
    type=click.Path(path_type=Path),
    help="Write the bound port here when ready; removed at the end.",
)
@click.option("--shards", default=1, show_default=True, help="Number of shards, fixed at first.")
@click.option("--insecure", is_flag=True, help="Allow more than loopback without TLS.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
)
def serve(
    *,
    bind: str,
    port: int,
    data_dir: Path | None,
    token_file: Path | None,
    port_file: Path | None,
    shards: int,
    insecure: bool,
    log_level: str,
) -> None:
    """Serve until SIGTERM or SIGINT; print one line with the address when ready."""
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    with _errors_shown():
        folder = data_dir if data_dir is not None else _default_data_dir()
        config = GcsConfig(
            data_dir=folder,
            token=_read_token(folder, token_file),
            bind=bind,
            port=port,
            insecure=insecure,
            shard_count=shards,
        )
        config.validate()
        asyncio.run(_serve(config, port_file))


def _read_token(data_dir: Path, token_file: Path | None) -> str:
    if token_file is not None:
        return load_token(token_file)
    path = data_dir / "token"
    if not path.exists():
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make data directory {data_dir}: {error.strerror}",
                hint="choose a directory you may write to with --data-dir",
            ) from error
        # Two first starts at once: the one that comes second reads what the first made.
        with contextlib.suppress(TokenFileError):
            return write_token(path)
    return load_token(path)


async def _serve(config: GcsConfig, port_file: Path | None) -> None:
    # Here, so that `--help` and usage errors do not wait for grpc.
    from rostral_gcs.service import GcsServer

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = GcsServer(config)
    port = await server.start()
    try:
        if port_file is not None:
            await asyncio.to_thread(_write_port, port_file, port)
        click.echo(f"rostral-gcs serving at {server.address}")
        sys.stdout.flush()
        await stopped.wait()
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


@contextlib.contextmanager
def _errors_shown() -> Iterator[None]:
    try:
        yield
    except RostralError as error:
        click.echo(f"rostral-gcs: {error}", err=True)
        wrong_config = isinstance(error, ConfigError | InsecureBindError | TokenFileError)
        sys.exit(_EXIT_CONFIG if wrong_config else _EXIT_FAILED)
