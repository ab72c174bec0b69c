"""The `rostral-rl` command: train, resume, evaluate, serve, export, bench.

Exit status: 0 done, 1 the surroundings are wrong, 2 the command is, 78 the configuration is, 130
interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

import rostral_rl as rl
from rostral.exceptions import RostralError
from rostral.services import (
    DEFAULT,
    Flag,
    Reloader,
    ServiceLife,
    Tokens,
    UnitFiles,
    config_group,
    config_option,
    configure_logging,
    errors_shown,
    given_flags,
    inherited_socket,
    setting_options,
    systemd_group,
)
from rostral_rl.cli_bench import bench, load_policy, parse_settings
from rostral_rl.errors import InvalidSettingError, UsageError
from rostral_rl.names import unknown_name
from rostral_rl.serve.settings import SETTINGS

if TYPE_CHECKING:
    from rostral_rl.serve.http import PolicyServer


CHECKPOINT_FILE = "checkpoint.json"  # Written last; torch need not be imported to know it.
EXIT_INTERRUPTED = 128 + 2  # As a shell says that SIGINT ended a command.


class _Group(click.Group):
    """Shows our errors, the engine's too, as one line: exit code 2 where the command was wrong."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except RostralError as error:
            click.echo(f"rostral-rl: {error}", err=True)
            ctx.exit(2 if isinstance(error, UsageError) else 1)
        except KeyboardInterrupt:
            click.echo("rostral-rl: interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise unknown_name("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


@contextlib.contextmanager
def _interruptible(checkpoints: Path | None) -> Iterator[None]:
    """Says how an interrupted training goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if checkpoints is not None and (checkpoints / CHECKPOINT_FILE).exists():
            click.echo(f"rostral-rl: to go on: rostral-rl resume {checkpoints}", err=True)
        raise


def _examples(*lines: str) -> str:
    """What `--help` ends with."""
    return "\n".join(("\b", "Examples:", *(f"  rostral-rl {line}" for line in lines)))


@click.group(
    cls=_Group,
    epilog=_examples(
        "train ppo CartPole-v1 --stop-at 475 --out cartpole",
        "evaluate cartpole",
        "serve cartpole --http 8080",
    ),
)
@click.version_option(package_name="rostral-rl")
@click.option("-v", "--verbose", is_flag=True, help="Log to stderr what happens inside.")
def main(*, verbose: bool) -> None:
    """Simulate, train and serve reinforcement-learning policies."""
    configure_logging("debug" if verbose else "warning")


main.add_command(bench)
main.add_command(config_group(SETTINGS))
main.add_command(
    systemd_group(
        UnitFiles(
            "rostral_rl",
            "policy-server",
            names=["rostral-policy-server@.service", "rostral-policy-server@.socket"],
            configuration=SETTINGS.default_file,
            token="policy-token",
        )
    )
)


@main.command(
    epilog=_examples(
        "train ppo CartPole-v1 --stop-at 475 --out cartpole",
        "train dqn CartPole-v1 --set lr=1e-3 --set 'hidden=[128, 128]'",
        "train ppo CartPole-v1 --workers 2 --out cartpole --checkpoint-every 10",
        "resume cartpole/checkpoint --workers 4",
    )
)
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
    chosen = parse_settings(settings)
    with _interruptible(None if out is None else out / "checkpoint"):
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
            **chosen,
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


@main.command(
    epilog=_examples(
        "evaluate cartpole --episodes 20",
        "evaluate cartpole --json",
        "evaluate ppo.zip --env CartPole-v1",
    )
)
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
    policy = load_policy(folder)
    result = rl.evaluate(policy, _played(policy, env), episodes=episodes, seed=seed, sample=sample)
    click.echo(json.dumps(asdict(result)) if as_json else str(result))


@main.command(epilog=_examples("record cartpole cartpole.mp4 --episodes 2"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--episodes", default=1, show_default=True)
@click.option("--seed", default=0, show_default=True, help="The same episodes as of evaluate.")
@click.option("--env", help="Environment, where it is not the one the policy was trained in.")
def record(*, folder: Path, file: Path, episodes: int, seed: int, env: str | None) -> None:
    """Play the policy in FOLDER and write what is to be seen to FILE, a video (.mp4)."""
    from rostral_rl.simulate.record import record as record_video

    policy = load_policy(folder)
    returns = record_video(policy, _played(policy, env), file, episodes=episodes, seed=seed)
    click.echo(f"{file}: returns {', '.join(f'{r:.1f}' for r in returns)}")


@main.command(
    epilog=_examples(
        "serve cartpole --http 8080 --slo-ms 5",
        "serve policy.onnx --host 0.0.0.0 --token-file token",
        "serve --config /etc/rostral/policy-server.toml",
    )
)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@config_option
@setting_options(
    SETTINGS,
    {
        "--http": "port",
        "--host": "host",
        "--token-file": "token_file",
        "--tls-certificate": "tls_certificate_file",
        "--tls-key": "tls_key_file",
        "--tls-ca": "tls_ca_file",
        "--insecure": "insecure",
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
        token = None if token_file is None else Tokens(token_file)
    if configured.origins["log_level"] != DEFAULT:
        configure_logging(configured.values["log_level"])
    # Here, so that other commands need no web framework.
    from rostral_rl.serve.front import load
    from rostral_rl.serve.http import PolicyServer, loop_factory

    serving = configured.config
    policy = load(serving.folder)
    with errors_shown("rostral-rl"):  # Of TLS files, which are read here, and of the listener.
        config = replace(serving.config, token=token)
        server = PolicyServer(policy, config, listener=inherited_socket("http"))
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


@main.command(epilog=_examples("export cartpole cartpole.onnx"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def export(*, folder: Path, file: Path) -> None:
    """Write the policy in FOLDER, or in a zip of Stable-Baselines3, to FILE as ONNX."""
    from rostral_rl.serve.export import export_onnx

    export_onnx(load_policy(folder), file)
    click.echo(f"exported {folder} to {file}")


def _played(policy: rl.Policy, env: str | None) -> str:
    """Where to play a policy."""
    played = env or policy.info.env
    if played is None:
        raise InvalidSettingError(
            "the policy was not trained in an environment with an id", hint="give --env"
        )
    return played
