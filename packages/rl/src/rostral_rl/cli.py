"""The `rostral-rl` command: train, resume, evaluate, serve. It alone prints and sets exit codes."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import rostral_rl as rl
from rostral.exceptions import RostralError
from rostral.services import (
    DEFAULT,
    Flag,
    Reloader,
    ServiceLife,
    UnitFiles,
    config_group,
    config_option,
    configure_logging,
    errors_shown,
    given_flags,
    load_token,
    setting_options,
    systemd_group,
)
from rostral_rl.errors import InvalidSettingError, UsageError
from rostral_rl.serve.settings import SETTINGS

if TYPE_CHECKING:
    from rostral_rl.serve.http import PolicyServer


class _Group(click.Group):
    """Shows our errors, the engine's too, as one line: exit code 2 where the command was wrong."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except RostralError as error:
            click.echo(f"rostral-rl: {error}", err=True)
            ctx.exit(2 if isinstance(error, UsageError) else 1)


@click.group(cls=_Group)
@click.version_option(package_name="rostral-rl")
@click.option("-v", "--verbose", is_flag=True, help="Log to stderr what happens inside.")
def main(*, verbose: bool) -> None:
    """Simulate, train and serve reinforcement-learning policies."""
    configure_logging("debug" if verbose else "warning")


main.add_command(config_group(SETTINGS))
main.add_command(
    systemd_group(
        UnitFiles(
            "rostral_rl",
            "policy-server",
            names=["rostral-policy-server@.service"],
            configuration=SETTINGS.default_file,
            token="policy-token",
        )
    )
)


@main.command()
@click.argument("algorithm")
@click.argument("env")
@click.option(
    "--total-steps", default=100_000, show_default=True, help="Environment steps, at most."
)
@click.option("--seed", default=0, show_default=True, help="Root of every random stream.")
@click.option(
    "--workers", default=0, show_default=True, help="Rollout actors; 0 simulates in this process."
)
@click.option(
    "--address", help="Cluster to simulate on; without it one is started for --workers > 0."
)
@click.option(
    "--stop-at", type=float, help="Stop once 100 evaluation episodes reach this mean return."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the policy and its metrics."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting, as TOML: --set gamma=0.98.",
)
@click.option("--progress/--no-progress", default=True, help="The live view on stderr.")
@click.option(
    "--checkpoint-every", default=0, metavar="UPDATES", help="Write one into OUT/checkpoint."
)
@click.option("--tensorboard", is_flag=True, help="Write event files into OUT/tensorboard.")
@click.option(
    "--evaluate-every", default=0, metavar="UPDATES", help="Evaluate the policy so often."
)
@click.option("--evaluate-episodes", default=20, show_default=True, help="Episodes each time.")
@click.option("--evaluators", default=0, help="Actors that do it while the training goes on.")
def train(
    *,
    algorithm: str,
    env: str,
    total_steps: int,
    seed: int,
    workers: int,
    address: str | None,
    stop_at: float | None,
    out: Path | None,
    settings: tuple[str, ...],
    progress: bool,
    checkpoint_every: int,
    tensorboard: bool,
    evaluate_every: int,
    evaluate_episodes: int,
    evaluators: int,
) -> None:
    """Train ALGORITHM (ppo, dqn, sac, ...) on the Gymnasium environment ENV."""
    run = rl.train(
        algorithm,
        env,
        total_steps=total_steps,
        seed=seed,
        workers=workers,
        address=address,
        stop_at=stop_at,
        progress=progress,
        out=out,
        checkpoint_every=checkpoint_every,
        tensorboard=tensorboard,
        evaluate_every=evaluate_every,
        evaluate_episodes=evaluate_episodes,
        evaluators=evaluators,
        **_parse(settings),
    )
    click.echo(f"{run.env_steps:,} steps in {run.train_s:.1f} s; {run.evaluate()}")
    if out is not None:
        click.echo(f"policy saved in {out}")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--env", help="Environment, where the training was not given an id.")
@click.option("--total-steps", type=int, help="Another length than planned at first.")
@click.option(
    "--workers", default=0, show_default=True, help="Rollout actors, as many as you like."
)
@click.option("--address", help="Cluster to simulate on.")
@click.option("--stop-at", type=float, help="As for train.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for policy and metrics.")
@click.option("--progress/--no-progress", default=True, help="The live view on stderr.")
@click.option(
    "--checkpoint-every", default=0, metavar="UPDATES", help="Write one into OUT/checkpoint."
)
def resume(
    *,
    checkpoint: Path,
    env: str | None,
    total_steps: int | None,
    workers: int,
    address: str | None,
    stop_at: float | None,
    out: Path | None,
    progress: bool,
    checkpoint_every: int,
) -> None:
    """Go on with the training that CHECKPOINT was written by."""
    from rostral_rl.train.run import Reports, run_training

    reports = Reports(
        stop_at=stop_at, progress=progress, out=out, checkpoint_every=checkpoint_every
    )
    with rl.resume(
        checkpoint, env=env, total_steps=total_steps, workers=workers, address=address
    ) as trainer:
        run = run_training(trainer, reports)
    click.echo(f"{run.env_steps:,} steps in all; {run.evaluate()}")
    if out is not None:
        click.echo(f"policy saved in {out}")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--episodes", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True, help="The same seed plays the same episodes.")
