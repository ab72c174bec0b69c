"""The control group that a service manager has given us, divided: ourselves apart from workers.

Owns the two groups below it and the kernel's limit for workers (cgroup v2). What a worker starts
is in the workers' group too, so that neither its memory nor its number of processes is ours. It is
used once, before the first worker is started.

Linux keeps processes out of a group that hands controllers on to groups below it: so we move to a
group of our own before anything else.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

__all__ = ["divide_cgroup"]

logger = logging.getLogger("rostral.scheduler.cgroup")

_MOUNTS: Final = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_CONTROLLERS: Final = ("cpu", "memory", "pids")
_OWN: Final = "daemon"
_WORKERS: Final = "workers"


def divide_cgroup(
    memory_max_bytes: int | None,
    *,
    mounts: tuple[Path, ...] = _MOUNTS,
    membership: Path = Path("/proc/self/cgroup"),
) -> Path | None:
    """Moves this process to a group of its own, and makes one for workers beside it.

    Returns the workers' group, or None, with a warning in the log, where it cannot be had: a node
    without limits is worth more than none.

    Args:
        memory_max_bytes: What the workers' group may take before the kernel ends one of its
            processes; None: no limit of its own.
        mounts: Where the unified hierarchy may be mounted.
        membership: Says which group this process is in.
    """
    try:
        given = _given_group(mounts, membership)
        if given is None:
            logger.warning("there is no unified hierarchy of control groups: workers have no limit")
            return None
        for name in (_OWN, _WORKERS):
            (given / name).mkdir(exist_ok=True)
        _write(given / _OWN / "cgroup.procs", str(os.getpid()))
        _hand_on(given)
        workers = given / _WORKERS
        if memory_max_bytes is not None:
            _limit(workers, memory_max_bytes)
    except OSError as error:
        logger.warning("the control group cannot be divided, workers have no limit: %s", error)
        return None
    return workers


def _given_group(mounts: tuple[Path, ...], membership: Path) -> Path | None:
    mount = next((path for path in mounts if (path / "cgroup.controllers").exists()), None)
    if mount is None:
        return None
    for line in membership.read_text().splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            # After a restart within the process's life: we are in our own group already.
            return mount / path.removesuffix(f"/{_OWN}").lstrip("/")
    return None


def _hand_on(given: Path) -> None:
    """Gives the groups below what this one has."""
    had = (given / "cgroup.controllers").read_text().split()
    wanted = [name for name in _CONTROLLERS if name in had]
    missing = [name for name in _CONTROLLERS if name not in had]
    if missing:
        logger.info("no controllers for %s in the control group", ", ".join(missing))
    if wanted:
        _write(given / "cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))


def _limit(workers: Path, memory_max_bytes: int) -> None:
    if not (workers / "memory.max").exists():
        logger.warning("the memory of workers is not limited: there is no controller for it here")
        return
    _write(workers / "memory.max", str(memory_max_bytes))
    # One worker too large is one death, and not that of all.
    _write(workers / "memory.oom.group", "0")


def _write(path: Path, text: str) -> None:
    # Not Path.write_text: what the kernel refuses must be an error of this very write.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
