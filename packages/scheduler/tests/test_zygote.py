"""The zygote with real processes: forks, environment, ends."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from rostral_scheduler.errors import WorkerStartError
from rostral_scheduler.local.logs import make_pipe
from rostral_scheduler.local.zygote_process import ZygoteProcess
from rostral_scheduler.worker_start import WorkerStart
from rostral_scheduler.zygote_start import start_zygote

from .node import DEADLINE_S, is_alive


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.pids: dict[bytes, int] = {}
        self.exits: dict[int, int] = {}
        self.lost = False

    def worker_forked(self, worker_id: bytes, pid: int) -> None:
        self.pids[worker_id] = pid

    def worker_not_forked(self, worker_id: bytes, error: str) -> None:
        raise AssertionError(error)

    def worker_exited(self, pid: int, status: int) -> None:
        self.exits[pid] = os.waitstatus_to_exitcode(status)

    def zygote_lost(self, zygote: ZygoteProcess) -> None:
        del zygote
        self.lost = True


async def until(condition: object) -> None:
    """Waits for a condition on the running loop."""
    assert callable(condition)
    async with asyncio.timeout(DEADLINE_S):
        # What is waited for comes from another process.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def start_of(worker_id: bytes) -> WorkerStart:
    return WorkerStart(
        worker_id=worker_id,
        node_id=bytes(16),
        store_socket="",
        scheduler_socket="",
        session_dir="",
        kind="worker",
        actor_id=None,
    )


async def forked(zygote: ZygoteProcess, heard: Heard, what: str) -> tuple[int, str]:
    """Forks a worker of bare_worker.py; returns its pid and what it wrote."""
    worker_id = os.urandom(16)
    read, write = make_pipe()
    zygote.fork(start_of(worker_id), {"WHAT": what}, write, write)
    os.close(write)
    await until(lambda: worker_id in heard.pids)
    written = b""
    while what != "wait":
        try:
            part = os.read(read, 65536)
        except BlockingIOError:
            await asyncio.sleep(0.002)
            continue
        if not part:
            break
        written += part
    os.close(read)
    return heard.pids[worker_id], written.decode()


def running_zygote(heard: Heard, entry: str = "bare_worker:main") -> ZygoteProcess:
    started = start_zygote(entry=entry, preload=("json", "no_such_module"), environment={})
    return ZygoteProcess(heard, started, entry=entry)


def run(coroutine: object) -> None:
    assert asyncio.iscoroutine(coroutine)
    asyncio.run(coroutine)


def test_child_has_its_own_output_environment_and_signals() -> None:
    async def scenario() -> None:
        heard = Heard()
        zygote = running_zygote(heard)
        await zygote.wait_ready(DEADLINE_S)
        pid, written = await forked(zygote, heard, "describe")
        await until(lambda: pid in heard.exits)
        assert heard.exits[pid] == 0
        assert is_alive(zygote.pid)
        assert written.splitlines() == [
            f"pid {pid} parent {zygote.pid}",
            "what describe",
            "stdin ''",
            "sigterm default",
            "session of the zygote",
            "descriptors 0 1 2",
        ]
        await zygote.stop()

    run(scenario())


@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        ("return", 0, ""),
        ("exit 7", 7, ""),
        ("raise", 1, "ValueError: on purpose"),
        ("kill", -signal.SIGKILL, ""),
    ],
)
def test_end_of_a_worker_is_reported_as_it_was(what: str, code: int, text: str) -> None:
    async def scenario() -> None:
        heard = Heard()
        zygote = running_zygote(heard)
        await zygote.wait_ready(DEADLINE_S)
        pid, written = await forked(zygote, heard, what)
        await until(lambda: pid in heard.exits)
        assert heard.exits[pid] == code
        assert text in written
        await zygote.stop()

    run(scenario())


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_workers_end_with_their_zygote(how: str) -> None:
    async def scenario() -> None:
        heard = Heard()
        zygote = running_zygote(heard)
        await zygote.wait_ready(DEADLINE_S)
        pids = [(await forked(zygote, heard, "wait"))[0] for _ in range(3)]
        assert all(is_alive(pid) for pid in pids)
        if how == "killed":
            os.kill(zygote.pid, signal.SIGKILL)
            await until(lambda: heard.lost)
        await zygote.stop()
        await until(lambda: not any(is_alive(pid) for pid in pids))

    run(scenario())


def test_module_that_fails_to_import_is_told_with_its_traceback() -> None:
    async def scenario() -> None:
        heard = Heard()
        zygote = running_zygote(heard, "bare_worker:absent")
        with pytest.raises(WorkerStartError, match="has no attribute 'absent'"):
            await zygote.wait_ready(DEADLINE_S)
        assert not heard.lost

    run(scenario())
