"""How much memory the machine, or the control group that we run in, has left: read, never set."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def available_bytes(
    *, meminfo: Path = MEMINFO, cgroups: Path = CGROUPS, own_cgroup: Path = OWN_CGROUP
) -> int:
    """Memory that can be taken without swapping, or without coming to a limit of ours.

    Raises OSError or ValueError when the kernel does not say.
    """
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            left = int(line.split()[1]) * 1024
            return min([left, *_left_in_cgroups(cgroups, own_cgroup)])
    raise ValueError(f"{meminfo} does not say MemAvailable")


def _left_in_cgroups(cgroups: Path, own_cgroup: Path) -> list[int]:
    """What each control group from ours up may still take; of those with a limit."""
    try:
        lines = own_cgroup.read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, limit, used = cgroups, "memory.max", "memory.current"
        elif controllers == "memory":
            root = cgroups / "memory"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / path.strip("/")
        while group != root.parent:
            left += _left_in(group / limit, group / used)
            group = group.parent
    return left


def _left_in(limit: Path, used: Path) -> list[int]:
    try:
        return [max(0, int(limit.read_text()) - int(used.read_text()))]
    except (OSError, ValueError):
        return []  # "max", or the root, or a group that is gone or outside of our view
