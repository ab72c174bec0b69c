"""What a session changes of its driver's process: how it ends when told to, how many files it has.

Each change can be put back, and is at the session's end. A node's process takes the files too.
"""

from __future__ import annotations

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

    Only where nobody else handles the signal, and from the main thread: others cannot. Returns what
    puts back what was there.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return lambda: None
    pid = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != pid:
            # A forked child: it ends as it would have without its parent's session.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        sys.exit(STATUS_OF_SIGNAL + number)

    signal.signal(signal.SIGTERM, leave)

    def put_back() -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    return put_back
