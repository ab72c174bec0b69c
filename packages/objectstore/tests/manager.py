"""A service manager: it starts a daemon, keeps the segment that it parks, and hands that back.

It speaks the very protocol that systemd does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rostral_objectstore.link import wait_until_served

from .store import DEADLINE_S

# Puts the parked descriptor where a service manager would, then becomes the daemon.
START = """
import os, sys
fd = int(sys.argv[1])
if fd >= 0:
    os.dup2(fd, 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="rostral-segment")
os.execv(sys.executable, [sys.executable, "-c",
    "from rostral_objectstore.cli import main; main()", "serve", *sys.argv[2:]])
"""


class Manager:
    """Starts the daemon and keeps what it parks."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "store")
        self.spill = folder / "spill"
        self.spill.mkdir(mode=0o700)
        self._inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._inbox.settimeout(DEADLINE_S)
        self._inbox.bind(str(folder / "notify"))
        self._environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
        self.parked = -1
        self.said: list[str] = []
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self, *, hand_back: bool = True, armed: str = "", more: Sequence[str] = ()) -> None:
        """A daemon that serves; `armed` are its failpoints, `more` its further arguments."""
        fd = self.parked if hand_back else -1
        self._daemon = subprocess.Popen(
            [
                *(sys.executable, "-c", START, str(fd)),
                *("--socket", self.socket, "--memory", "64M", "--spill-dir", str(self.spill)),
                *more,
            ],
            env={**self._environment, "ROSTRAL_FAILPOINTS": armed},
            pass_fds=[fd] if fd >= 0 else [],
            stdout=subprocess.DEVNULL,
        )
        self.said.clear()
        while "READY=1" not in self.said:
            message, fds, _, _ = socket.recv_fds(self._inbox, 4096, 4)
            self.said += message.decode().splitlines()
            if fds:
                if self.parked >= 0:
                    os.close(self.parked)
                (self.parked,) = fds
        wait_until_served(self.socket, DEADLINE_S)

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self._daemon is not None
        self._daemon.send_signal(number)
        return self._daemon.wait(DEADLINE_S)

    def is_dead(self) -> bool:
        """Whether the daemon has ended; `kill` then says how."""
        assert self._daemon is not None
        return self._daemon.poll() is not None

    def close(self) -> None:
        self.kill()
        self._inbox.close()
        if self.parked >= 0:
            os.close(self.parked)
