"""`rostral config`: what the services of this machine would start with, and what is wrong with it.

Knows the services of the packages below by name; those above announce theirs under the entry point
``rostral.services``: the name of the service, and its ``Settings``.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import click

from rostral.cli.output import EXIT_BAD_CONFIG, Commands, json_option, show_json
from rostral_gcs.errors import ConfigError
from rostral_gcs.services.commands import CONFIGURATION_DIR, look_at, usual_file
from rostral_gcs.services.settings import Settings

_BELOW: Final = {
    "gcs": "rostral_gcs.gcs_settings",
    "global-scheduler": "rostral_scheduler.global_settings",
    "local-scheduler": "rostral_scheduler.local_settings",
    "objectstore": "rostral_objectstore.store_settings",
}
_GROUP: Final = "rostral.services"

file_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The file. [default: the service's in {CONFIGURATION_DIR}]",
)


def _names() -> list[str]:
    return sorted({*_BELOW, *(point.name for point in entry_points(group=_GROUP))})


def _settings(service: str) -> Settings[Any]:
    """Of the service. Raises click.UsageError."""
    if service in _BELOW:
        found: Settings[Any] = importlib.import_module(_BELOW[service]).SETTINGS
        return found
    for point in entry_points(group=_GROUP, name=service):
        announced: Settings[Any] = point.load()
        return announced
    known = ", ".join(_names())
    raise click.UsageError(f"No service {service[:80]!r} is installed; one of: {known}.")


def _files(service: str) -> list[Path]:
    """The files of a service on this machine; of a template's instances, each one's own."""
    return sorted(
        file
        for pattern in (f"{service}.toml", f"{service}-*.toml")
        for file in CONFIGURATION_DIR.glob(pattern)
    )


@click.group("config", cls=Commands)
def config() -> None:
    """Look at the configuration of the services on this machine."""


@config.command()
@click.argument("service", default="")
@file_option
@json_option
def check(*, service: str, config_file: Path | None, as_json: bool) -> None:
    r"""Say what is wrong with the files of SERVICE, or of all, with line; exit with 78 then.

    \b
    rostral config check
    rostral config check gcs --config gcs.toml
    rostral config check --json
    """
    if config_file is not None and not service:
        raise click.UsageError("say which SERVICE the file is of")
    chosen = [service] if service else _names()
    rows = []
    for name in chosen:
        settings = _settings(name)
        for file in [config_file] if config_file is not None else _files(name):
            problems: list[str] = []
            try:
                look_at(settings, file)
            except ConfigError as error:
                problems = list(error.problems or (error.message,))
            rows.append({"service": name, "file": str(file), "problems": problems})
    if as_json:
        show_json({"checked": rows})
    else:
        _tell(rows)
    if any(row["problems"] for row in rows):
        sys.exit(EXIT_BAD_CONFIG)


def _tell(rows: list[dict[str, Any]]) -> None:
    if not rows:
        click.echo(f"no service has a file in {CONFIGURATION_DIR}: the defaults hold", err=True)
    for row in rows:
        if not row["problems"]:
            click.echo(f"{row['file']} is good")
        for problem in row["problems"]:
            click.echo(problem, err=True)


@config.command("show")
@click.argument("service")
@file_option
@click.option("--origin", is_flag=True, help="Say where each value is from.")
@json_option
def show_config(*, service: str, config_file: Path | None, origin: bool, as_json: bool) -> None:
    r"""Print what holds for SERVICE, as TOML. JSON says where each value is from, too.

    \b
    rostral config show objectstore --origin
    rostral config show local-scheduler --config scheduler.toml --json
    """
    settings = _settings(service)
    configured = look_at(settings, config_file or usual_file(settings))
    if as_json:
        rows = [
            {"name": name, "value": value, "origin": configured.origins[name]}
            for name, value in configured.values.items()
        ]
        show_json({"service": service, "settings": rows})
        return
    click.echo(settings.show(configured, origin=origin), nl=False)
