"""What a service says to systemd and is given by it. Without systemd all of it does nothing.

Owns the protocols of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3), the directories
that a unit asks for, and its credentials (systemd.exec(5)). When to say what is in
``life.py``.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from rostral_gcs.errors import ConfigError

__all__ = [
    "TLS_DEFAULTS",
    "configure_logging",
    "credential",
    "directory",
    "inherited_fds",
    "inherited_socket",
    "is_managed",
    "notify",
    "reloading",
    "watchdog_interval_s",
]

_FIRST_INHERITED_FD: Final = 3
_PLAIN_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
# sd-daemon(3): the journal reads the priority at the beginning of a line, and adds the time itself.
_PRIORITIES: Final = {
    logging.CRITICAL: "<2>",
    logging.ERROR: "<3>",
    logging.WARNING: "<4>",
    logging.INFO: "<6>",
    logging.DEBUG: "<7>",
}


def is_managed() -> bool:
    """Whether a service manager has started this process, and wants to hear of it."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(*states: str, fds: Sequence[int] = ()) -> bool:
    """Tells the service manager. False: there is none, or it does not listen.

    Args:
        states: ``NAME=VALUE`` each, as in sd_notify(3).
        fds: Descriptors to hand over; they stay the caller's too.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    # "@" stands for the zero byte of the abstract namespace.
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.connect(target)
            socket.send_fds(to, ["\n".join(states).encode()], list(fds))
    except OSError:
        # A service that runs is worth more than a manager that knows it.
        return False
    return True


def reloading() -> bool:
    """Tells the manager that a reload begins; the next READY=1 ends it."""
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}")


def watchdog_interval_s() -> float | None:
    """How often to send WATCHDOG=1: twice as often as the unit wants it. None: not at all."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isdecimal() and int(text) > 0 else None


def inherited_fds(name: str) -> list[int]:
    """The descriptors that the manager passed to this process under the name; close-on-exec.

    They are given once: afterwards the environment says nothing of them any more, so that no child
    takes them for its own. Descriptors of other names are closed.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)
    found = []
    for at in range(count):
        fd = _FIRST_INHERITED_FD + at
        if at < len(names) and names[at] == name:
            os.set_inheritable(fd, False)
            found.append(fd)
        else:
            os.close(fd)
    return found


def inherited_socket(name: str) -> socket.socket | None:
    """The listening socket that the unit's ``.socket`` holds for this service; None: there is none.

    Raises:
        ConfigError: There are several.
    """
    fds = inherited_fds(name)
    if len(fds) > 1:
        for fd in fds:
            os.close(fd)
        problem = f"the socket unit listens at {len(fds)} addresses; one is served"
        raise ConfigError(problem, hint="leave one ListenStream= in it", problems=[problem])
    return socket.socket(fileno=fds[0]) if fds else None


def credential(name: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file that the unit's LoadCredential= has put there for this service, if it has."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return None
    path = Path(folder) / name
    return path if path.exists() else None


TLS_DEFAULTS: Final[Mapping[str, tuple[Callable[[], Path | None], str]]] = {
    f"tls_{kind}_file": (partial(credential, f"tls-{kind}"), f"the unit's tls-{kind}, else none")
    for kind in ("certificate", "key", "ca")
}
"""Of settings: the files of TLS are the unit's credentials of these names, if it has any."""


def directory(kind: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The first directory that the manager made for this service, if it made one.

    Args:
        kind: ``RUNTIME``, ``STATE``, ``CACHE``, ``LOGS`` or ``CONFIGURATION``, as in
            ``RuntimeDirectory=``.
        environ: Where the manager says so.
    """
    first = environ.get(f"{kind}_DIRECTORY", "").partition(":")[0]
    return Path(first) if first else None


class _JournalFormatter(logging.Formatter):
    """Each line with its priority; a traceback has many lines and must not break into pieces."""

    def format(self, record: logging.LogRecord) -> str:
        priority = _PRIORITIES.get(record.levelno, "<5>")
        return "\n".join(priority + line for line in super().format(record).splitlines())


def configure_logging(level: str) -> None:
    """Logs to standard error: with the time, or as the journal wants it where that reads us.

    May be called again with another level.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    root = logging.getLogger()
    root.setLevel(level.upper())
    if root.handlers:
        return
    handler = logging.StreamHandler()
    if _writes_to_journal():
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter(_PLAIN_FORMAT))
    root.addHandler(handler)


def _writes_to_journal() -> bool:
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or something that a test put there
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
