"""The `rostral-objectstore` command: what it prints, and its exit statuses."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from .store import COMMAND, DEADLINE_S, Store


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def test_stats_say_how_full_the_store_is(store: Store) -> None:
    handle = store.watcher.put(bytes(1 << 20))
    shown = run("stats", "--socket", store.socket)
    assert shown.returncode == 0
    assert shown.stdout.startswith("used ")
    assert f"of {512 << 20} bytes, 2 processes" in shown.stdout
    del handle


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_well_on_a_signal(folder: Path, number: signal.Signals) -> None:
    path = folder / "socket"
    command = [*COMMAND, "serve", "--socket", str(path), "--memory", str(16 << 20)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == f"serving at {path}\n"
        daemon.send_signal(number)
        _, errors = daemon.communicate(timeout=DEADLINE_S)
    assert (daemon.returncode, errors) == (0, "")
    assert not path.exists()


def test_an_unknown_option_or_command_is_a_usage_error() -> None:
    for arguments in (["serve", "--sockets", "x"], ["serve"], ["sing"], ["stats"]):
        wrong = run(*arguments)
        assert wrong.returncode == 2
        assert "Usage" in wrong.stderr
    assert run("serve", "--socket", "x", "--memory", "10 apples").returncode == 2


def test_a_wrong_configuration_is_exit_status_78(folder: Path) -> None:
    wrong = run("serve", "--socket", str(folder / "no" / "socket"), "--memory", "5")
    assert wrong.returncode == 78
    assert "memory_bytes is 5" in wrong.stderr
    assert "does not exist" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert run("serve", "--socket", str(folder / "socket"), "--memory", "0").returncode == 78


def test_where_nothing_listens_is_exit_status_3(folder: Path) -> None:
    wrong = run("stats", "--socket", str(folder / "socket"))
    assert wrong.returncode == 3
    assert f"nothing answers at {folder}/socket" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_help_and_version() -> None:
    assert "shared-memory object store" in run("--help").stdout
    assert run("--version").stdout.startswith("rostral-objectstore, version ")
