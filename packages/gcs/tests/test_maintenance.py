"""Backup, restore, verify, flush: by the command, on real files, beside a running server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rostral_gcs import GcsClient, TaskRow, TaskState
from rostral_gcs.data_dir import RESTORING
from rostral_gcs.ids import JobID, TaskID

pytestmark = pytest.mark.slow
Serve = Callable[..., Any]
JOB = JobID.from_random()


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rostral_gcs", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def _tasks(count: int) -> list[TaskRow]:
    states = (TaskState.FINISHED, TaskState.PENDING)
    return [
        TaskRow(task_id=TaskID(at.to_bytes(16, "big")), job_id=JOB, state=states[at % 2])
        for at in range(count)
    ]


@pytest.fixture
def filled(serve: Serve, tmp_path: Path) -> Path:
    """A stopped server's directory with rows of all kinds, some of them archived."""
    server = serve()
    with GcsClient(server.address, server.token) as client:
        for at in range(50):
            client.kv_put(b"%d" % at, b"value")
        client.record_tasks(_tasks(200))
    server.end(signal.SIGTERM)
    done = _run("flush", "--data-dir", tmp_path / "data")
    assert (done.returncode, done.stdout) == (0, "100 records moved to files\n"), done.stderr
    return tmp_path / "data"


def _check_filled(serve: Serve) -> None:
    server = serve()
    with GcsClient(server.address, server.token) as client:
        assert len(client.kv_keys()) == 50
        rows = _tasks(200)
        assert client.get_tasks([row.task_id for row in rows]) == {row.task_id: row for row in rows}
    server.end(signal.SIGTERM)


