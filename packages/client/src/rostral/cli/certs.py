"""`rostral certs`: a cluster's own certificates, for mutual TLS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rostral.cli.output import Commands, confirm, json_option, tell, yes_option

if TYPE_CHECKING:
    from rostral_gcs.certs import Issued

F = TypeVar("F", bound=Callable[..., Any])

folder_argument = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))


def _days(default: float) -> Callable[[F], F]:
    return click.option(
        "--days",
        type=click.FloatRange(min=0, min_open=True),
        default=default,
        show_default=True,
        help="How long it is valid.",
    )


def _tell(made: Issued, *, as_json: bool) -> None:
    until = made.until.strftime("%Y-%m-%d %H:%M UTC")
    said = f"{made.certificate_file} with {made.key_file}, valid until {until}"
    files = {
        "certificate": str(made.certificate_file),
        "key": str(made.key_file),
        "ca": str(made.ca_file),
        "until": made.until.isoformat(),
    }
    tell(said, files, as_json=as_json)


@click.group(cls=Commands)
def certs() -> None:
    r"""Make and change the certificates of a cluster, in FOLDER.

    \b
    rostral certs init pki
    rostral certs issue pki head --host 10.0.0.1
    rostral start --head --bind 10.0.0.1 --tls-certificate pki/head.crt \\
        --tls-key pki/head.key --tls-ca pki/ca.crt
    """


@certs.command()
@folder_argument
@_days(3650)
@json_option
def init(*, folder: Path, days: float, as_json: bool) -> None:
    r"""Make the cluster's authority. Keep its ca.key off the nodes.

    \b
    rostral certs init pki
    """
    from rostral_gcs.certs import init_ca

    _tell(init_ca(folder, days=days), as_json=as_json)


@certs.command()
@folder_argument
@click.argument("name")
@click.option(
    "--host", "hosts", multiple=True, help="A name or address at which others reach it; repeat it."
)
@click.option("--client", is_flag=True, help="For a process that nobody connects to.")
@_days(365)
@json_option
def issue(
    *, folder: Path, name: str, hosts: tuple[str, ...], client: bool, days: float, as_json: bool
) -> None:
    r"""Make a key and a certificate with the name NAME.

    \b
    rostral certs issue pki node7 --host node7.example --host 10.0.0.7
    rostral certs issue pki alice --client --days 30
    """
    from rostral_gcs import certs

    made = certs.issue(folder, name, hosts=hosts, days=days, server=not client)
    _tell(made, as_json=as_json)


@certs.command()
@folder_argument
@click.argument("name", default="")
@click.option("--ca", is_flag=True, help="A new authority; the old one stays trusted.")
@click.option("--finish-ca", is_flag=True, help="Trust the new authority alone.")
@_days(365)
@yes_option
@json_option
def rotate(
    *, folder: Path, name: str, ca: bool, finish_ca: bool, days: float, yes: bool, as_json: bool
) -> None:
    r"""Make a new certificate in the place of NAME, or a new authority.

    Servers take new files up by themselves. For a new authority: --ca, bring ca.crt everywhere,
    rotate every certificate, bring those everywhere, then --finish-ca.

    \b
    rostral certs rotate pki node7
    rostral certs rotate pki --ca
    """
    from rostral_gcs import certs

    if [bool(name), ca, finish_ca].count(True) != 1:
        raise click.UsageError("say one of: NAME, --ca, --finish-ca")
    if ca:
        made = certs.rotate_ca(folder)
    elif finish_ca:
        confirm("Certificates of the old authority end with this. Go on?", yes=yes)
        made = certs.finish_ca_rotation(folder)
    else:
        made = certs.rotate(folder, name, days=days)
    _tell(made, as_json=as_json)
