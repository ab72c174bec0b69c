"""What `systemd install` writes of the local scheduler, and the part that sets workers apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rostral_gcs.errors import ConfigError
from rostral_gcs.services.users import uid_of
from rostral_scheduler.cli import main

UNITS = Path("etc/systemd/system")
APART = UNITS / "rostral-local-scheduler.service.d/isolated-workers.conf"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["systemd", "local", *arguments])


def test_workers_are_set_apart_only_where_that_is_asked_for(tmp_path: Path) -> None:
    assert run("install", "--root", str(tmp_path)).exit_code == 0
    assert not (tmp_path / APART).exists()
    assert (
        "CapabilityBoundingSet=\n"
        in (tmp_path / UNITS / "rostral-local-scheduler.service").read_text()
    )
    assert run("install", "--root", str(tmp_path), "--isolate-workers").exit_code == 0
    text = (tmp_path / APART).read_text()
    assert "Environment=ROSTRAL_WORKER_USER=rostral-worker\n" in text
    assert "AmbientCapabilities=CAP_SETUID CAP_SETGID CAP_KILL\n" in text
    users = (tmp_path / "etc/sysusers.d/rostral-local-scheduler.conf").read_text()
    assert "\nu rostral-worker " in users


def test_both_are_taken_away(tmp_path: Path) -> None:
    run("install", "--root", str(tmp_path), "--isolate-workers")
    assert run("uninstall", "--root", str(tmp_path)).exit_code == 0
    assert not (tmp_path / APART).exists()
    assert not list((tmp_path / UNITS).glob("rostral-*.service"))


def test_a_users_manager_cannot_set_workers_apart() -> None:
    refused = run("install", "--user", "--isolate-workers", "--dry-run")
    assert refused.exit_code == 78
    assert "only the system's manager can" in refused.output


def test_a_user_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="'nobody-of-this-name' is no user"):
        uid_of("nobody-of-this-name")
    assert uid_of("") is None
    assert uid_of(None) is None
