"""The command: train, evaluate and serve, with exit codes and words for scripts and people."""

from __future__ import annotations

import csv
import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rostral_rl.cli import main

SMALL = [
    *("--set", "envs=4"),
    *("--set", "steps=8"),
    *("--set", "minibatch=16"),
    *("--set", "epochs=1"),
]
ON_CLUSTER = ("train", "ppo", "CartPole-v1", "--workers", "2", "--address")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_train_evaluate_and_what_they_leave(tmp_path: Path) -> None:
    out = tmp_path / "cart"
    trained = run(
        *("train", "ppo", "CartPole-v1", "--total-steps", "64", "--seed", "3", *SMALL),
        *("--no-progress", "--out", str(out)),
    )
    assert trained.exit_code == 0, trained.output
    assert "64 steps" in trained.stdout
    assert trained.stderr == ""

    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["env_steps"] for row in rows] == ["32.0", "64.0"]
    assert [line["env_steps"] for line in lines] == [32.0, 64.0]

    evaluated = run("evaluate", str(out), "--episodes", "5", "--json")
    assert evaluated.exit_code == 0, evaluated.output
    result = json.loads(evaluated.stdout)
    assert len(result["returns"]) == 5
    assert result["mean"] == pytest.approx(sum(result["returns"]) / 5)
    assert "over 5 episodes" in run("evaluate", str(out), "--episodes", "5").stdout


def test_a_training_is_resumed_and_leaves_event_files(tmp_path: Path) -> None:
    out = str(tmp_path / "cart")
    trained = run(
        *("train", "ppo", "CartPole-v1", "--total-steps", "96", *SMALL, "--no-progress"),
        *("--out", out, "--checkpoint-every", "2", "--tensorboard"),
    )
    assert trained.exit_code == 0, trained.output
    assert list((tmp_path / "cart/tensorboard").glob("events.*"))
    resumed = run("resume", f"{out}/checkpoint", "--total-steps", "128", "--no-progress")
    assert resumed.exit_code == 0, resumed.output
    assert "128 steps in all; mean" in resumed.stdout
    missing = run("resume", str(tmp_path))
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "no checkpoint in" in missing.stderr


@pytest.mark.slow
def test_progress_goes_to_stderr_and_results_to_stdout() -> None:
    trained = run("train", "ppo", "CartPole-v1", "--total-steps", "64", *SMALL)
    assert "64/64" in trained.stderr
    assert "steps/s" in trained.stderr
    assert "mean" in trained.stdout and "64/64" not in trained.stdout


def test_a_port_in_use_and_a_foreign_environment_are_said_in_a_line(tmp_path: Path) -> None:
    out = str(tmp_path)
    assert (
        run("train", "ppo", "CartPole-v1", "--total-steps", "32", *SMALL, "--out", out).exit_code
        == 0
    )

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = run("serve", out, "--http", str(port))
    assert (served.exit_code, served.stdout) == (1, "")
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in served.stderr

    evaluated = run("evaluate", out, "--env", "Acrobot-v1")
    assert (evaluated.exit_code, evaluated.stdout) == (2, "")
    assert "the policy's observation_space is" in evaluated.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("train", "pppo", "CartPole-v1"), 2, "did you mean ppo"),
        (("train", "ppo", "CartPole-v11"), 2, "did you mean CartPole-v1"),
        (("train", "ppo", "CartPole-v1", "--set", "gama=1"), 2, "did you mean gamma?"),
        (("train", "ppo", "CartPole-v1", "--set", "gamma"), 2, "NAME=VALUE"),
        (("train", "ppo", "CartPole-v1", "--total-steps", "0"), 2, "total_steps"),
        (("train", "ppo", "CartPole-v1", "--seed", "-1"), 2, "seed"),
        (("train", "ppo", "CartPole-v1", "--out", "/proc/no"), 1, "cannot write /proc/no"),
        ((*ON_CLUSTER, "127.0.0.1:1"), 1, "nothing listens at 127.0.0.1:1"),
        ((*ON_CLUSTER, "nowhere"), 2, "HOST:PORT"),
        (("evaluate", "no-such-folder"), 1, "no policy folder at no-such-folder"),
        (("serve", "no-such-folder"), 1, "no policy folder at no-such-folder"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
