"""Users of the machine: the one that a service's workers run as, and capabilities of its own.

Owns the meaning of the setting ``worker_user``. A unit that gives its service the capability to
start processes as somebody else says so by ``ROSTRAL_WORKER_USER`` in its environment.
"""

from __future__ import annotations

import ctypes
import os
import pwd
from typing import Final

from rostral_gcs.errors import ConfigError

__all__ = ["hide_memory", "keep_capabilities", "uid_of", "worker_user_of_unit"]

_VARIABLE: Final = "ROSTRAL_WORKER_USER"
_PR_SET_DUMPABLE: Final = 4
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4


def worker_user_of_unit() -> str | None:
    """The user that the unit has for workers; None: they run as the service's own."""
    return os.environ.get(_VARIABLE) or None


def uid_of(user: str | None) -> int | None:
    """The number of a user; None for nobody in particular, or for ourselves.

    Raises:
        ConfigError: There is no such user.
    """
    if not user:
        return None
    try:
        found = pwd.getpwnam(user).pw_uid
    except KeyError as error:
        problem = f"worker_user {user[:80]!r} is no user of this machine"
        how = "make it with systemd-sysusers, or leave worker_user empty"
        raise ConfigError(problem, hint=how, problems=[f"{problem}; {how}"]) from error
    return None if found == os.geteuid() else found


def keep_capabilities() -> None:
    """What the unit has given stays in this process: programs that it starts have none of it.

    Linux hands a service's capabilities on at ``execve`` by the ambient set alone.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # A kernel that knows no ambient set hands none on.
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def hide_memory() -> None:
    """Others of our user cannot trace this process or read its memory, which holds the token.

    Programs that it starts are as they would be without.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
