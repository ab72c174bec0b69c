"""S4, S5, S26: files and sockets are ours alone, and what is not ours is not used."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rostral_gcs.auth import load_token, write_token
from rostral_gcs.errors import TokenFileError

from .services import Service, children_of_another_user, command, nodes, refused_start

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can act as another user of this machine"
)
NOBODY = 65534

OPEN = """
import os, socket, sys
for path in sys.argv[1:]:
    try:
        if os.path.exists(path) and path.endswith(".sock"):
            socket.socket(socket.AF_UNIX).connect(path)
        elif os.path.isdir(path):
            os.listdir(path)
        else:
            os.open(path, os.O_RDONLY)
    except PermissionError:
        continue
    except FileNotFoundError:
        print("missing", path)
        continue
    print("opened", path)
"""


def _wide(path: Path) -> None:
    path.chmod(0o644)


def _written_by_a_group(path: Path) -> None:
    path.chmod(0o620)


def _another_users(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def _link(path: Path) -> None:
    real = path.with_suffix(".real")
    path.rename(real)
    path.symlink_to(real)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _folder_of_all(path: Path) -> None:
    path.parent.chmod(0o777)


def _folder_of_another_user(path: Path) -> None:
    os.chown(path.parent, NOBODY, NOBODY)


def _empty(path: Path) -> None:
    path.write_text("")


SPOILED = [
    _wide,
    _written_by_a_group,
    _link,
    _fifo,
    _folder_of_all,
    _empty,
    pytest.param(_another_users, marks=needs_root),
    pytest.param(_folder_of_another_user, marks=needs_root),
]


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_token_file_that_others_have_a_hand_in_is_refused_by_every_command(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    place = tmp_path / "secret"
    place.mkdir(mode=0o700)
    file = place / "token"
    token = write_token(file)
    assert load_token(file) == token
    spoil(file)
    with pytest.raises(TokenFileError):
        load_token(file)
    given = ["--token-file", str(file)]
    commands = [
        ["rostral-gcs", "serve", "--data-dir", str(tmp_path / "data"), "--port", "0", *given],
        ["rostral-scheduler", "global", "--gcs", "127.0.0.1:1", *given],
        [
            *("rostral-objectstore", "serve", "--socket", str(tmp_path / "s"), "--memory", "16M"),
            *("--transfer", "127.0.0.1:0", *given),
        ],
    ]
    for words in commands:
        ended = refused_start(*words)
        assert ended.returncode == 78, ended
        assert "TOKEN_FILE" in ended.stderr
        assert token not in ended.stderr + ended.stdout


@needs_root
def test_another_user_reaches_no_socket_file_or_memory_of_ours(folder: Path) -> None:
    with nodes(folder) as line:
        line.start("--head", "--port", "0")
        (node,) = line.records()
        paths = [
            node["store_socket"],
            node["scheduler_socket"],
            node["token_file"],
            node["session_dir"],
            f"{node['session_dir']}/logs/node.log",
            f"{node['session_dir']}/gcs",
            f"/proc/{node['pid']}/environ",
            f"/proc/{node['pid']}/mem",
            *(f"/proc/{node['pid']}/fd/{fd}" for fd in memory_fds(node["pid"])),
        ]
        assert len(paths) > 8
        assert children_of_another_user(OPEN, *paths).stdout == ""
        # Even with the door of the directory open, each thing in it is closed.
        for place in (folder, line.folder, Path(node["session_dir"])):
            place.chmod(0o711)
        told = children_of_another_user(OPEN, *paths).stdout
        for place in (folder, line.folder, Path(node["session_dir"])):
            place.chmod(0o700)
        assert told == ""


@needs_root
def test_a_peer_of_another_user_is_turned_away_by_the_daemon_itself(
    folder: Path, store: Service
) -> None:
    path = folder / "store.sock"
    greeting = "b'ROSTRAL\\0' + (1).to_bytes(4, 'little') + bytes(4)"
    source = (
        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
        f"try:\n    s.sendall({greeting})\n    print(s.recv(1))\n"
        "except (BrokenPipeError, ConnectionResetError):\n    print(b'')\n"
    )
    try:
        folder.chmod(0o711)
        path.chmod(0o666)
        ended = children_of_another_user(source, str(path))
    finally:
        path.chmod(0o600)
        folder.chmod(0o700)
    assert ended.stdout == "b''\n", ended.stderr
    assert store.is_alive()
    assert f"uid={NOBODY}" in store.said()


def memory_fds(pid: int) -> list[str]:
    """Descriptors of the process that are shared memory."""
    place = Path(f"/proc/{pid}/fd")
    found = []
    for link in place.iterdir():
        # A descriptor listed a moment ago may be closed by now.
        with contextlib.suppress(FileNotFoundError):
            if "memfd:" in os.readlink(link):
                found.append(link.name)
    assert found
    return found


def test_shared_memory_cannot_be_cut_short_by_who_has_it_open(folder: Path, store: Service) -> None:
    (fd, *_) = memory_fds(store.process.pid)
    path = f"/proc/{store.process.pid}/fd/{fd}"
    size = os.stat(path).st_size
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    for attempt in (f"truncate -s 0 {path}", f"truncate -s {2 * size} {path}"):
        ended = subprocess.run(attempt.split(), capture_output=True, text=True, check=False)
        assert ended.returncode != 0
        assert "not permitted" in ended.stderr
    assert os.stat(path).st_size == size
    assert store.is_alive()


@needs_root
def test_a_runtime_directory_that_somebody_else_has_made_is_refused(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir(mode=0o700)
    os.chown(taken, NOBODY, NOBODY)
    refuse_to_start_in(taken)


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_runtime_directory_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    taken.chmod(mode)
    refuse_to_start_in(taken)


def test_a_runtime_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    taken = tmp_path / "taken"
    taken.symlink_to(real)
    refuse_to_start_in(taken)


def refuse_to_start_in(taken: Path) -> None:
    ended = subprocess.run(
        ["/usr/bin/env", f"ROSTRAL_RUNTIME_DIR={taken}", *start_head()],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode not in (0, 2), ended
    assert str(taken) in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(taken.iterdir()) == []


def start_head() -> list[str]:
    return [command("rostral"), "start", "--head", "--port", "0"]
