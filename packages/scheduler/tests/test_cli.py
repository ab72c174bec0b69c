"""The command: starts, says so, stops, leaves nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from rostral_objectstore.control import ControlClient
from rostral_scheduler import global_settings, local_settings
from rostral_scheduler.cli import main

from .node import eventually, is_alive

HERE = Path(__file__).parent
RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from {} import main; main()"


def command(folder: Path, *more: str) -> list[str]:
    return [
        *("local", "--store-socket", str(folder / "store.sock")),
        *("--socket", str(folder / "s.sock"), "--session-dir", str(folder / "session"), *more),
    ]


def started(folder: Path, *more: str) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """A store and a scheduler as processes of their own."""
    return start_store(folder), start_scheduler(folder, *more, wait=False)


def start_store(folder: Path) -> subprocess.Popen[str]:
    """A store that serves."""
    store = subprocess.Popen(
        [
            *(sys.executable, "-c", RUN.format("rostral_objectstore.cli"), str(HERE)),
            *("serve", "--socket", str(folder / "store.sock"), "--memory", str(64 << 20)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert store.stdout is not None
    assert store.stdout.readline()
    return store


def start_scheduler(folder: Path, *more: str, wait: bool = True) -> subprocess.Popen[str]:
    """A scheduler of that store; it serves, unless nobody wants to `wait` for that."""
    scheduler = subprocess.Popen(
        [
            *(sys.executable, "-c", RUN.format("rostral_scheduler.cli"), str(HERE)),
            *command(folder, "--worker-module", "sample_worker:main", "--num-cpus", "2", *more),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert scheduler.stdout is not None
    if wait:
        assert scheduler.stdout.readline()
    return scheduler


def ended(process: subprocess.Popen[str]) -> None:
    """Ends a process of ours for sure."""
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, "shutdown"])
def test_stopped_scheduler_leaves_no_process(folder: Path, how: signal.Signals | str) -> None:
    store, scheduler = started(folder)
    try:
        assert scheduler.stdout is not None
        assert scheduler.stdout.readline().startswith("READY rostral-scheduler local at ")
        client = ControlClient(str(folder / "s.sock"))
        status = client.call("status", {})
        eventually(lambda: len(client.call("status", {})["workers"]) == 2, "two workers")
        workers = client.call("status", {})["workers"]
        eventually(
            lambda: all(w["pid"] for w in client.call("status", {})["workers"]), "their pids"
        )
        workers = client.call("status", {})["workers"]
        pids = [status["zygote_pid"], *[worker["pid"] for worker in workers]]
        if isinstance(how, str):
            client.call("shutdown", {})
        else:
            scheduler.send_signal(how)
        client.close()
        code = scheduler.wait(10)
        assert code == (-signal.SIGKILL if how == signal.SIGKILL else 0)
        eventually(lambda: not any(is_alive(pid) for pid in pids), "the end of the processes")
        assert how == signal.SIGKILL or not (folder / "s.sock").exists()
    finally:
        ended(scheduler)
        ended(store)


def test_absent_store_is_one_line_and_exit_status_1(folder: Path) -> None:
    result = CliRunner().invoke(main, command(folder))
    assert result.exit_code == 1
    assert "nothing answers" in result.output


def test_wrong_configuration_is_exit_status_78(folder: Path) -> None:
    result = CliRunner().invoke(main, command(folder, "--num-cpus", "-3"))
    assert result.exit_code == 78
    assert "CPU" in result.output
    result = CliRunner().invoke(main, command(folder, "--gcs", "h:1"))
    assert result.exit_code == 78
    assert "--gcs: gcs_address is given without token_file" in result.output


@pytest.mark.parametrize("which", ["local", "global"])
def test_the_default_file_of_each_service_says_every_setting(which: str, tmp_path: Path) -> None:
    shown = CliRunner().invoke(main, ["config", which, "show", "--default"])
    assert shown.exit_code == 0
    # Its only line that is no comment: where the GCS is.
    assert tomllib.loads(shown.output) == {"gcs_address": "127.0.0.1:6380"}
    settings = (local_settings if which == "local" else global_settings).SETTINGS
    for setting in settings.settings:
        assert f"\n{setting.name} =" in shown.output.replace("\n#", "\n")
        assert setting.about, setting.name
    file = tmp_path / "scheduler.toml"
    file.write_text(shown.output + "node_lease = 3\n")
    checked = CliRunner().invoke(main, ["config", which, "check", "--config", str(file)])
    assert checked.exit_code == 78
    assert (
        f"{file}:{len(shown.output.splitlines()) + 1}: key 'node_lease' unknown" in checked.output
    )
    assert "gcs_address is not set" not in checked.output


@pytest.mark.parametrize("which", ["local", "global"])
def test_systemd_install_writes_the_units_of_one_service(which: str, tmp_path: Path) -> None:
    arguments = ["systemd", which, "install", "--root", str(tmp_path)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    units = {path.name for path in (tmp_path / "etc/systemd/system").iterdir()}
    assert f"rostral-{which}-scheduler.service" in units
    assert ("rostral-node.target" in units) == (which == "local")
    assert (tmp_path / f"etc/rostral/{which}-scheduler.toml").is_file()


@pytest.mark.parametrize(
    "more", [("--no-such-option",), ("--num-cpus", "many"), ("--resource", "x")]
)
def test_wrong_usage_is_exit_status_2(folder: Path, more: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, command(folder, *more)).exit_code == 2
