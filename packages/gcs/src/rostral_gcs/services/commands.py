"""The commands that every service has: ``config`` and ``systemd``. Their layers are below.

Owns the options, what is printed and the exit statuses; every package's ``cli.py`` adds these
groups to its command.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from rostral_gcs.errors import (
    ConfigError,
    GcsUnavailableError,
    InsecureBindError,
    RostralError,
    TokenFileError,
)
from rostral_gcs.services.settings import Configured, Settings
from rostral_gcs.services.unit_files import UnitFiles

__all__ = [
    "CONFIGURATION_DIR",
    "config_group",
    "config_option",
    "errors_shown",
    "look_at",
    "systemd_group",
    "usual_file",
]

EXIT_CONFIG: Final = 78
CONFIGURATION_DIR: Final = Path("/etc/rostral")
"""Where the system's units have their configuration."""
# What the units ask systemd for.
_UNIT_FOLDERS: Final = {
    "RUNTIME_DIRECTORY": "/run/rostral/{}",
    "STATE_DIRECTORY": "/var/lib/rostral/{}",
    "CACHE_DIRECTORY": "/var/cache/rostral/{}",
    "CREDENTIALS_DIRECTORY": str(CONFIGURATION_DIR),
}
EXIT_FAILED: Final = 1

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file with settings; flags and environment are above it.",
)


@contextlib.contextmanager
def errors_shown(command: str, *, unreachable: int = EXIT_FAILED) -> Iterator[None]:
    """Says what went wrong on standard error and exits: 78 wrong configuration, 1 all else.

    ``unreachable``: the status when nothing answers, for commands that ask a service.
    """
    try:
        yield
    except RostralError as error:
        click.echo(f"{command}: {error}", err=True)
        wrong_config = isinstance(error, ConfigError | InsecureBindError | TokenFileError)
        if isinstance(error, GcsUnavailableError):
            sys.exit(unreachable)
        sys.exit(EXIT_CONFIG if wrong_config else EXIT_FAILED)


def usual_file(settings: Settings[Any]) -> Path | None:
    """The file that the system's unit of a service reads, if it is there."""
    file = CONFIGURATION_DIR / f"{settings.component}.toml"
    return file if file.exists() else None


def look_at(settings: Settings[Any], file: Path | None) -> Configured[None]:
    """What a service would be started with, seen as its unit does if the file is the unit's.

    Raises:
        ConfigError: With every fault of file and environment, each with its place.
    """
    if file is None or file.parent != CONFIGURATION_DIR:
        return settings.look(file)
    folders = {
        variable: folder.format(settings.component) for variable, folder in _UNIT_FOLDERS.items()
    }
    before = dict(os.environ)
    # The defaults depend on it: they are functions that ask where the service may write.
    os.environ.update({name: path for name, path in folders.items() if name not in before})
    try:
        return settings.look(file)
    finally:
        os.environ.clear()
        os.environ.update(before)


def config_group(
    settings: Settings[Any], *, initial: Mapping[str, object] | None = None
) -> click.Group:
    """``config check`` and ``config show`` for one service.

    Args:
        settings: Of the service.
        initial: What its first file says, for ``show --default``.
    """

    @click.group(name="config")
    def config() -> None:
        """Look at the configuration that the service would start with."""

    @config.command()
    @config_option
    def check(config_file: Path | None) -> None:
        """Say what is wrong, with file and line; exit 78 if anything is."""
        file = config_file or usual_file(settings)
        with errors_shown(f"rostral-{settings.component}"):
            look_at(settings, file)
        click.echo(f"{file or 'the default configuration'} is good")

    @config.command()
    @config_option
    @click.option(
        "--default", "as_default", is_flag=True, help="A commented file with the defaults."
    )
    @click.option("--origin", is_flag=True, help="Say where each value is from.")
    def show(config_file: Path | None, *, as_default: bool, origin: bool) -> None:
        """Print what holds, as TOML."""
        if as_default:
            click.echo(settings.default_file(initial), nl=False)
            return
        file = config_file or usual_file(settings)
        with errors_shown(f"rostral-{settings.component}"):
            configured = look_at(settings, file)
        click.echo(settings.show(configured, origin=origin), nl=False)

    return config


def systemd_group(*services: UnitFiles) -> click.Group:
    """``systemd install``, ``uninstall`` and ``show`` for the services of one package."""
    command = f"rostral-{services[0].component}"

    user_option = click.option("--user", is_flag=True, help="For your own service manager.")
    root_option = click.option(
        "--root",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("/"),
        help="Write into the system that lies there, and run nothing.",
    )

    @click.group(name="systemd")
    def systemd() -> None:
        """Run as services of systemd."""

    isolation_option = click.option(
        "--isolate-workers",
        "isolated",
        is_flag=True,
        help="Tasks run as a user of their own, who cannot read the token or end a daemon.",
        hidden=not any(service.isolation for service in services),
    )

    @systemd.command()
    @user_option
    @root_option
    @isolation_option
    @click.option("--dry-run", is_flag=True, help="Only say what would be written.")
    def install(*, user: bool, root: Path, isolated: bool, dry_run: bool) -> None:
        """Write units, users, directories and a first configuration; start nothing."""
        with errors_shown(command):
            for service in services:
                if dry_run:
                    for file in service.plan(user=user, root=root, isolated=isolated):
                        click.echo(f"would write {file.path}")
                    continue
                for line in service.install(user=user, root=root, isolated=isolated):
                    click.echo(line)

    @systemd.command()
    @user_option
    @root_option
    def uninstall(*, user: bool, root: Path) -> None:
        """Stop the services and remove their units; configuration and data stay."""
        with errors_shown(command):
            for service in services:
                for line in service.uninstall(user=user, root=root):
                    click.echo(line)

    @systemd.command()
    @user_option
    def show(*, user: bool) -> None:
        """Print the files as they would be written."""
        with errors_shown(command):
            for service in services:
                for file in service.plan(user=user):
                    click.echo(f"# {file.path}\n{file.text}")

    return systemd
