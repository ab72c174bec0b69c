"""`rostral-rl bench`: measures, prints a line each, or JSON. Owns no measurement."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rostral_rl.errors import InvalidSettingError

if TYPE_CHECKING:
    from rostral_rl.policy import Policy

__all__ = ["bench", "load_policy", "parse_settings"]

SECONDS = click.option(
    "--seconds", default=3.0, show_default=True, help="How long each measurement takes."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
EXAMPLES = """
\b
Examples:
  rostral-rl bench simulate CartPole-v1 --envs 256
  rostral-rl bench train ppo CartPole-v1 --workers 2
  rostral-rl bench act cartpole
  rostral-rl bench serve cartpole --clients 1 --clients 64
"""


@click.group(epilog=EXAMPLES)
def bench() -> None:
    """Measure how fast this machine simulates, trains, acts and serves."""


@bench.command()
@click.argument("env")
@click.option("--envs", default=64, show_default=True, help="Environments at once.")
@SECONDS
@AS_JSON
def simulate(*, env: str, envs: int, seconds: float, as_json: bool) -> None:
    """Step the Gymnasium environment ENV in this process, with random actions."""
    from rostral_rl import measure

    found = measure.simulation(env, envs=envs, seconds=seconds)
    _show(found, "{env}, {envs} at once: {steps_per_s:,.0f} steps/s", as_json=as_json)


@bench.command()
@click.argument("algorithm")
@click.argument("env")
@click.option("--workers", default=0, show_default=True, help="Rollout actors.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="As for train.")
@SECONDS
@AS_JSON
def train(
    *,
    algorithm: str,
    env: str,
    workers: int,
    settings: tuple[str, ...],
    seconds: float,
    as_json: bool,
) -> None:
    """Train ALGORITHM on ENV for some seconds; nothing is kept."""
    from rostral_rl import measure

    found = measure.training(
        algorithm, env, parse_settings(settings), workers=workers, seconds=seconds
    )
    line = (
        "{algorithm} on {env}: {steps_per_s:,.0f} steps/s; "
        "{simulating:.0%} of the time simulating, {learning:.0%} learning"
    )
    _show(found, line, as_json=as_json)


@bench.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--batch", default=1, show_default=True, help="Observations in a call.")
@SECONDS
@AS_JSON
def act(*, folder: Path, batch: int, seconds: float, as_json: bool) -> None:
    """Call the policy in FOLDER, in this process."""
    from rostral_rl import measure

    found = measure.acting(load_policy(folder), batch=batch, seconds=seconds)
    line = (
        "batches of {batch}: p50 {p50_us:.0f} us, p99 {p99_us:.0f} us, "
        "{observations_per_s:,.0f} observations/s"
    )
    _show(found, line, as_json=as_json)


@bench.command()
@click.argument("target", metavar="FOLDER|URL")
@click.option(
    "--clients", multiple=True, type=int, default=(1, 64), show_default=True, help="Once or more."
)
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="For a server that wants a token."
)
@SECONDS
@AS_JSON
def serve(
    *, target: str, clients: tuple[int, ...], token_file: Path | None, seconds: float, as_json: bool
) -> None:
    """Ask a server over HTTP: one that runs at URL, or one started for the policy in FOLDER."""
    from rostral.services import load_token
    from rostral_rl import measure

    token = None if token_file is None else load_token(token_file)
    line = "{clients} at once: {requests_per_s:,.0f}/s, p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms"

    def ask(url: str) -> None:
        for count in clients:
            found = measure.serving(url, clients=count, seconds=seconds, token=token)
            _show(found, line, as_json=as_json)

    if target.startswith(("http://", "https://")):
        ask(target)
    else:
        with measure.server_of(Path(target)) as url:
            ask(url)


def load_policy(source: Path) -> Policy:
    """A policy that can be called: from a folder of ours, or a zip of Stable-Baselines3.

    Raises:
        InvalidSettingError: An ONNX file, which can only be served.
        PolicyNotFoundError, ModelRejectedError: As for `rl.serve`.
    """
    from rostral_rl.policy import Policy
    from rostral_rl.serve.front import load

    policy = load(source)
    if not isinstance(policy, Policy):
        raise InvalidSettingError(f"{source} is ONNX already", hint="it can be served")
    return policy


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """`--set NAME=VALUE`, as often as it was given, by name.

    Raises:
        InvalidSettingError: Not of that form.
    """
    parsed: dict[str, Any] = {}
    for item in settings:
        try:
            parsed.update(tomllib.loads(item))
        except tomllib.TOMLDecodeError as error:
            raise InvalidSettingError(
                f"not a setting: {item!r}", hint="NAME=VALUE in TOML, gamma=0.98"
            ) from error
    return parsed


def _show(found: dict[str, Any], line: str, *, as_json: bool) -> None:
    click.echo(json.dumps(found) if as_json else line.format(**found))
