"""What a session changes of its driver's process: how it ends when told to, how many files it has.

Each change can be put back, and is at the session's end. A node's process takes the files too.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

# Sockets and pipes of thousands of actors; beyond this, a program that asks for "all descriptors up
# to the limit" would take its time.
FILES_WANTED = 65_536
STATUS_OF_SIGNAL = 128


def raise_file_limit() -> Callable[[], None]:
    """Allows this process, and those it starts, more open files. Returns what puts that back."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if most == resource.RLIM_INFINITY else min(most, FILES_WANTED)
    if before == resource.RLIM_INFINITY or before >= wanted:
        return lambda: None
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))

    def put_back() -> None:
        # What the program has said meanwhile stays.
        if resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, most):
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))

    return put_back


def exit_when_terminated() -> Callable[[], None]:
    """Makes SIGTERM raise SystemExit in the main thread, so that `finally` and atexit run.

    Only where nobody else handles the signal, and from the main thread: others cannot. Not in
    forked children. Returns what puts back what was there.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return lambda: None
    _hook_forks()
    signal.signal(signal.SIGTERM, leave)

    def put_back() -> None:
        if threading.current_thread() is threading.main_thread():
            _let_go()

    return put_back


def leave(number: int, frame: FrameType | None) -> None:
    """Handles SIGTERM."""
    del frame
    sys.exit(STATUS_OF_SIGNAL + number)


def _let_go() -> None:
    if signal.getsignal(signal.SIGTERM) is leave:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


# ---- forks
#
# A forked child ends on SIGTERM as it would without its parent's session. Until it has got there
# the signal waits: a child of Python's forgets signals that come before it is itself.

_held = threading.local()


@functools.cache
def _hook_forks() -> None:
    """Once for the process: hooks cannot be taken back. They do nothing while `leave` is unused."""
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
    )


def _before_fork() -> None:
    if signal.getsignal(signal.SIGTERM) is leave:
        _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _after_fork() -> None:
    mask = _held.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    _let_go()
    _after_fork()
