"""One table of commands that are refused: each says what, where and what to do, and does nothing.

Beside the table of calls in ``test_bad_input.py``, with which it shares the two backends.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rostral_gcs import AsyncGcsClient, GcsConfig, GcsServer, TaskRow
from rostral_gcs.cli import main
from rostral_gcs.data_dir import RESTORING
from rostral_gcs.ids import JobID, TaskID
from rostral_gcs.maintenance.backup import backup as back_up

from .test_bad_input import state_of

pytestmark = pytest.mark.slow

OTHER_CLUSTER = "ab" * 16


@dataclass(frozen=True)
class Refused:
    """A command with the folders of ``Places`` in braces, and how it must be refused.

    ``only``: the backend that it is about; empty: either.
    """

    name: str
    arguments: str
    says: tuple[str, ...]
    status: int = 1
    only: str = ""


REFUSED = [
    Refused(
        "flush beside a live server",
        "flush --data-dir {live}",
        ("DATA_DIR_LOCKED: data directory {live} is locked by pid", "stop that server"),
        only="embedded",
    ),
    Refused(
        "restore beside a live server",
        "restore --yes --data-dir {live} {backup}",
        ("DATA_DIR_LOCKED: data directory {live} is locked by pid", "stop that server"),
        only="embedded",
    ),
    Refused(
        "a second server on the directory",
        "serve --port 0 --token-file {token} --data-dir {live}",
        ("DATA_DIR_LOCKED: data directory {live} is locked by pid", "stop that server"),
        only="embedded",
    ),
    *(
        Refused(
            f"{command} of a store in Redis",
            f"{command} --data-dir {{live}} {target}",
            ("NOT_FOUND: {live} is no data directory", "a store in Redis has none"),
            only="redis",
        )
        for command, target in (("backup", "{fresh}"), ("flush", ""))
    ),
    Refused(
        "verify of a store in Redis",
        "verify {live}",
        ("NOT_FOUND: {live} is neither a data directory nor a backup", "a store in Redis has none"),
        only="redis",
    ),
    *(
        Refused(
            f"{command} of no data",
            f"{command} --data-dir {{empty}} {target}",
            ("NOT_FOUND: {empty} is no data directory", "check the path"),
        )
        for command, target in (("backup", "{fresh}"), ("flush", ""))
    ),
    Refused(
        "verify of no data",
        "verify {empty}",
        ("NOT_FOUND: {empty} is neither a data directory nor a backup", "check the path"),
    ),
    Refused(
        "restore of no backup",
        "restore --data-dir {fresh} {empty}",
        ("NOT_FOUND: {empty} is no backup", "check the path"),
    ),
    Refused(
        "backup over a folder",
        "backup --data-dir {stopped} {backup}",
        ("ALREADY_EXISTS: {backup} exists already", "name a new folder"),
    ),
    Refused(
        "backup to where nobody may write",
        "backup --data-dir {stopped} /proc/here",
        ("STORAGE: cannot back up {stopped} to /proc/here", "check that there is room"),
    ),
    Refused(
        "restore of another cluster's backup",
        "restore --yes --data-dir {other} {backup}",
        (f"CLUSTER_MISMATCH: {{other}} is of cluster {OTHER_CLUSTER}", "another directory"),
    ),
    Refused(
        "restore of a damaged backup",
        "restore --yes --data-dir {stopped} {damaged}",
        ("CORRUPT: {damaged}/shard-000.sqlite is not as it was written", "use another backup"),
    ),
    Refused(
        "restore of a backup whose manifest is damaged",
        "restore --yes --data-dir {stopped} {unread}",
        ("CORRUPT: {unread}/manifest.json is damaged", "use another backup"),
    ),
    Refused(
        "restore of a backup of another version",
        "restore --yes --data-dir {stopped} {newer}",
        ("VERSION_MISMATCH: {newer} has format 99, this version reads 1", "that wrote it"),
    ),
    Refused(
        "restore of what leads outside",
        "restore --yes --data-dir {stopped} {outside}",
        ("INVALID_PATH: the manifest names '../token', outside the backup", "another backup"),
    ),
    Refused(
        "restore over data without consent",
        "restore --data-dir {stopped} {backup}",
        ("refusing to replace data without --yes",),
        status=2,
    ),
    Refused(
        "verify of a damaged segment",
        "verify {torn}",
        ("{torn}/shard-000.lineage/00000001.segment: offset 16: ", " files, 1 damaged"),
    ),
    Refused(
        "a server on what a restore left half done",
        "serve --port 0 --token-file {token} --data-dir {halved}",
        ("STORAGE: a restore of {halved} was interrupted", "run `rostral-gcs restore` again"),
    ),
    Refused(
        "a server on a damaged segment",
        "serve --port 0 --token-file {token} --data-dir {torn}",
        ("CORRUPT: {torn}/shard-000.lineage/00000001.segment is damaged at offset 16", "verify"),
    ),
    Refused(
        "another number of shards",
        "serve --port 0 --token-file {token} --data-dir {stopped} --shards 2",
        ("was made with shard_count 1, asked for 2", "start with 1 shards"),
        status=78,
        only="embedded",
    ),
    Refused(
        "another number of shards in Redis",
        "serve --port 0 --token-file {token} --data-dir {fresh} --backend redis "
        "--redis-url {redis} --shards 2",
        ("was made with shard_count 1, asked for 2", "start with 1 shards"),
        status=78,
        only="redis",
    ),
    Refused(
        "fewer shards",
        "add-shards 0 --address {address} --token-file {token}",
        ("INVALID_ARGUMENT: asked for 0 shards; allowed: 1", "shards can be added, not taken away"),
    ),
    Refused(
        "too many shards",
        "add-shards 257 --address {address} --token-file {token}",
        ("INVALID_ARGUMENT: asked for 257 shards; allowed: 1", "to 256"),
    ),
    Refused(
        "shards that are no number",
        "add-shards many --address {address} --token-file {token}",
        ("'many' is not a valid integer", "Usage: "),
        status=2,
    ),
    Refused(
        "shards for nobody",
        "add-shards 2 --address {nobody} --token-file {token}",
        ("UNAVAILABLE: no GCS answers at {nobody}", "rostral-gcs serve"),
        status=3,
    ),
    Refused(
        "shards without a token",
        "add-shards 2 --address {address} --token-file {fresh}",
        ("TOKEN_FILE: cannot open token file {fresh}", "rostral-gcs token"),
        status=78,
    ),
    Refused(
        "status of nobody",
        "status --timeout 0.5 --address {nobody}",
        ("{nobody}  UNREACHABLE", "UNAVAILABLE: "),
        status=3,
    ),
    Refused("no such command", "nonsense", ("No such command 'nonsense'", "Usage: "), status=2),
    Refused("a missing argument", "backup", ("Missing argument 'TARGET'", "Usage: "), status=2),
    Refused("an unknown flag", "serve --nonsense", ("No such option", "Usage: "), status=2),
    Refused("a token over a file", "token {token}", ("TOKEN_FILE: ", "exists"), status=78),
    Refused(
        "a configuration with faults of every kind",
        "config check --config {faulty}",
        (
            "{faulty}:1: key 'prot' unknown, did you mean 'port'?",
            "{faulty}:2: lineage_memory_max is '10 apples'; allowed: ",
            "{faulty}:3: shard_count is 'two'; allowed: ",
            "{faulty}:4: backend is 'files'; allowed: embedded or redis",
        ),
        status=78,
    ),
    Refused(
        "settings that contradict each other",
        "config check --config {conflicting}",
        ("redis_urls is given, but backend is embedded; allowed: with backend redis",),
        status=78,
    ),
    Refused(
        "Redis without an address",
        "config check --config {placeless}",
        ("redis_urls is empty; allowed: one URL or more, as redis://127.0.0.1:6379",),
        status=78,
    ),
    Refused(
        "a configuration that others may write to",
        "config check --config {open}",
        ("others may write to it", "chmod go-w"),
        status=78,
    ),
    Refused(
        "a configuration that is no TOML",
        "config check --config {garbled}",
        ("{garbled}:1: not TOML",),
        status=78,
    ),
    Refused(
        "a configuration that is not there",
        "config check --config {fresh}",
        ("{fresh}: cannot be read: No such file or directory",),
        status=78,
    ),
    Refused(
        "serving with a faulty configuration",
        "serve --config {faulty}",
        ("key 'prot' unknown", "'10 apples'", "shard_count is 'two'", "backend is 'files'"),
        status=78,
    ),
]

FAULTY = "prot = 1\nlineage_memory_max = '10 apples'\nshard_count = 'two'\nbackend = 'files'\n"
SCRATCH = (".sqlite-wal", ".sqlite-shm")
CONFIGURATIONS = {
    "faulty": FAULTY,
    "conflicting": "redis_urls = ['redis://127.0.0.1:1']\n",
    "placeless": "backend = 'redis'\n",
    "open": "port = 1\n",
    "garbled": "port = = 1\n",
}


def test_every_refused_command_says_what_to_do_and_does_nothing(
    backend: dict[str, object], config: GcsConfig, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "places"
    folder.mkdir()
    given: dict[str, str] = {}
    if backend:
        given["redis"] = request.getfixturevalue("redis_server").url

    async def scenario() -> None:
        server = GcsServer(replace(config, **backend))  # type: ignore[arg-type]
        await server.start()
        try:
            await _fill(replace(config, data_dir=folder / "stopped"))
            places = given | await asyncio.to_thread(_places, folder, config)
            places |= {"live": str(config.data_dir), "address": server.address}
            await _refuse_all(server, places, folder)
            async with AsyncGcsClient(server.address, config.token) as client:
                assert await client.kv_put(b"still", b"well") > 0
        finally:
            await server.stop()

    asyncio.run(scenario())


async def _refuse_all(server: GcsServer, places: dict[str, str], folder: Path) -> None:
    kind = "redis" if "redis" in places else "embedded"
    before, files = await state_of(server), _files(folder)
    for refused in REFUSED:
        if refused.only not in ("", kind):
            continue
        arguments = refused.arguments.format(**places).split()
        status, output = await asyncio.to_thread(_run, arguments)
        assert status == refused.status, (refused.name, output)
        for says in refused.says:
            assert says.format(**places) in output, (refused.name, output)
        assert "Traceback" not in output, refused.name
        assert await state_of(server) == before, refused.name
        assert _files(folder) == files, refused.name


def _run(arguments: list[str]) -> tuple[int, str]:
    """Exit status and all that was printed. A server wants the main thread of a process."""
    if arguments[0] != "serve":
        done = CliRunner().invoke(main, arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), arguments
        return done.exit_code, done.output
    process = subprocess.run(
        [sys.executable, "-m", "rostral_gcs", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return process.returncode, process.stdout


def _files(folder: Path) -> dict[str, bytes]:
    """All files but the locks, which name who had them last, and SQLite's own scratch."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock" and path.suffix not in SCRATCH
    }


