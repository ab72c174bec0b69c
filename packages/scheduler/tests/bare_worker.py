"""A worker module without a store, for the tests of the zygote."""

from __future__ import annotations

import os
import signal
import sys

from rostral_scheduler.worker_start import WorkerStart


def main(start: WorkerStart) -> None:
    """Does what the environment says."""
    what = os.environ["WHAT"]
    match what.split():
        case ["describe"]:
            describe(what)
        case ["exit", code]:
            sys.exit(int(code))
        case ["raise"]:
            raise ValueError("on purpose")
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["wait"]:
            signal.pause()


def describe(what: str) -> None:
    """Writes what a child must have of its own."""
    is_default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    in_session = os.getsid(0) == os.getppid()
    # The listing itself has one more open.
    descriptors = sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1]
    lines = [
        f"pid {os.getpid()} parent {os.getppid()}",
        f"what {what}",
        f"stdin {sys.stdin.read()!r}",
        f"sigterm {'default' if is_default else 'not default'}",
        f"session {'of the zygote' if in_session else 'of somebody else'}",
        "descriptors " + " ".join(str(number) for number in descriptors),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
