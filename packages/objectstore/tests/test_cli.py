"""The `rostral-objectstore` command: what it prints, and its exit statuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rostral_gcs.auth import write_token
from rostral_gcs.ids import ObjectID
from rostral_objectstore import StoreClient

from .store import COMMAND, DEADLINE_S, Store


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@contextlib.contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[str]:
    """A daemon that says where it serves, and ends well."""
    command = [*COMMAND, "serve", "--memory", str(16 << 20), *arguments]
    with subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as daemon:
        try:
            assert daemon.stdout is not None
            yield daemon.stdout.readline().removeprefix("serving at ").strip()
        finally:
            daemon.terminate()
            _, errors = daemon.communicate(timeout=DEADLINE_S)
    assert (daemon.returncode, errors) == (0, "")


def test_stats_say_how_full_the_store_is(store: Store) -> None:
    handle = store.watcher.put(bytes(1 << 20))
    shown = run("stats", "--socket", store.socket)
    assert shown.returncode == 0
    assert shown.stdout.startswith("used ")
    assert f"of {512 << 20} bytes, 1 objects, 0 pinned, 2 processes" in shown.stdout
    told = json.loads(run("stats", "--socket", store.socket, "--json").stdout)
    assert (told["capacity_bytes"], told["objects"]) == (512 << 20, 1)
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
    for arguments in (["serve", "--sockets", "x"], ["sing"], ["ls", "--state", "asleep"]):
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


def test_a_second_store_at_the_same_socket_says_so_in_one_line(folder: Path) -> None:
    path = str(folder / "store")
    with serving("--socket", path):
        second = run("serve", "--socket", path, "--memory", "16M")
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"another daemon listens at {path}" in second.stderr


def test_where_nothing_listens_is_exit_status_3(folder: Path) -> None:
    wrong = run("stats", "--socket", str(folder / "socket"))
    assert wrong.returncode == 3
    assert f"nothing answers at {folder}/socket" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_help_and_version() -> None:
    assert "shared-memory object store" in run("--help").stdout
    assert run("--version").stdout.startswith("rostral-objectstore, version ")


def test_ls_lists_objects_as_text_and_as_json(store: Store) -> None:
    client = store.connect()
    large = client.put(bytes(5000), "large", pin=True)
    small = client.put(1, "small")
    lines = run("ls", "--socket", store.socket).stdout.splitlines()
    (line,) = (line for line in lines if large.hex() in line)
    assert line.split() == [large.hex(), "sealed", "5000", str(os.getpid()), "pinned"]
    told = [
        json.loads(line)
        for line in run("ls", "--socket", store.socket, "--json").stdout.splitlines()
    ]
    by_id = {entry["id"]: entry for entry in told}
    assert by_id[small.hex()]["holders"] == [os.getpid()]
    assert by_id[large.hex()]["pinned"] is True
    assert run("ls", "--socket", store.socket, "--state", "pending").stdout == ""
    cut = run("ls", "--socket", store.socket, "--limit", "1")
    assert len(cut.stdout.splitlines()) == 1
    assert "--limit shows more" in cut.stderr
    client.delete("large")


def test_top_shows_the_largest_objects_once(store: Store) -> None:
    handle = store.connect().put(bytes(3 << 20), "large")
    shown = run("top", "--once", "--socket", store.socket, COLUMNS="120")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert handle.hex() in shown.stdout
    assert "3.0 MiB" in shown.stdout
    assert str(os.getpid()) in shown.stdout


def test_without_a_socket_both_sides_use_this_users(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = folder / "runtime"
    monkeypatch.setenv("ROSTRAL_RUNTIME_DIR", str(runtime))
    monkeypatch.delenv("ROSTRAL_STORE", raising=False)
    with serving() as path:
        assert path == str(runtime / "objectstore.sock")
        assert runtime.stat().st_mode & 0o777 == 0o700
        assert run("stats").returncode == 0
        with StoreClient.connect() as client:
            assert client.get(client.put(1)) == 1
    other = str(folder / "other.sock")
    monkeypatch.setenv("ROSTRAL_STORE", other)
    assert run("stats").returncode == 3
    with serving() as path, StoreClient.connect() as client:
        assert path == other
        assert client.get(client.put(2)) == 2


def test_a_runtime_directory_that_others_may_enter_is_refused(folder: Path) -> None:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o755)
    (folder / "link").symlink_to(folder)
    for name in ("open", "link"):
        wrong = run("serve", ROSTRAL_RUNTIME_DIR=str(folder / name), ROSTRAL_STORE="")
        assert wrong.returncode == 78
        assert "belongs to this user alone" in wrong.stderr


def test_metrics_are_served_on_this_machine_alone(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    path = str(folder / "socket")
    token_file = folder / "token"
    token = write_token(token_file)
    with serving(
        *("--socket", path, "--metrics", f"127.0.0.1:{port}", "--token-file", str(token_file))
    ):
        with StoreClient.connect(path) as client:
            client.put(bytes(100_000), ObjectID.from_random(), pin=True)
            page = f"http://127.0.0.1:{port}/metrics"
            bearer = {"authorization": f"Bearer {token}"}
            with urllib.request.urlopen(urllib.request.Request(page, headers=bearer)) as answer:
                text = answer.read().decode()
        values = dict(re.findall(r"^rostral_objectstore_(\S+) (\S+)$", text, re.MULTILINE))
        assert float(values["capacity_bytes"]) == 16 << 20
        assert float(values["pinned_bytes"]) == 100_000
        assert float(values["objects"]) == float(values["clients"]) == 1
        assert float(values["start_time_seconds"]) > 1e9
        assert 'rostral_objectstore_build_info{version="' in text
        taken = run(
            *("serve", "--socket", f"{path}2", "--metrics", f"127.0.0.1:{port}"),
            *("--token-file", str(token_file)),
        )
        assert taken.returncode == 78
        assert f"cannot serve metrics at 127.0.0.1:{port}" in taken.stderr
    nobodys = run("serve", "--socket", path, "--metrics", "127.0.0.1:0")
    assert nobodys.returncode == 78
    assert "metrics_address is given without token_file" in nobodys.stderr
    for address in ("0.0.0.0:9108", "[::]:9108", "9108", "example.com:80", "127.0.0.1:x"):
        wrong = run("serve", "--socket", path, "--metrics", address)
        assert wrong.returncode == 78, address
        assert "127.0.0.1" in wrong.stderr