def _places(folder: Path, config: GcsConfig) -> dict[str, str]:
    """What the commands of the table are given: folders, files and addresses."""
    stopped, whole = folder / "stopped", folder / "backup"
    back_up(stopped, whole)
    for name in ("damaged", "unread", "newer", "outside"):
        shutil.copytree(whole, folder / name)
    for name in ("torn", "halved"):
        shutil.copytree(stopped, folder / name)
    _turn_a_byte(folder / "damaged" / "shard-000.sqlite")
    (folder / "unread" / "manifest.json").write_text("{")
    _change_manifest(folder / "newer", lambda manifest: manifest.update(format=99))
    _change_manifest(
        folder / "outside", lambda manifest: manifest["files"][0].update(path="../token")
    )
    (segment,) = (folder / "torn" / "shard-000.lineage").glob("*.segment")
    content = segment.read_bytes()
    # In the first frame, and a whole one behind it: no crash leaves that.
    segment.write_bytes(content[:40] + b"\xff" + content[41:] + content[16:])
    (folder / "halved" / RESTORING).touch()
    (folder / "other").mkdir()
    identity = {"cluster_id": OTHER_CLUSTER, "shard_count": 1}
    (folder / "other" / "cluster.json").write_text(json.dumps(identity))
    (folder / "empty").mkdir()
    for name, text in CONFIGURATIONS.items():
        (folder / f"{name}.toml").write_text(text)
        (folder / f"{name}.toml").chmod(0o660 if name == "open" else 0o600)
    token = folder / "token"
    token.write_text(str(config.token))
    token.chmod(0o600)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{unused.getsockname()[1]}"
    places = {path.name.removesuffix(".toml"): str(path) for path in folder.iterdir()}
    return places | {"fresh": str(folder / "fresh"), "nobody": nobody}


async def _fill(config: GcsConfig) -> None:
    server = GcsServer(config)
    await server.start()
    async with AsyncGcsClient(server.address, config.token) as client:
        await client.kv_put(b"k", b"v")
        tasks = [
            TaskRow(task_id=TaskID.from_random(), job_id=JobID.from_random()) for _ in range(9)
        ]
        await client.record_tasks(tasks)
    await server.stop()


def _turn_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _change_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))
