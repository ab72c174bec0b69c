"""Finds what a program has left behind: processes, sockets, shared memory, files.

A process of ours is told by a mark in its environment, which forks and execs inherit and which
outlives being orphaned, or by descent. Files and socket names are told by a private directory, to
which everything that asks for a temporary or runtime directory is sent. So other programs of the
same user, a second demo included, are never counted.
"""

from __future__ import annotations

import gc
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

MARK = "ROSTRAL_DEMO_MARK"
PROC = Path("/proc")
SHARED = Path("/dev/shm")
GRACE_S = 5.0
"""What is on its way out gets this long to be gone."""


def restart_marked() -> None:
    """Replaces this process by itself, marked and with a private directory.

    It must be the environment of an exec: that is the one which a fork shows in /proc. Ctrl-C is
    ignored until `interruptible`, for nobody would remove the directory.
    """
    if MARK in os.environ:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    private = tempfile.mkdtemp(prefix="rostral-demo-")
    added = {MARK: secrets.token_hex(8), "TMPDIR": private, "ROSTRAL_RUNTIME_DIR": private}
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **added})


def interruptible() -> None:
    """Lets Ctrl-C raise KeyboardInterrupt again."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def private_directory() -> Path:
    """Where everything temporary of this run lies."""
    return Path(os.environ["TMPDIR"])


class Leftovers:
    """What there was at the start, so that what is there at the end can be told from it."""

    def __init__(self) -> None:
        self._shared = _names(SHARED)
        self._own = _own()

    def processes(self) -> list[str]:
        """Living processes of ours but this one: "pid command"."""
        marked = f"{MARK}={os.environ[MARK]}".encode()
        parents: dict[int, int] = {}
        ours: set[int] = set()
        for entry in PROC.iterdir():
            if not entry.name.isdigit():
                continue
            pid = int(entry.name)
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                if status[0] == "Z" and int(status[1]) != os.getpid():
                    continue  # A corpse that its own parent, or init, is about to bury.
                parents[pid] = int(status[1])
                if marked in (entry / "environ").read_bytes().split(b"\0"):
                    ours.add(pid)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        for pid in parents:
            ancestor = pid
            while ancestor in parents and ancestor != os.getpid():
                ancestor = parents[ancestor]
            if ancestor == os.getpid():
                ours.add(pid)
        return [f"process {pid} {_command(pid)}" for pid in sorted(ours - {os.getpid()})]

    def others(self) -> list[str]:
        """Sockets, shared memory and files of ours that are still there."""
        private = str(private_directory())
        sockets = [
            f"socket {line.split()[-1]}"
            for line in (PROC / "net" / "unix").read_text().splitlines()[1:]
            if private in line
        ]
        shared = [
            f"shared memory {SHARED / name}"
            for name in _names(SHARED) - self._shared
            if name.startswith(("rostral", "torch_"))
        ]
        own = [f"still held by this process: {name}" for name in sorted(_own() - self._own)]
        files = [f"file {path}" for path in private_directory().rglob("*") if not path.is_dir()]
        return [*sockets, *shared, *own, *files]

    def settled(self) -> tuple[list[str], list[str]]:
        """Processes and others, after waiting up to `GRACE_S` for what is on its way out."""
        deadline = time.monotonic() + GRACE_S
        while True:
            # The engine unmaps the segment with the last object that refers to it, which may be
            # part of a cycle.
            gc.collect()
            found = self.processes(), self.others()
            if not any(found) or time.monotonic() > deadline:
                return found
            time.sleep(0.05)


def remove_private_directory() -> None:
    """Deletes the private directory; to be called after the count."""
    shutil.rmtree(private_directory(), ignore_errors=True)


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def _own() -> set[str]:
    """Sockets and shared memory that this process has open or mapped."""
    found: set[str] = set()
    for entry in (PROC / "self" / "fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        if target.startswith(("/memfd:", "socket:")):
            found.add(f"descriptor {entry.name} {target}")
    for line in (PROC / "self" / "maps").read_text().splitlines():
        if "/memfd:" in line:
            found.add(f"mapping {line.split(maxsplit=5)[-1]}")
    return found


def _command(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120]
    except (FileNotFoundError, ProcessLookupError):
        return "(gone)"