def test_what_was_backed_up_comes_back(serve: Serve, filled: Path, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    done = _run("backup", "--data-dir", filled, target)
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout
    modes = {path.stat().st_mode & 0o777 for path in target.rglob("*") if path.is_file()}
    assert modes == {0o600}
    again = _run("backup", "--data-dir", filled, target)
    assert again.returncode == 1
    assert "ALREADY_EXISTS" in again.stderr
    shutil.rmtree(filled)
    assert _run("restore", "--data-dir", filled, target).returncode == 0
    _check_filled(serve)
    refused = _run("restore", "--data-dir", filled, target)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "without --yes" in refused.stderr
    assert _run("restore", "--yes", "--data-dir", filled, target).returncode == 0
    _check_filled(serve)


def test_a_backup_of_a_running_server_has_all_that_was_acknowledged(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    stop = threading.Event()
    acknowledged = 0

    def write() -> None:
        nonlocal acknowledged
        with GcsClient(server.address, server.token) as client:
            while not stop.is_set():
                client.kv_put(b"%08d" % acknowledged, b"v")
                client.record_tasks([_tasks(acknowledged + 1)[-1]])
                acknowledged += 1

    writer = threading.Thread(target=write)
    writer.start()
    while acknowledged < 50:
        assert writer.is_alive()
        threading.Event().wait(0.01)
    before = acknowledged
    done = _run("backup", "--data-dir", tmp_path / "data", tmp_path / "backup")
    live = _run("restore", "--yes", "--data-dir", tmp_path / "data", tmp_path / "backup")
    flushed = _run("flush", "--data-dir", tmp_path / "data")
    stop.set()
    writer.join()
    assert done.returncode == 0, done.stderr
    for refused in (live, flushed):
        assert refused.returncode == 1
        assert f"DATA_DIR_LOCKED: data directory {tmp_path / 'data'} is locked" in refused.stderr
    server.end(signal.SIGTERM)
    assert (
        _run("restore", "--yes", "--data-dir", tmp_path / "data", tmp_path / "backup").returncode
        == 0
    )
    server = serve()
    with GcsClient(server.address, server.token) as client:
        keys = client.kv_keys()
        assert keys == [b"%08d" % at for at in range(len(keys))]
        assert before <= len(keys) <= acknowledged
        wanted = [row.task_id for row in _tasks(before)]
        assert len(client.get_tasks(wanted)) == before


def test_another_clusters_backup_is_refused(filled: Path, tmp_path: Path) -> None:
    _run("backup", "--data-dir", filled, tmp_path / "backup")
    (filled / "cluster.json").write_text(json.dumps({"cluster_id": "ab" * 16, "shard_count": 1}))
    before = _state(filled)
    done = _run("restore", "--yes", "--data-dir", filled, tmp_path / "backup")
    assert done.returncode == 1
    assert f"CLUSTER_MISMATCH: {filled} is of cluster {'ab' * 16}" in done.stderr
    assert _state(filled) == before


def _state(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.mark.parametrize("pattern", ["shard-000.sqlite", "*.lineage/*", "*.archive/*tasks.*"])
def test_a_damaged_backup_is_refused_before_anything_changes(
    filled: Path, tmp_path: Path, pattern: str
) -> None:
    backup = tmp_path / "backup"
    _run("backup", "--data-dir", filled, backup)
    path = next(iter(backup.glob(pattern)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    before = _state(filled)
    done = _run("restore", "--yes", "--data-dir", filled, backup)
    assert done.returncode == 1
    assert f"CORRUPT: {path} is not as it was written" in done.stderr
    assert _state(filled) == before
    path.unlink()
    done = _run("restore", "--yes", "--data-dir", filled, backup)
    assert f"CORRUPT: {path} is missing from the backup" in done.stderr


def test_a_manifest_that_leads_outside_is_refused(filled: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    _run("backup", "--data-dir", filled, backup)
    manifest = json.loads((backup / "manifest.json").read_bytes())
    manifest["files"][0]["path"] = "../token"
    (backup / "manifest.json").write_text(json.dumps(manifest))
    done = _run("restore", "--yes", "--data-dir", filled, backup)
    assert done.returncode == 1
    assert "INVALID_PATH: the manifest names '../token', outside the backup" in done.stderr
    assert (tmp_path / "token").exists()


def test_what_is_no_backup_or_no_data_is_named(tmp_path: Path) -> None:
    for arguments, says in (
        (("restore", "--data-dir", tmp_path / "new", tmp_path), "is no backup"),
        (("backup", "--data-dir", tmp_path, tmp_path / "x"), "is no data directory"),
        (("verify", tmp_path), "is neither a data directory nor a backup"),
        (("flush", "--data-dir", tmp_path), "is no data directory"),
    ):
        done = _run(*arguments)
        assert done.returncode == 1
        assert f"NOT_FOUND: {tmp_path} {says}" in done.stderr
    assert not (tmp_path / "new").exists()


def test_an_interrupted_restore_is_not_served(serve: Serve, filled: Path, tmp_path: Path) -> None:
    _run("backup", "--data-dir", filled, tmp_path / "backup")
    (filled / RESTORING).touch()
    status, stderr = serve().end(signal.SIGTERM)
    assert status == 1
    assert "was interrupted" in stderr
    assert _run("restore", "--yes", "--data-dir", filled, tmp_path / "backup").returncode == 0
    _check_filled(serve)


def test_verify_names_file_and_offset_of_all_damage(filled: Path) -> None:
    whole = _run("verify", filled)
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.endswith(" files, 0 damaged\n")
    segment = next(iter(filled.glob("*.lineage/*.segment")))
    database = filled / "shard-000.sqlite"
    index = next(iter(filled.glob("*.archive/*.index")))
    content = segment.read_bytes()
    # In the first frame, and a whole one behind it.
    segment.write_bytes(content[:40] + b"\xff" + content[41:] + content[16:])
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(size - 4096)
        file.write(os.urandom(4096))
    with index.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff\xff")
    done = _run("verify", filled)
    assert done.returncode == 1
    assert f"{segment}: offset 16: " in done.stderr
    assert f"{database}: offset " in done.stderr
    assert f"{index}: offset 0: " in done.stderr
    assert done.stdout.endswith(" files, 3 damaged\n")


def test_a_damaged_segment_can_be_cut_so_that_the_rest_is_served(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    with GcsClient(server.address, server.token) as client:
        for row in _tasks(3):
            client.record_tasks([row])
    server.end(signal.SIGKILL)
    segment = next(iter((tmp_path / "data").glob("*.lineage/*.segment")))
    content = segment.read_bytes()
    second = content.index(b"\xf5GCS", 100)
    segment.write_bytes(content[: second + 60] + b"\xff" + content[second + 61 :])
    status, stderr = serve().end(signal.SIGTERM)
    assert status == 1
    assert f"CORRUPT: {segment} is damaged at offset {second}" in stderr
    cut = _run("verify", "--cut", tmp_path / "data")
    assert "what was behind is in" in cut.stderr
    assert _run("verify", tmp_path / "data").returncode == 0
    server = serve()
    with GcsClient(server.address, server.token) as client:
        assert set(client.get_tasks([row.task_id for row in _tasks(3)])) == {_tasks(1)[0].task_id}


def test_a_damaged_database_is_refused_at_the_start(serve: Serve, filled: Path) -> None:
    with (filled / "shard-000.sqlite").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096))
    status, stderr = serve().end(signal.SIGTERM)
    assert status == 1
    assert "shard-000.sqlite" in stderr
    assert "CORRUPT" in stderr or "STORAGE" in stderr
