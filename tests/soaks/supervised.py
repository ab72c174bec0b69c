"""Services that are started again when they end, as systemd does it, for soaks that kill them.

Owns the processes, what they park with their manager, and when the next one is started. It speaks
the very protocol that systemd does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

RESTART_PAUSE_S = 0.5
"""As the units have it."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0
LOOK_INTERVAL_S = 0.02
PARKED_NAME = "rostral-segment"

# Puts a parked descriptor where a service manager would, then becomes the service.
_START = """
import os, sys
fd = int(sys.argv[1])
if fd >= 0:
    os.dup2(fd, 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""
_STARTER = (sys.executable, "-S", "-E", "-c", _START)


class Service:
    """One service; each of its processes is started when the one before it has ended.

    Attributes:
        name: For people.
        pid: Of the present process; 0: there is none.
        is_ready: Whether it has said that it serves.
        starts: How many processes it had.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.pid = 0
        self.is_ready = False
        self.starts = 0
        self.statuses: list[int] = []
        self._command = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
        self._notify = folder / f"{name}.notify"
        self._inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._inbox.bind(str(self._notify))
        self._environment = {
            **os.environ,
            **(environment or {}),
            "NOTIFY_SOCKET": str(self._notify),
        }
        self._parked = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._due_s = 0.0
        self._stopping = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Starts a process; `look` says when it serves."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        parked = self._parked
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_STARTER, str(parked), PARKED_NAME, sys.executable, *self._command],
                env=self._environment,
                pass_fds=[parked] if parked >= 0 else [],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid, self.is_ready = self._process.pid, False
        self.starts += 1

    def look(self) -> None:
        """Hears what the process says; starts another one if it is time."""
        with self._lock:
            self._hear()
            process = self._process
            if process is not None and process.poll() is not None:
                self.statuses.append(process.returncode)
                self.pid, self.is_ready, self._process = 0, False, None
                self._due_s = time.monotonic() + RESTART_PAUSE_S
            if self._process is None and not self._stopping and time.monotonic() >= self._due_s:
                self._start()

    def _hear(self) -> None:
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._inbox, 4096, 4)
            except BlockingIOError:
                return
            said = message.decode(errors="replace").splitlines()
            # What a dead one had said last is not the next one's word.
            if "READY=1" in said and self._process is not None:
                self.is_ready = True
            for fd in fds:
                self._park(fd)
            if "FDSTOREREMOVE=1" in said:
                self._park(-1)

    def _park(self, fd: int) -> None:
        if self._parked >= 0:
            os.close(self._parked)
        self._parked = fd

    def kill(self, *, lose_parked: bool = False) -> bool:
        """Ends the process with SIGKILL. False: there is none that serves.

        Args:
            lose_parked: With what it had parked, as when its machine is gone.
        """
        with self._lock:
            if self._process is None or not self.is_ready:
                return False
            if lose_parked:
                self._park(-1)
            self._process.kill()
            self.is_ready = False
            return True

    def stop(self) -> int | None:
        """Ends the process in order; returns its exit status, or None if it had to be killed."""
        with self._lock:
            self._stopping = True
            process, self._process = self._process, None
            self.pid, self.is_ready = 0, False
        status: int | None = 0
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = None
        self._park(-1)
        self._inbox.close()
        with contextlib.suppress(FileNotFoundError):
            self._notify.unlink()
        return status


class Supervisor(threading.Thread):
    """Looks after services until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(name="supervisor", daemon=True)
        self.services: list[Service] = []
        self._ending = threading.Event()

    def add(self, service: Service) -> Service:
        """Starts a service, and sees to it from here on; returns it."""
        service.start()
        self.services.append(service)
        return service

    def run(self) -> None:
        """Until `stop`."""
        while not self._ending.wait(LOOK_INTERVAL_S):
            for service in list(self.services):
                service.look()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Waits until all services serve. Raises TimeoutError that names those that do not."""
        deadline_s = time.monotonic() + timeout_s
        while late := [service.name for service in self.services if not service.is_ready]:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"after {timeout_s} s these do not serve: {', '.join(late)}")
            time.sleep(LOOK_INTERVAL_S)

    def stop(self) -> dict[str, int | None]:
        """Ends all services, the last first; returns the exit statuses of those processes."""
        self._ending.set()
        self.join()
        return {service.name: service.stop() for service in reversed(self.services)}
