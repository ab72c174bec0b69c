"""What an operator asks of a running node: lists, logs, checks, tokens; and how commands end."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from rostral.cli.doctor import redact
from rostral_gcs.auth import load_token

from .command_line import CommandLine, program
from .waiting import until

pytestmark = pytest.mark.slow

AT_WORK = """
import sys, rostral
rostral.init(sys.argv[1], namespace="space")
held = rostral.put(b"x" * 200_000)

@rostral.remote
class Holder:
    def value(self):
        return 5

@rostral.remote
def wait(gate):
    open(gate, "w").close()
    import time
    while True:
        time.sleep(0.01)

holder = Holder.options(name="keeper").remote()
print(rostral.get(holder.value.remote()), flush=True)
running = wait.remote(sys.argv[2])
import os, time
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
print("running", flush=True)
sys.stdin.readline()
"""


def listed(line: CommandLine, *words: str) -> list[dict[str, Any]]:
    """The rows of a command with `--json`, which must be one object of our form."""
    ended = line.run(*words, "--json")
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer.pop("schema") == 1
    ((_, rows),) = answer.items()
    return list(rows)


def test_lists_show_what_runs(command_line: CommandLine, tmp_path: Path) -> None:
    address = command_line.start_head()
    driver = program(AT_WORK, address, str(tmp_path / "gate"))
    try:
        assert driver.stdout is not None
        assert [driver.stdout.readline().strip() for _ in range(2)] == ["5", "running"]
        (node,) = listed(command_line, "nodes")
        assert (node["state"], node["resources"]["CPU"]) == ("ALIVE", 2.0)
        (actor,) = listed(command_line, "actors", "--name", "keeper")
        assert (actor["class_name"], actor["state"], actor["namespace"]) == (
            "Holder",
            "ALIVE",
            "space",
        )
        claimed = [row for row in listed(command_line, "tasks") if row["state"] == "claimed"]
        assert [row["pid"] > 0 for row in claimed] == [True]
        assert {"state": "claimed", "count": 1} in listed(command_line, "tasks", "--summary")
        sizes = [row["size_bytes"] for row in listed(command_line, "objects", "--state", "sealed")]
        assert max(sizes) >= 200_000
        table = command_line.run("actors")
        assert table.stdout.splitlines()[0].split()[:3] == ["ACTOR", "CLASS", "STATE"]
        assert "keeper" in table.stdout
    finally:
        driver.kill()
        driver.wait()
        for stream in (driver.stdin, driver.stdout, driver.stderr):
            if stream is not None:
                stream.close()


def test_logs_checks_and_a_bundle_without_secrets(
    command_line: CommandLine, tmp_path: Path
) -> None:
    command_line.start_head()
    assert "node.log" in [row["name"] for row in listed(command_line, "logs")]
    assert command_line.run("logs", "node.log", "-n", "1").returncode == 0
    missing = command_line.run("logs", "../token")
    assert (missing.returncode, "NOT_FOUND" in missing.stderr) == (1, True)
    results = {row["check"]: row["result"] for row in listed(command_line, "doctor")}
    assert results["versions"] == "ok"
    assert results["runtime directory"] == "ok"
    (token_file,) = Path(command_line.runtime_dir).glob("session-*/token")
    out = tmp_path / "bundle.tar.gz"
    assert command_line.run("debug-bundle", "--out", str(out)).returncode == 0
    assert out.stat().st_mode & 0o777 == 0o600
    with tarfile.open(out) as bundle:
        names = [name.partition("/")[2] for name in bundle.getnames()]
        whole = b"".join(
            file.read() for one in bundle if (file := bundle.extractfile(one)) is not None
        )
    assert {"machine.json", "doctor.json", "logs/node.log"} <= set(names)
    assert load_token(token_file).encode() not in whole
    again = command_line.run("debug-bundle", "--out", str(out))
    assert (again.returncode, "ALREADY_EXISTS" in again.stderr) == (1, True)


def test_tokens_of_a_running_head(command_line: CommandLine, tmp_path: Path) -> None:
    address = command_line.start_head()
    alice = tmp_path / "alice.token"
    assert command_line.run("token", "create", "alice", "--out", str(alice)).returncode == 0
    assert [row["name"] for row in listed(command_line, "token", "show")] == ["", "alice"]
    hidden = command_line.run("token", "show")
    assert load_token(alice) not in hidden.stdout + hidden.stderr
    assert load_token(alice) in command_line.run("token", "show", "--reveal").stdout
    known = ["nodes", "--address", address, "--token-file", str(alice)]
    assert command_line.run(*known, "--timeout", "10").returncode == 0
    assert command_line.run("token", "rotate").returncode == 0
    assert len(listed(command_line, "nodes")) == 1
    asked = command_line.run("token", "revoke", "alice")
    assert (asked.returncode, "Refusing without --yes" in asked.stderr) == (2, True)
    assert command_line.run("token", "revoke", "alice", "--yes").returncode == 0
    # The head looks at its file once a second.
    until(lambda: command_line.run(*known).returncode != 0, "the end of the revoked token")
    refused = command_line.run(*known)
    assert (refused.returncode, "UNAUTHENTICATED" in refused.stderr) == (4, True)


def test_how_commands_end(command_line: CommandLine, tmp_path: Path) -> None:
    nobody = command_line.run("tasks")
    assert (nobody.returncode, "rostral start --head" in nobody.stderr) == (3, True)
    misspelt = command_line.run("nodse")
    assert (misspelt.returncode, "did you mean 'nodes'" in misspelt.stderr) == (2, True)
    open_file = tmp_path / "token"
    open_file.write_text("t" * 40)
    open_file.chmod(0o644)
    wide = command_line.run("nodes", "--address", "127.0.0.1:1", "--token-file", str(open_file))
    assert wide.returncode == 78
    open_file.chmod(0o600)
    away = command_line.run(
        *("nodes", "--address", "127.0.0.1:1", "--token-file", str(open_file), "--timeout", "1")
    )
    assert (away.returncode, "127.0.0.1:1" in away.stderr) == (3, True)
    assert all("Traceback" not in ended.stderr for ended in (nobody, misspelt, wide, away))
    shown = command_line.run("completion", "bash")
    assert (shown.returncode, "_ROSTRAL_COMPLETE" in shown.stdout) == (0, True)
    for name in ("nodes", "actors", "tasks", "objects", "logs", "doctor", "debug-bundle"):
        assert f"rostral {name}" in command_line.run(name, "--help").stdout


def test_what_looks_like_a_secret_is_not_bundled() -> None:
    line = 'GET /?token=abcdef123456 Authorization: "Bearer s3cr3ts3cr3t" password=hunter2222'
    assert not {"abcdef123456", "s3cr3ts3cr3t", "hunter2222"} & set(
        redact(line).replace("=", " ").replace('"', " ").split()
    )
    assert redact("a task took 5 s") == "a task took 5 s"
