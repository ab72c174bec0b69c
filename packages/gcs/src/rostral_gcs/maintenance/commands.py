"""The commands ``backup``, ``restore``, ``verify`` and ``flush`` of ``rostral-gcs``.

Owns their options and what they print. All of them work on files; none needs a server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click

from rostral_gcs.data_dir import NO_DATA_HINT, DataDir
from rostral_gcs.errors import NotFoundError
from rostral_gcs.maintenance.backup import backup, restore
from rostral_gcs.maintenance.verify import cut_segment, verify_folder
from rostral_gcs.services.commands import EXIT_FAILED, errors_shown

__all__ = ["maintenance_commands"]

_EXIT_USAGE = 2


def maintenance_commands(default_data_dir: Callable[[], Path]) -> list[click.Command]:
    """The commands.

    Args:
        default_data_dir: Where the data lies when nobody says where.
    """
    data_dir_option = click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        default=default_data_dir,
        help="Where the data lies; by default where `serve` keeps it.",
    )

    @click.command(name="backup")
    @data_dir_option
    @click.argument("target", type=click.Path(path_type=Path))
    def backup_command(data_dir: Path, target: Path) -> None:
        """Copy the data to the new folder TARGET; the server may be running."""
        with errors_shown("rostral-gcs"):
            done = backup(data_dir, target)
        click.echo(f"{done.file_count} files, {done.size_bytes} bytes backed up to {target}")

    @click.command(name="restore")
    @data_dir_option
    @click.option("--yes", is_flag=True, help="Replace what is there without asking.")
    @click.argument("source", type=click.Path(path_type=Path))
    def restore_command(data_dir: Path, source: Path, *, yes: bool) -> None:
        """Put the backup SOURCE in the place of the data; the server must be stopped."""
        if (data_dir / "cluster.json").exists() and not yes:
            if not sys.stdin.isatty():
                click.echo("rostral-gcs: refusing to replace data without --yes", err=True)
                sys.exit(_EXIT_USAGE)
            click.confirm(f"Replace the data in {data_dir}?", abort=True)
        with errors_shown("rostral-gcs"):
            done = restore(source, data_dir)
        click.echo(f"{done.file_count} files, {done.size_bytes} bytes restored to {data_dir}")

    @click.command(name="verify")
    @click.option("--cut", is_flag=True, help="Keep of a segment what is before the damage.")
    @click.argument("folder", type=click.Path(path_type=Path), required=False)
    def verify_command(folder: Path | None, *, cut: bool) -> None:
        """Read all of FOLDER, data or a backup, and say what is damaged and where."""
        folder = folder if folder is not None else default_data_dir()
        with errors_shown("rostral-gcs"):
            count, damages = verify_folder(folder)
            for damage in damages:
                click.echo(f"{damage.path}: offset {damage.offset}: {damage.what}", err=True)
                if cut and damage.path.suffix == ".segment":
                    click.echo(f"cut; what was behind is in {cut_segment(damage)}", err=True)
        click.echo(f"{count} files, {len(damages)} damaged")
        if damages:
            sys.exit(EXIT_FAILED)

    @click.command(name="flush")
    @data_dir_option
    def flush_command(data_dir: Path) -> None:
        """Move finished tasks and all events to files; the server must be stopped."""
        with errors_shown("rostral-gcs"):
            count = _flush(data_dir)
        click.echo(f"{count} records moved to files")

    return [backup_command, restore_command, verify_command, flush_command]


def _flush(data_dir: Path) -> int:
    """Flushes every shard.

    Raises:
        NotFoundError: It is no data directory.
        DataDirLockedError: A server uses it.
        StorageError: The disk is full or failed.
    """
    try:
        shard_count = int(json.loads((data_dir / "cluster.json").read_bytes())["shard_count"])
    except FileNotFoundError as error:
        raise NotFoundError(f"{data_dir} is no data directory", hint=NO_DATA_HINT) from error
    directory = DataDir(data_dir, shard_count=shard_count)
    try:
        count = 0
        for index in range(shard_count):
            shard = directory.backend(index)
            try:
                shard.open()
                count += shard.flush()
            finally:
                shard.close()
        return count
    finally:
        directory.close()
