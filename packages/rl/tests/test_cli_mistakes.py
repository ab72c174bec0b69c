"""What a newcomer meets at the command line: help, typos, missing extras, bad files, Ctrl-C."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from gymnasium import spaces
from safetensors.numpy import save_file

import rostral_rl as rl
from rostral_rl import forward
from rostral_rl.cli import main
from rostral_rl.errors import CheckpointMismatchError, ModelRejectedError, PolicyCorruptError
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.engine import Engine, EngineConfig
from rostral_rl.train.parts.snapshot import MANIFEST

POLICY = Policy(
    observation_space=spaces.Box(-np.inf, np.inf, (4,), np.float32),
    action_space=spaces.Discrete(2),
    spec=forward.NetSpec(inputs=4, hidden=(), outputs=2, activation="tanh", head="categorical"),
    weights={"pi.0.weight": np.ones((4, 2), np.float32), "pi.0.bias": np.zeros(2, np.float32)},
    info=PolicyInfo(algorithm="ppo", env="CartPole-v1", version=1),
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def examples(text: str) -> list[list[str]]:
    """The example commands that a help text ends with."""
    return [shlex.split(line) for line in re.findall(r"^  +rostral-rl (.+)$", text, re.MULTILINE)]


@pytest.mark.parametrize(
    "command",
    ["", "train", "evaluate", "record", "serve", "export", "bench"],
    ids=lambda c: c or "rostral-rl",
)
def test_help_ends_with_examples_that_the_command_line_accepts(command: str) -> None:
    shown = run(*command.split(), "--help")
    assert shown.exit_code == 0
    found = examples(shown.stdout)
    assert found
    for words in found:
        group: click.Command = main
        context = click.Context(main)
        while isinstance(group, click.Group):
            name = words.pop(0)
            chosen = group.get_command(context, name)
            assert chosen is not None, name
            group = chosen
        assert group.make_context(group.name, words).params


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trian",), "unknown command 'trian'; did you mean train"),
        (("sevre", "x"), "did you mean serve"),
        (("xyzzy",), "known: bench, config, evaluate, export"),
    ],
)
def test_a_misspelt_command_is_offered_the_nearest(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_missing_argument_and_a_misspelt_option_show_the_usage() -> None:
    for arguments in (("train", "ppo"), ("train", "ppo", "CartPole-v1", "--total-stpes", "3")):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "Usage:" in result.stderr
    assert "--total-steps" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("uvicorn", "serve {folder} --http 0", "serve"),
        ("httptools", "serve {folder} --http 0", "serve"),
        ("onnx", "export {folder} {folder}/policy.onnx", "onnx"),
        ("onnxruntime", "serve {folder}/policy.onnx", "onnx"),
        ("tensorboard", "train ppo CartPole-v1 --total-steps 8 --tensorboard --out {folder}", None),
    ],
)
def test_a_missing_extra_is_said_with_what_to_install(
    missing: str, command: str, extra: str | None, tmp_path: Path
) -> None:
    POLICY.save(tmp_path)
    (tmp_path / "policy.onnx").touch()
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from rostral_rl.cli import main; main(prog_name='rostral-rl')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *command.format(folder=tmp_path).split()],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = ended.stderr.strip().splitlines()
    assert f"pip install 'rostral-rl[{extra or missing}]'" in line
    assert missing in line


def test_weights_that_are_no_numbers_are_refused_wherever_they_come_from(tmp_path: Path) -> None:
    bad = {**POLICY.weights, "pi.0.bias": np.array([np.nan, 0.0], np.float32)}
    diverged = replace(POLICY, weights=bad)
    with pytest.raises(ModelRejectedError, match=r"pi\.0\.bias holds NaN"):
        Engine({"default": diverged}, EngineConfig())
    diverged.save(tmp_path)
    with pytest.raises(PolicyCorruptError, match=r"pi\.0\.bias holds NaN"):
        rl.load(tmp_path)
    for command in ("evaluate", "serve", "export"):
        result = run(command, str(tmp_path), *(["x.onnx"] if command == "export" else []))
        assert (result.exit_code, result.stdout) == (1, "")
        assert "pi.0.bias holds NaN or infinity" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["evaluate", "serve", "bench act"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "no policy folder at"),
        ("file", "no policy folder at"),
        ("weights.pkl", "would have to be unpickled"),
        ("empty", "holds no policy.json"),
        ("broken", "is not JSON"),
        ("foreign", "does not describe a rostral-policy"),
        ("changed", "its SHA-256 differs"),
        ("text.zip", "no file of Stable-Baselines3"),
        ("text.onnx", "text.onnx"),
    ],
)
def test_what_is_no_policy_is_said_in_a_line(
    command: str, name: str, said: str, tmp_path: Path
) -> None:
    for folder in ("empty", "broken", "foreign", "changed"):
        (tmp_path / folder).mkdir()
    for file in ("file", "weights.pkl", "text.zip", "text.onnx"):
        (tmp_path / file).write_text("text")
    (tmp_path / "broken/policy.json").write_text("{")
    (tmp_path / "foreign/policy.json").write_text('{"format": "other"}')
    POLICY.save(tmp_path / "changed")
    [weights] = (tmp_path / "changed").glob("*.safetensors")
    save_file({"pi.0.weight": np.zeros((4, 2), np.float32)}, weights)
    result = run(*command.split(), str(tmp_path / name))
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_checkpoint_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    small = rl.PPO(envs=2, steps=8, minibatch=8, epochs=1)
    with small.build("CartPole-v1", total_steps=32) as trainer:
        next(iter(trainer))
        trainer.save(tmp_path)
    with pytest.raises(CheckpointMismatchError, match="ppo"):
        rl.resume(tmp_path, algorithm="a2c")
    other = run("resume", str(tmp_path), "--env", "Acrobot-v1", "--no-progress")
    assert (other.exit_code, other.stdout) == (2, "")
    assert len(other.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_ends_a_training_with_a_word_on_how_to_go_on(workers: int, tmp_path: Path) -> None:
    command = (
        *(sys.executable, "-m", "rostral_rl", "train", "ppo", "CartPole-v1"),
        *("--total-steps", "100000000", "--workers", str(workers), "--out", str(tmp_path)),
        *("--checkpoint-every", "1", "--no-progress", "--set", "envs=4", "--set", "steps=64"),
    )
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            until_s = time.monotonic() + 60.0
            written = tmp_path / "checkpoint" / MANIFEST
            while not written.exists() and process.poll() is None:
                assert time.monotonic() < until_s
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, ""), said
    assert said.splitlines() == [
        f"rostral-rl: to go on: rostral-rl resume {tmp_path}/checkpoint",
        "rostral-rl: interrupted",
    ]
    resumed = run("resume", f"{tmp_path}/checkpoint", "--total-steps", "1", "--no-progress")
    assert resumed.exit_code == 0, resumed.output
