"""The zygote: one warm, single-threaded Python process that forks the node's workers.

Run by the local scheduler (``zygote_process.py``) with the arguments FD ENTRY PRELOAD. The two talk
over the inherited SOCK_SEQPACKET socket FD: one message is one packet, in MessagePack.

    to the zygote:    {"start": {WorkerStart's fields}, "env": {...}} with two descriptors, the
                      worker's stdout and stderr
    from the zygote:  {"ready": pid} | {"broken": text} | {"forked": worker_id, "pid": pid}
                      | {"failed": worker_id, "error": text}
                      | {"exited": pid, "status": wait status}

It must stay single-threaded (only then is a fork safe) and must import nothing that attaches to
the node: what it opens, all workers would share. Its end is the end of all its workers: when the
scheduler closes the socket or dies, it kills them; when it is killed itself, the kernel does
(PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Collection
from typing import Any, Final, NoReturn

import msgspec

from rostral_scheduler.worker_start import WorkerStart

__all__ = ["MESSAGE_SIZE_MAX", "main"]

MESSAGE_SIZE_MAX: Final = 128 * 1024
"""Bytes of one message: less than a default socket buffer, so that it always fits in whole."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_OWNER: Final = "ROSTRAL_WORKER_PID"
"""Set in each worker, and so in every program that it starts: whose child an orphan is."""
_RESET_SIGNALS: Final = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE),
)

Entry = Callable[[WorkerStart], object]


def main(arguments: list[str]) -> None:
    """Imports what workers need, then forks them until the scheduler's end of the socket closes."""
    connection = socket.socket(fileno=int(arguments[0]))
    connection.set_inheritable(False)
    entry_name, preload = arguments[1], [name for name in arguments[2].split(",") if name]
    try:
        entry = _load(entry_name, preload)
    except Exception:
        connection.send(msgspec.msgpack.encode({"broken": traceback.format_exc(limit=-3)[-4000:]}))
        return
    # What is there now will be in every worker: keep the collector's marks off these pages, so
    # that they stay shared.
    gc.collect()
    gc.freeze()
    Zygote(connection, entry).run()


def _load(entry_name: str, preload: list[str]) -> Entry:
    for name in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    module_name, _, function_name = entry_name.partition(":")
    entry: Entry = getattr(importlib.import_module(module_name), function_name or "main")
    return entry


class Zygote:
    """The loop of the zygote and its children.

    Args:
        connection: Packets from and to the scheduler.
        entry: What a worker does; its return is the worker's end.
    """

    def __init__(self, connection: socket.socket, entry: Entry) -> None:
        self._connection = connection
        self._entry = entry
        self._children: set[int] = set()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._pid = os.getpid()

    def run(self) -> None:
        """Serves until the scheduler is gone, then kills and reaps every worker."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noted)
        # Ctrl-C and polite ends are the scheduler's to receive; ours is the socket's end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._libc.prctl(_PR_SET_NAME, b"rostral-zygote", 0, 0, 0)
        # What a dead worker leaves running becomes ours, and no process of the system's.
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            self._send({"ready": self._pid})
            self._selector.register(self._connection, selectors.EVENT_READ)
            self._selector.register(self._wake_read, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in self._selector.select()}
                if self._wake_read in ready:
                    self._drain_wakeups()
                    self._reap()
                if self._connection.fileno() in ready and not self._serve_one():
                    return
        except (BrokenPipeError, ConnectionError):
            return
        finally:
            if os.getpid() == self._pid:
                self._end_children()

    def _serve_one(self) -> bool:
        """Takes one request. False at the end of the socket."""
        data, fds, _, _ = socket.recv_fds(
            self._connection, MESSAGE_SIZE_MAX, 2, socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return False
        try:
            message = msgspec.msgpack.decode(data)
            start = WorkerStart(**message["start"])
            self._fork(start, message["env"], fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _fork(self, start: WorkerStart, environment: dict[str, str], fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._send({"failed": start.worker_id, "error": f"fork: {error.strerror}"})
            return
        if pid == 0:
            self._become_worker(start, environment, fds)
        self._children.add(pid)
        self._send({"forked": start.worker_id, "pid": pid})

    def _become_worker(
        self, start: WorkerStart, environment: dict[str, str], fds: list[int]
    ) -> NoReturn:
        status = 1
        try:
            self._leave_zygote(environment, fds)
            self._entry(start)
            status = 0
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            # Never back into the zygote's loop, whatever happened.
            with contextlib.suppress(BaseException):
                atexit._run_exitfuncs()
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status & 0xFF)

    def _leave_zygote(self, environment: dict[str, str], fds: list[int]) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._pid:
            os._exit(1)  # The zygote died before the kernel was told to tell us.
        # A group of its own: what it starts can be told from what others start.
        os.setpgid(0, 0)
        os.environ[_OWNER] = str(os.getpid())
        signal.set_wakeup_fd(-1)
        for number in _RESET_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        self._connection.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (fds[0], 1), (fds[1], 2)):
            os.dup2(source, target)
        for fd in (null, *fds):
            os.close(fd)
        # Fresh text streams: the inherited ones may believe that they still write to a file, and
        # seek in it.
        sys.stdout, sys.stderr = (
            open(fd, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
            for fd in (1, 2)
        )
        os.environ.update(environment)
        self._libc.prctl(_PR_SET_NAME, b"rostral-worker", 0, 0, 0)
        if (numpy_random := sys.modules.get("numpy.random")) is not None:
            # Python's own generator reseeds itself after a fork; NumPy's global one does not, and
            # all workers would draw the same numbers.
            numpy_random.seed()

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                break
            if pid in self._children:
                self._children.discard(pid)
                self._send({"exited": pid, "status": status})
        self._end_orphans()

    def _end_orphans(self) -> None:
        """Ends what dead workers have left running. What a living one has set free stays."""
        for pid in orphans_of(self._pid, self._children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _end_children(self) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while True:
            try:
                pid, _ = os.waitpid(-1, 0)
            except ChildProcessError:
                return
            self._children.discard(pid)
            self._end_orphans()

    def _send(self, message: dict[str, Any]) -> None:
        self._connection.send(msgspec.msgpack.encode(message))


def orphans_of(parent: int, workers: Collection[int]) -> list[int]:
    """Children of the zygote that are no workers and belong to no living one."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) in workers:
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                _, ppid, group = file.read().rpartition(b")")[2].split()[:3]
            if int(ppid) != parent or int(group) in workers:
                continue
            with open(f"/proc/{entry}/environ", "rb") as file:
                marks = [m for m in file.read().split(b"\0") if m.startswith(_OWNER.encode())]
        except OSError:
            continue
        owners = [mark.partition(b"=")[2] for mark in marks]
        if not any(owner.isdigit() and int(owner) in workers for owner in owners):
            found.append(int(entry))
    return found


def _noted(_number: int, _frame: object) -> None:
    """The wake-up descriptor has it already."""
