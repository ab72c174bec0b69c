"""What /proc and the cgroup say about memory: of the machine, of processes, and of kills for it.

This file owns the reading and parsing. A process that is gone, or a file that this system does not
have, counts as nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["MemoryLimit", "OomKills", "memory_limits", "own_bytes", "process_table"]

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_MIB: Final = 1 << 20


class MemoryLimit(NamedTuple):
    """One limit that the node is under, and how much of it is taken; bytes."""

    used_bytes: int
    limit_bytes: int
    name: str


def memory_limits(workers_cgroup: Path | None = None) -> list[MemoryLimit]:
    """The machine's, and those of the cgroup and of the ones above it, if they have any.

    Args:
        workers_cgroup: The workers' own, of version 2; None: they are in this process's.
    """
    found = [*_machine(), *_cgroups(workers_cgroup)]
    return [limit for limit in found if limit.limit_bytes > 0]


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    found = {}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, value = line.replace(":", " ").partition(" ")
            number = value.split()
            if number and number[0].isdecimal():
                found[name] = int(number[0])
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # none, or "max"
        return None


def _machine() -> Iterator[MemoryLimit]:
    fields = _fields(Path("/proc/meminfo"))
    total = fields.get("MemTotal", 0) << 10
    yield MemoryLimit(total - (fields.get("MemAvailable", 0) << 10), total, "the machine's memory")


def _cgroup_folder() -> tuple[Path, bool] | None:
    """(folder of this process's memory cgroup, whether it is of version 2)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and (_CGROUP_ROOT / "cgroup.controllers").exists():
            return _CGROUP_ROOT / path.lstrip("/"), True
        if "memory" in controllers.split(","):
            folder = _CGROUP_ROOT / "memory" / path.lstrip("/")
            # In a container the path may be the host's: what is mounted is its own.
            return (folder if folder.is_dir() else _CGROUP_ROOT / "memory"), False
    return None


def _cgroups(workers_cgroup: Path | None) -> Iterator[MemoryLimit]:
    at = _cgroup_folder() if workers_cgroup is None else (workers_cgroup, True)
    if at is None:
        return
    folder, is_second = at
    while folder.is_relative_to(_CGROUP_ROOT) and folder != _CGROUP_ROOT:
        yield from _cgroup(folder, is_second=is_second)
        folder = folder.parent
    yield from _cgroup(folder, is_second=is_second)


def _cgroup(folder: Path, *, is_second: bool) -> Iterator[MemoryLimit]:
    names = ("memory.max", "memory.current", "inactive_file")
    if not is_second:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    limit, used = _number(folder / names[0]), _number(folder / names[1])
    if limit is None or used is None or limit >= 1 << 60:
        return
    # Pages of files that nobody has used lately are given up before anybody is killed.
    cached = _fields(folder / "memory.stat").get(names[2], 0)
    yield MemoryLimit(max(0, used - cached), limit, "the memory limit of its cgroup")


def own_bytes(pid: int, *, exactly: bool) -> int:
    """What the process has for itself alone.

    Args:
        pid: Which.
        exactly: Without the pages that it shares with others since a fork, which the kernel tells
            of processes of our user alone; reading that takes a millisecond for each 100 MB.
    """
    if exactly and (fields := _fields(Path(f"/proc/{pid}/smaps_rollup"))):
        return (fields.get("Private_Dirty", 0) + fields.get("Private_Clean", 0)) << 10
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def process_table(names: Mapping[int, str], count: int) -> str:
    """The largest processes of the machine that this user may see, one a line.

    Args:
        names: What to call some of them, by process id.
        count: How many.
    """
    sizes = [
        (own_bytes(int(entry), exactly=False), int(entry))
        for entry in os.listdir("/proc")
        if entry.isdecimal()
    ]
    lines = [f"  {'PID':>8} {'MiB':>8}  PROCESS"]
    for size, pid in sorted(sizes, reverse=True)[:count]:
        name = names.get(pid) or _command(pid)
        lines.append(f"  {pid:>8} {size / _MIB:>8.0f}  {name}")
    return "\n".join(lines)


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
        name = words or Path(f"/proc/{pid}/comm").read_bytes().strip()
        return " ".join(name.decode(errors="replace").split())[:80]
    except OSError:
        return "?"


class OomKills:
    """Whether the kernel has killed for want of memory since it was last looked at."""

    def __init__(self) -> None:
        self._seen = self._count()

    def look(self) -> bool:
        """True if there was such a kill since the last look, in the cgroup or on the machine."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        at = _cgroup_folder()
        events = 0
        if at is not None:
            name = "memory.events" if at[1] else "memory.oom_control"
            events = _fields(at[0] / name).get("oom_kill", 0)
        return events + _fields(Path("/proc/vmstat")).get("oom_kill", 0)