@click.option("--env", help="Environment, where it is not the one the policy was trained in.")
@click.option("--sample", is_flag=True, help="Draw actions instead of taking the most likely.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object, with the return of every episode."
)
def evaluate(
    *, folder: Path, episodes: int, seed: int, env: str | None, sample: bool, as_json: bool
) -> None:
    """Play the policy in FOLDER and report its mean return, IQM and 95 % confidence interval."""
    policy = rl.load(folder)
    result = rl.evaluate(policy, _played(policy, env), episodes=episodes, seed=seed, sample=sample)
    click.echo(json.dumps(asdict(result)) if as_json else str(result))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--episodes", default=1, show_default=True)
@click.option("--seed", default=0, show_default=True, help="The same episodes as of evaluate.")
@click.option("--env", help="Environment, where it is not the one the policy was trained in.")
def record(*, folder: Path, file: Path, episodes: int, seed: int, env: str | None) -> None:
    """Play the policy in FOLDER and write what is to be seen to FILE, a video (.mp4)."""
    from rostral_rl.simulate.record import record as record_video

    policy = rl.load(folder)
    returns = record_video(policy, _played(policy, env), file, episodes=episodes, seed=seed)
    click.echo(f"{file}: returns {', '.join(f'{r:.1f}' for r in returns)}")


@main.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@config_option
@setting_options(
    SETTINGS,
    {
        "--http": "port",
        "--host": "host",
        "--token-file": "token_file",
        "--slo-ms": "slo_ms",
        "--log-level": "log_level",
    },
)
def serve(folder: Path | None, config_file: Path | None, **_: object) -> None:
    """Serve the policy in FOLDER until SIGTERM; the first line on stdout names the address.

    FOLDER may be an ONNX file, or a zip of Stable-Baselines3, too.

    SIGHUP reads the configuration again. All other settings: rostral-rl config show --default.
    """
    flags = given_flags(SETTINGS)
    if folder is not None:
        flags["folder"] = Flag("FOLDER", folder)
    with errors_shown("rostral-rl"):
        configured = SETTINGS.read(config_file, flags=flags)
        token_file = configured.config.token_file
        token = None if token_file is None else load_token(token_file)
    if configured.origins["log_level"] != DEFAULT:
        configure_logging(configured.values["log_level"])
    # Here, so that other commands need no web framework.
    from rostral_rl.serve.front import load
    from rostral_rl.serve.http import PolicyServer, loop_factory

    serving = configured.config
    server = PolicyServer(load(serving.folder), replace(serving.config, token=token))
    reload = Reloader(SETTINGS, config_file, flags, configured)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(server, serving.folder, reload))


async def _serve(server: PolicyServer, folder: Path, reload: Reloader) -> None:
    async with ServiceLife(probe=server.engine.probe, reload=reload) as life:

        def announce() -> None:
            life.ready(f"serving {folder} at {server.url}")
            click.echo(f"serving {folder} at {server.url}")
            sys.stdout.flush()

        ending = asyncio.create_task(life.wait())
        await server.serve_until(life.stopping, started=announce)
        await ending


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def export(*, folder: Path, file: Path) -> None:
    """Write the policy in FOLDER, or in a zip of Stable-Baselines3, to FILE as ONNX."""
    from rostral_rl.policy import Policy
    from rostral_rl.serve.export import export_onnx
    from rostral_rl.serve.front import load

    policy = load(folder)
    if not isinstance(policy, Policy):
        raise InvalidSettingError(f"{folder} is ONNX already")
    export_onnx(policy, file)
    click.echo(f"exported {folder} to {file}")


def _played(policy: rl.Policy, env: str | None) -> str:
    """Where to play a policy."""
    played = env or policy.info.env
    if played is None:
        raise InvalidSettingError(
            "the policy was not trained in an environment with an id", hint="give --env"
        )
    return played


def _parse(settings: tuple[str, ...]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for item in settings:
        try:
            parsed.update(tomllib.loads(item))
        except tomllib.TOMLDecodeError as error:
            raise InvalidSettingError(
                f"not a setting: {item!r}", hint="NAME=VALUE in TOML, gamma=0.98"
            ) from error
    return parsed
