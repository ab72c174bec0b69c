"""What the commands share: exit statuses, and data as a table for people or JSON for programs.

Data goes to standard output, words about it to standard error. JSON is one object with the number
of its form in `schema`; a field is added without a new number, and taken away or changed with one.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import click

from rostral_gcs.errors import (
    ConfigError,
    InsecureBindError,
    PermissionDeniedError,
    RostralError,
    TokenFileError,
    UnauthenticatedError,
    VersionMismatchError,
)

SCHEMA: Final = 1
EXIT_FAILED: Final = 1
EXIT_UNREACHABLE: Final = 3
EXIT_DENIED: Final = 4
EXIT_VERSION: Final = 5
EXIT_BAD_CONFIG: Final = 78
EXIT_TIMEOUT: Final = 124
EXIT_INTERRUPTED: Final = 130

# The first that fits: some of our errors are connection errors and something better besides.
_STATUSES: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (ConfigError, EXIT_BAD_CONFIG),
    (InsecureBindError, EXIT_BAD_CONFIG),
    (TokenFileError, EXIT_BAD_CONFIG),
    (UnauthenticatedError, EXIT_DENIED),
    (PermissionDeniedError, EXIT_DENIED),
    (VersionMismatchError, EXIT_VERSION),
    (ConnectionError, EXIT_UNREACHABLE),
    (TimeoutError, EXIT_TIMEOUT),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def status_of(error: BaseException) -> int:
    """The exit status that stands for the error."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), EXIT_FAILED)


def fail(error: BaseException) -> NoReturn:
    """Ends the command with the error's text and status."""
    click.echo(f"rostral: {error}", err=True)
    sys.exit(status_of(error))


@contextlib.contextmanager
def errors_shown() -> Iterator[None]:
    """Ends the command for errors of ours, in one line, and for Ctrl-C without a word."""
    try:
        yield
    except RostralError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


class Commands(click.Group):
    """A group that says which command was probably meant, and shows errors of ours in one line."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's own, with a hint for a misspelt name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            meant = f"{error.message.rstrip('.')}; did you mean {near[0]!r}?"
            raise click.UsageError(meant, ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        with errors_shown():
            return super().invoke(ctx)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if hasattr(value, "binary"):
        return value.binary().hex()
    return str(value)


def show_json(data: Mapping[str, Any]) -> None:
    """Prints the data as one object, on one line."""
    click.echo(json.dumps({"schema": SCHEMA, **data}, default=_plain))


def tell(text: str, data: Mapping[str, Any], *, as_json: bool) -> None:
    """Says what was done, in words or as one object."""
    if as_json:
        show_json(data)
    else:
        click.echo(text)


def confirm(question: str, *, yes: bool) -> None:
    """Asks before what cannot be taken back; where nobody can answer, refuses as wrong usage."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Refusing without --yes.")
    if not click.confirm(question, err=True):
        click.echo("left as it was", err=True)
        sys.exit(EXIT_FAILED)


yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def show(
    name: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, as_json: bool
) -> None:
    """Prints rows, as JSON or as a table.

    Args:
        name: Of the list in the JSON object, and in the words that say that it is empty.
        rows: What there is.
        columns: The keys to show in the table, by their heads.
        as_json: Whether to print all of it as JSON.
    """
    if as_json:
        show_json({name: rows})
        return
    if not rows:
        click.echo(f"no {name}", err=True)
        return
    table = [list(columns)] + [[_cell(row.get(key)) for key in columns.values()] for row in rows]
    widths = [max(len(line[at]) for line in table) for at in range(len(columns))]
    for line in table:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _cell(value: Any) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case bytes():
            return value.hex()
        case dict():
            return " ".join(f"{name}={_cell(item)}" for name, item in value.items()) or "-"
        case list() | tuple():
            return " ".join(_cell(item) for item in value) or "-"
    return printable(str(value))[:80]


def printable(text: str) -> str:
    """The text as it may go to a terminal: names are somebody's, and must not move its cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)
