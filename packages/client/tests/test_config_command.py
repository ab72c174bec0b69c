"""`rostral config`: the files of services, their faults by line, and where each value is from."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rostral_gcs.auth import write_token

from .command_line import CommandLine
from .waiting import until

SERVICES = ["gcs", "global-scheduler", "local-scheduler", "objectstore"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_fault_is_told_with_its_line_and_the_nearest_key(
    command_line: CommandLine, tmp_path: Path, service: str
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text('# a comment\nlog_levle = "info"\n')
    ended = command_line.run("config", "check", service, "--config", str(file))
    assert (ended.returncode, ended.stdout) == (78, "")
    assert f"{file}:2: key 'log_levle' unknown, did you mean 'log_level'?" in ended.stderr
    told = command_line.run("config", "check", service, "--config", str(file), "--json")
    assert told.returncode == 78
    (checked,) = json.loads(told.stdout)["checked"]
    assert (checked["service"], len(checked["problems"])) == (service, 1)
    file.write_text('log_level = "info"\n')
    good = command_line.run("config", "check", service, "--config", str(file))
    assert (good.returncode, good.stdout) == (0, f"{file} is good\n")


@pytest.mark.parametrize("service", SERVICES)
def test_what_holds_is_shown_with_where_it_is_from(
    command_line: CommandLine, tmp_path: Path, service: str
) -> None:
    file = tmp_path / "file.toml"
    file.write_text('\nlog_level = "info"\n')
    shown = command_line.run("config", "show", service, "--config", str(file), "--origin")
    assert shown.returncode == 0, shown.stderr
    assert f'log_level = "info"  # {file}:2\n' in shown.stdout
    listed = command_line.run("config", "show", service, "--config", str(file), "--json")
    origins = {row["name"]: row["origin"] for row in json.loads(listed.stdout)["settings"]}
    assert origins.pop("log_level") == f"{file}:2"
    assert set(origins.values()) == {"default"}


def test_wrong_usage_is_said_as_such(command_line: CommandLine) -> None:
    nothing = command_line.run("config", "check", "gsc")
    assert (nothing.returncode, "one of: gcs, global-scheduler" in nothing.stderr) == (2, True)
    file = command_line.run("config", "check", "--config", "x.toml")
    assert (file.returncode, "say which SERVICE" in file.stderr) == (2, True)


def test_every_command_tells_in_json(command_line: CommandLine, tmp_path: Path) -> None:
    write_token(tmp_path / "token")
    pki, token = str(tmp_path / "pki"), ("--file", str(tmp_path / "token"))
    for words in (
        ["certs", "init", pki],
        ["certs", "issue", pki, "node", "--host", "10.0.0.1"],
        ["certs", "rotate", pki, "node"],
        ["token", "create", "alice", "--out", str(tmp_path / "alice"), *token],
        ["token", "rotate", *token],
        ["token", "show", *token],
        ["token", "revoke", "alice", "--yes", *token],
        ["stop"],
        ["config", "check"],
        ["doctor"],
    ):
        ended = command_line.run(*words, "--json")
        assert ended.returncode == 0, (words, ended.stderr)
        assert json.loads(ended.stdout)["schema"] == 1


def test_what_cannot_be_taken_back_is_not_done_unasked(
    command_line: CommandLine, tmp_path: Path
) -> None:
    assert command_line.run("certs", "init", str(tmp_path / "pki")).returncode == 0
    assert command_line.run("certs", "rotate", str(tmp_path / "pki"), "--ca").returncode == 0
    words = ["certs", "rotate", str(tmp_path / "pki"), "--finish-ca"]
    refused = command_line.run(*words)
    assert (refused.returncode, "Refusing without --yes" in refused.stderr) == (2, True)
    assert command_line.run(*words, "--yes").returncode == 0


@pytest.mark.slow
def test_ctrl_c_ends_a_command_without_a_word(command_line: CommandLine) -> None:
    command_line.start_head()
    program = str(Path(sys.executable).with_name("rostral"))
    with subprocess.Popen(
        [program, "logs", "node.log", "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        until(lambda: reads(following.pid, "node.log"), "its reading of the log")
        following.send_signal(signal.SIGINT)
        _, said = following.communicate(timeout=10)
    assert (following.returncode, said) == (130, "")


def reads(pid: int, name: str) -> bool:
    """True once process ``pid`` has a file called ``name`` open."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        # A descriptor listed a moment ago may be closed by now.
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(descriptor).endswith(f"/{name}"):
                return True
    return False
