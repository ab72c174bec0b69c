"""`rostral token`: the tokens of a cluster's token file."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Any

import click

from rostral.cli.output import Commands, confirm, json_option, show, show_json, tell, yes_option
from rostral.cli.reach import records


def file_option(command: Any) -> Any:
    """The option `--file`."""
    return click.option(
        "--file",
        "file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The cluster's token file. [default: that of this user's head on this machine]",
    )(command)


def _file(given: Path | None) -> Path:
    return Path(records()[-1].token_file) if given is None else given


@click.group(cls=Commands)
def token() -> None:
    """Make, change and take away the cluster's tokens; servers follow within a second."""


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["read", "driver", "node"]),
    default="driver",
    show_default=True,
    help="read: look; driver: change, too; node: everything.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A new file of mode 0600 for whom it is made.",
)
@json_option
@file_option
def create(*, name: str, scope: str, out: Path, as_json: bool, file: Path | None) -> None:
    r"""Make a token with the name NAME, and write it to a file for its holder.

    \b
    rostral token create alice --scope read --out alice.token
    """
    from rostral_gcs.auth import write_text
    from rostral_gcs.tokens import Scope, add_token, revoke_token

    path = _file(file)
    grant = add_token(path, scope=Scope[scope.upper()], name=name)
    try:
        write_text(out, grant.token)
    except BaseException:
        revoke_token(path, name)
        raise
    said = f"token {name} of scope {scope} written to {out}"
    tell(said, {"name": name, "scope": scope, "file": str(out)}, as_json=as_json)


@token.command()
@click.argument("name", default="")
@click.option(
    "--window",
    "window_s",
    type=click.FloatRange(min=0),
    default=3600.0,
    show_default=True,
    help="Seconds for which the old one stays valid.",
)
@json_option
@file_option
def rotate(*, name: str, window_s: float, as_json: bool, file: Path | None) -> None:
    r"""Put a new token in the place of NAME, or of the cluster's own.

    Bring the file to every machine within the window.

    \b
    rostral token rotate --window 7200
    """
    from rostral_gcs.tokens import rotate_token

    path = _file(file)
    rotate_token(path, window_s=window_s, name=name)
    said = f"{name or 'the cluster token'} is new in {path}; the old one ends in {window_s:g} s"
    tell(said, {"name": name, "file": str(path), "window_s": window_s}, as_json=as_json)


@token.command()
@click.argument("name")
@yes_option
@json_option
@file_option
def revoke(*, name: str, yes: bool, as_json: bool, file: Path | None) -> None:
    r"""Take the token NAME away at once; `rotated` stands for those that were rotated out.

    \b
    rostral token revoke alice
    rostral token revoke rotated --yes
    """
    from rostral_gcs.tokens import revoke_token

    path = _file(file)
    confirm(f"Whoever uses the token {name[:80]} of {path} is shut out. Go on?", yes=yes)
    count = revoke_token(path, name)
    said = f"{count} token{'s' if count != 1 else ''} taken away"
    tell(said, {"name": name, "revoked": count}, as_json=as_json)


@token.command("show")
@click.option("--reveal", is_flag=True, help="The tokens themselves too.")
@json_option
@file_option
def show_tokens(*, reveal: bool, as_json: bool, file: Path | None) -> None:
    r"""List the tokens: whose, for what, until when; not themselves unless asked for.

    \b
    rostral token show
    rostral token show --reveal
    """
    from rostral_gcs.tokens import read_grants

    rows: list[dict[str, Any]] = []
    for grant in read_grants(_file(file)):
        until = grant.until_s
        ends = None if until is None else dt.datetime.fromtimestamp(until, dt.UTC).isoformat()
        row = {
            "name": grant.name,
            "scope": grant.scope.name.lower(),
            "until": ends,
            "fingerprint": hashlib.sha256(grant.token.encode()).hexdigest()[:16],
        }
        rows.append({**row, "token": grant.token} if reveal else row)
    if as_json:
        show_json({"tokens": rows})
        return
    columns = {"NAME": "name", "SCOPE": "scope", "UNTIL": "until", "SHA-256": "fingerprint"}
    show("tokens", rows, {**columns, "TOKEN": "token"} if reveal else columns, as_json=False)
