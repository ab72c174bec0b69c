"""Workers that die: what is said of it, and that nothing of them is left running."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import rostral
from rostral.exceptions import WorkerCrashedError

from .waiting import is_alive, until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("end", "status", "signal_name", "text"),
    [
        ("exit", 3, None, "exited with status 3"),
        ("segfault", -signal.SIGSEGV, "SIGSEGV", r"killed by signal 11 \(SIGSEGV\)"),
        ("kill", -signal.SIGKILL, "SIGKILL", r"killed by signal 9 \(SIGKILL\)"),
    ],
)
def test_a_crash_says_how_the_worker_ended_and_what_it_said_last(
    cluster: rostral.Context,
    end: str,
    status: int,
    signal_name: str | None,
    text: str,
) -> None:
    del cluster

    @rostral.remote(max_retries=0)
    def doomed() -> None:
        sys.stderr.write(f"the last that was heard of it\n{os.getpid()}\n")
        if end == "segfault":
            ctypes.string_at(0)
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(3)

    with pytest.raises(WorkerCrashedError, match=text) as caught:
        rostral.get(doomed.remote())
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.exit_status == status
    assert error.signal_name == signal_name
    assert error.stderr_lines[0] == "the last that was heard of it"
    assert error.stderr_lines[1] == str(error.pid)
    assert "the last that was heard of it" in str(error)
    assert f"process {error.pid}" in str(error)


@rostral.remote(max_retries=0)
def start_children(path: Path) -> int:
    """Starts a child, one of a session of its own, and one whose parent is gone; then waits."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(100)"]
    started = f"subprocess.Popen({sleeper!r}, start_new_session=True, stdout=2)"
    detach = f"import subprocess; print({started}.pid)"
    command = [sys.executable, "-c", detach]
    orphan = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    pids = [
        subprocess.Popen(sleeper).pid,
        subprocess.Popen(sleeper, start_new_session=True).pid,
        int(orphan.stdout),
    ]
    path.write_text(f"{os.getpid()} {' '.join(map(str, pids))}")
    time.sleep(100)
    return 0


def test_what_a_worker_started_ends_with_it_and_not_before(
    cluster: rostral.Context, tmp_path: Path
) -> None:
    del cluster
    ref = start_children.remote(tmp_path / "pids")
    until(lambda: (tmp_path / "pids").exists(), "the children")
    until(lambda: (tmp_path / "pids").read_text(), "the children")
    worker, *children = map(int, (tmp_path / "pids").read_text().split())

    # Another worker's death has the zygote look for orphans; these belong to a living one.
    @rostral.remote(max_retries=0)
    def end() -> None:
        os._exit(1)

    with pytest.raises(WorkerCrashedError):
        rostral.get(end.remote())
    assert all(is_alive(pid) for pid in children)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(WorkerCrashedError):
        rostral.get(ref)
    until(lambda: not any(is_alive(pid) for pid in children), "the end of the children")


def test_what_workers_started_ends_with_the_zygote(
    cluster: rostral.Context, tmp_path: Path
) -> None:
    del cluster
    ref = start_children.remote(tmp_path / "pids")
    until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text(), "the children")
    _, child, *_ = map(int, (tmp_path / "pids").read_text().split())
    zygote = rostral._context.connected().ask("status", {})["zygote_pid"]
    os.kill(zygote, signal.SIGKILL)
    with pytest.raises(WorkerCrashedError, match="the process that forks workers died"):
        rostral.get(ref)
    until(lambda: not is_alive(child), "the end of the child")
    left = map(int, (tmp_path / "pids").read_text().split())
    for pid in left:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_an_actors_children_end_with_it(cluster: rostral.Context) -> None:
    del cluster

    @rostral.remote
    class Parent:
        def start(self) -> int:
            program = [sys.executable, "-c", "import time; time.sleep(100)"]
            self.child = subprocess.Popen(program)
            return self.child.pid

    parent_class: Any = Parent
    parent = parent_class.remote()
    child = rostral.get(parent.start.remote())
    assert is_alive(child)
    rostral.kill(parent)
    until(lambda: not is_alive(child), "the end of the child")
