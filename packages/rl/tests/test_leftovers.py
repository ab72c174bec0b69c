"""The demo's count of leftovers, and that Ctrl-C leaves none. Real processes throughout."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
TRAINING = 5
"""Processes of a training with two workers: driver, node, zygote and they."""
COMMAND = [sys.executable, "-m", "rostral_rl"]


@pytest.fixture
def private() -> Iterator[Path]:
    """A directory with a name short enough for that of a socket in it, as pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="rl-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def leftovers(monkeypatch: pytest.MonkeyPatch, private: Path) -> Any:
    """The module, as in a process that was restarted marked, with a mark that is not the demo's."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("leftovers")
    monkeypatch.setattr(module, "GRACE_S", 0.2)
    monkeypatch.setattr(module, "MARK", "ROSTRAL_TEST_MARK")
    monkeypatch.setenv(module.MARK, f"test-{os.getpid()}-{private.name}")
    for name in ("TMPDIR", "ROSTRAL_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(private))
    return module


@contextmanager
def sleeper(*, orphan: bool) -> Iterator[int]:
    """A process that sleeps: our child, or one whose parent has gone."""
    code = "import time; print(flush=True); time.sleep(60)"
    if orphan:
        code = (
            "import os, time\n"
            "if os.fork(): os._exit(0)\n"
            "os.setsid(); print(os.getpid(), flush=True); time.sleep(60)"
        )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline().strip() or child.pid)
        if orphan:
            child.wait()
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("orphan", [False, True])
def test_a_process_left_behind_is_counted(leftovers: Any, orphan: bool) -> None:
    watch = leftovers.Leftovers()
    assert watch.settled() == ([], [])
    with sleeper(orphan=orphan) as pid:
        (found,), others = watch.settled()
        assert found.startswith(f"process {pid} ")
        assert others == []
    assert watch.settled() == ([], [])


def test_files_sockets_and_shared_memory_left_behind_are_counted(
    leftovers: Any, private: Path
) -> None:
    watch = leftovers.Leftovers()
    (private / "node.log").touch()
    shared = Path("/dev/shm") / f"rostral-test-{os.getpid()}"
    shared.touch()
    memfd = os.memfd_create("rostral-segment")
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(private / "store.sock"))
            processes, others = watch.settled()
    finally:
        os.close(memfd)
        shared.unlink()
    assert processes == []
    for sign in ("/node.log", "socket /", f"shared memory {shared}", "/memfd:rostral-segment"):
        assert any(sign in each for each in others), sign
    (private / "node.log").unlink()
    (private / "store.sock").unlink()
    assert watch.settled() == ([], [])


@pytest.mark.parametrize(
    ("score", "left", "status"), [(500.0, False, 0), (474.9, False, 1), (500.0, True, 1)]
)
def test_the_demo_fails_below_its_goal_or_with_something_left(
    leftovers: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    score: float,
    left: bool,
    status: int,
) -> None:
    demo = importlib.import_module("demo")
    figures = {"return_mean": 500.0, "env_steps": 1, "train_s": 0.1}
    planted = sleeper(orphan=True)

    @contextmanager
    def served(folder: Path) -> Iterator[str]:
        if left:
            planted.__enter__()
        yield ""

    monkeypatch.setattr(demo, "train", lambda folder: figures)
    monkeypatch.setattr(demo, "served", served)
    monkeypatch.setattr(demo, "play", lambda url: score)
    try:
        assert demo.main() == status
    finally:
        if left:
            planted.__exit__(None, None, None)
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == {
        **figures,
        "served_return_mean": score,
        "processes_left": int(left),
    }


def interrupt(leftovers: Any, command: list[str]) -> tuple[int, str]:
    """Ctrl-C in the middle of a training; returns exit status and what was said on stderr."""
    watch = leftovers.Leftovers()
    # The terminal sends the signal to its whole foreground group.
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while len(watch.processes()) < TRAINING:
                assert process.poll() is None, "it ended by itself"
                assert time.monotonic() < deadline, "the workers were not started"
                time.sleep(0.01)
            time.sleep(0.3)
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=15)
        finally:
            process.kill()
    assert watch.settled() == ([], [])
    return process.returncode, said


@pytest.mark.slow
def test_ctrl_c_in_a_training_on_a_cluster_leaves_nothing(
    leftovers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "GRACE_S", 5.0)
    status, said = interrupt(
        leftovers,
        [*COMMAND, "train", "ppo", "CartPole-v1", "--workers", "2", "--total-steps", "100000000"],
    )
    assert status == 130
    assert "interrupted" in said


@pytest.mark.slow
def test_ctrl_c_in_the_demo_leaves_nothing(
    leftovers: Any, monkeypatch: pytest.MonkeyPatch, private: Path
) -> None:
    monkeypatch.setattr(leftovers, "GRACE_S", 5.0)
    status, said = interrupt(leftovers, [sys.executable, str(EXAMPLES / "demo.py")])
    assert status == 130
    assert said.rstrip().endswith("interrupted")
    assert list(private.iterdir()) == []


@pytest.mark.slow
def test_a_training_with_workers_ends_with_nothing_left(leftovers: Any, private: Path) -> None:
    watch = leftovers.Leftovers()
    small = [f"--set={each}" for each in ("envs=4", "steps=8", "minibatch=16", "epochs=1")]
    done = subprocess.run(
        [*COMMAND, "train", "ppo", "CartPole-v1", "--workers=2", "--total-steps=64", *small],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "64 steps" in done.stdout) == (0, True), done.stderr
    assert watch.settled() == ([], [])
