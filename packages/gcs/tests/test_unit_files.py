"""What ``systemd install`` writes, and that systemd finds nothing to say against it."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from rostral_gcs.cli import main

UNIT = "etc/systemd/system/rostral-gcs.service"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["systemd", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def test_install_writes_into_another_system_and_runs_nothing_there(tmp_path: Path) -> None:
    output = run("install", "--root", str(tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path).as_posix() for path in files} == {
        UNIT,
        "etc/sysusers.d/rostral-gcs.conf",
        "etc/tmpfiles.d/rostral-gcs.conf",
        "etc/rostral/gcs.toml",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}
    assert "ran " not in output
    unit = (tmp_path / UNIT).read_text()
    assert "@bindir@" not in unit
    assert "#@" not in unit
    assert "User=rostral-gcs" in unit


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    output = run("install", "--root", str(tmp_path), "--dry-run")
    assert f"would write {tmp_path / UNIT}" in output
    assert list(tmp_path.iterdir()) == []


def test_a_second_install_keeps_the_configuration_and_renews_the_unit(tmp_path: Path) -> None:
    run("install", "--root", str(tmp_path))
    (tmp_path / "etc/rostral/gcs.toml").write_text("port = 7000\n")
    (tmp_path / UNIT).write_text("old\n")
    assert "kept" in run("install", "--root", str(tmp_path))
    assert (tmp_path / "etc/rostral/gcs.toml").read_text() == "port = 7000\n"
    assert "ExecStart" in (tmp_path / UNIT).read_text()


def test_uninstall_leaves_the_configuration(tmp_path: Path) -> None:
    run("install", "--root", str(tmp_path))
    run("uninstall", "--root", str(tmp_path))
    left = [
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*") if path.is_file()
    ]
    assert left == ["etc/rostral/gcs.toml"]


def test_a_users_unit_asks_for_nothing_that_only_root_can_give(home: Path) -> None:
    output = run("show", "--user")
    assert str(home / "systemd/user/rostral-gcs.service") in output
    for word in ("User=", "Protect", "LoadCredential", "OOMScoreAdjust", "/etc/rostral"):
        assert word not in output
    assert "WantedBy=default.target" in output


@pytest.mark.parametrize("wrong", [("--user", "--root", "/srv")])
def test_what_cannot_be_is_refused(home: Path, wrong: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["systemd", "install", *wrong]).exit_code == 78


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file\n")
    result = CliRunner().invoke(main, ["systemd", "install", "--root", str(tmp_path)])
    assert result.exit_code == 1
    assert "cannot be written" in result.output


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_has_nothing_to_say_and_scores_it_closed(tmp_path: Path) -> None:
    run("install", "--root", str(tmp_path))
    unit = str(tmp_path / UNIT)
    # The command is looked for: it is there only once the package is installed.
    text = (tmp_path / UNIT).read_text().splitlines()
    (tmp_path / UNIT).write_text(
        "\n".join("ExecStart=/bin/true" if line.startswith("ExecStart=") else line for line in text)
    )
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    # Its exit status is 0 also for what it does not understand.
    assert (verified.stderr, verified.returncode) == ("", 0)
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert scored.returncode == 0, scored.stdout[-300:]
