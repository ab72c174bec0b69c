"""Starts the process of a zygote. Imports little: a node starts one before it imports all else.

A zygote takes longer than anything else at a node's start, for it imports what workers need; so it
does that on one CPU while the node imports and starts its other parts on another.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PRELOADED", "THREAD_LIMITS", "WORKER_MODULE", "StartedZygote", "start_zygote"]

WORKER_MODULE = "rostral.worker:main"
"""What a worker runs, ``module:function``."""

PRELOADED = ("numpy", "cloudpickle")
"""Imported in a zygote if installed, so that workers have them at once."""

# With the same module search path as ours, also where that was changed after the start; not by
# PYTHONPATH, which other programs that workers start would inherit.
_PROGRAM = (
    "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); "
    "from rostral_scheduler.local.zygote import main; main(sys.argv[1:])"
)

# A worker shares its machine with as many others as there are CPUs: a BLAS that starts a thread for
# each CPU in every one of them makes all of them slow. What is loaded here has one thread; what a
# worker loads later has as many as its first task has CPUs. Whoever wants otherwise sets these.
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class StartedZygote:
    """A zygote that may not be ready yet, and our end of its socket. It ends with that."""

    process: subprocess.Popen[bytes]
    connection: socket.socket

    def abandon(self) -> None:
        """Ends it, and waits for that: nobody will use it."""
        self.connection.close()
        self.process.wait()


def start_zygote(
    *,
    entry: str,
    preload: Sequence[str],
    environment: Mapping[str, str],
    interpreter: Sequence[str] = (sys.executable,),
    path: Sequence[str] | None = None,
    cgroup: Path | None = None,
    uid: int | None = None,
) -> StartedZygote:
    """Starts the process. Blocks for a vfork and an exec: under a millisecond.

    Args:
        entry: ``module:function`` that a worker runs.
        preload: What it imports beside that, if it is installed.
        environment: Set over our own.
        interpreter: The command that runs Python.
        path: Where it looks for modules; None: where we do.
        cgroup: The control group to put it and its workers into; None: ours.
        uid: The user that it and its workers run as, in our group; None: ours.

    Raises:
        OSError: The control group takes no process, or we may not start one of that user.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    places = os.pathsep.join(filter(None, sys.path if path is None else path))
    with theirs:
        process = subprocess.Popen(
            [
                *(*interpreter, "-P", "-c", _PROGRAM, places),
                *(str(theirs.fileno()), entry, ",".join(preload)),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=dict.fromkeys(THREAD_LIMITS, "1") | {**os.environ, **environment},
            # Ctrl-C in the terminal that started the node must not reach the workers.
            start_new_session=True,
            user=uid,
            extra_groups=None if uid is None else [],
        )
    ours.setblocking(False)
    if cgroup is not None:
        # Its children follow, and it has none before it is asked for one.
        (cgroup / "cgroup.procs").write_text(str(process.pid))
    return StartedZygote(process, ours)
