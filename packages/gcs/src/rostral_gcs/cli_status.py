"""The command ``rostral-gcs status``: are these servers there, and do they do their work?

Exit status: 0 all serve, 1 one does not, 3 one does not answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from typing import Final

import click

from rostral_gcs.errors import GcsError, GcsUnavailableError

__all__ = ["EXIT_UNREACHABLE", "status"]

_EXIT_NOT_SERVING: Final = 1
EXIT_UNREACHABLE: Final = 3


@dataclass(frozen=True, slots=True)
class _Answer:
    address: str
    status: str
    took_ms: float
    error: str


@click.command()
@click.option(
    "--address",
    default="127.0.0.1:6380",
    show_default=True,
    help="HOST:PORT of a server; several with commas between.",
)
@click.option("--timeout", default=2.0, show_default=True, help="Seconds to wait for each.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def status(*, address: str, timeout: float, as_json: bool) -> None:
    """Ask servers whether they serve; needs no token."""
    answers = asyncio.run(_ask_all(address.split(","), timeout))
    if as_json:
        shown = {"schema": 1, "servers": [asdict(answer) for answer in answers]}
        click.echo(json.dumps(shown))
    else:
        for answer in answers:
            click.echo(f"{answer.address}  {answer.status}  {answer.took_ms:.1f} ms")
            if answer.error:
                click.echo(f"rostral-gcs: {answer.error}", err=True)
    if any(answer.status == "UNREACHABLE" for answer in answers):
        sys.exit(EXIT_UNREACHABLE)
    if any(answer.status != "SERVING" for answer in answers):
        sys.exit(_EXIT_NOT_SERVING)


async def _ask_all(addresses: list[str], timeout_s: float) -> list[_Answer]:
    return list(await asyncio.gather(*(_ask(one.strip(), timeout_s) for one in addresses)))


async def _ask(address: str, timeout_s: float) -> _Answer:
    from rostral_gcs.health import ask_health

    loop = asyncio.get_running_loop()
    started_s = loop.time()
    try:
        found, error = await ask_health(address, timeout_s), ""
    except GcsUnavailableError as failure:
        found, error = "UNREACHABLE", str(failure)
    except GcsError as failure:
        found, error = "SERVICE_UNKNOWN", str(failure)
    return _Answer(address, found, round((loop.time() - started_s) * 1e3, 2), error)
