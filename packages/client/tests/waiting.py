"""Waiting with a deadline, and looking at what is left of processes, objects and files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from rostral import _context
from rostral_objectstore._native import repair

OBJECTS_MAX = 1 << 20


def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Returns once the condition holds; fails the test when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s} s"
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that only its parent's wait is missing does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes_of(runtime_dir: str) -> dict[int, str]:
    """Processes that were started with this runtime directory, but for this one."""
    mark = f"ROSTRAL_RUNTIME_DIR={runtime_dir}".encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (
                    (process / "cmdline").read_bytes().decode("utf-8", "replace")
                )
        except OSError:
            continue
    found.pop(os.getpid(), None)
    return {pid: command for pid, command in found.items() if is_alive(pid)}


def files_of(runtime_dir: str) -> list[str]:
    """What lies in the runtime directory, but for the empty folder of records."""
    return [path.name for path in Path(runtime_dir).rglob("*") if path.name != "nodes"]


def object_ids() -> set[bytes]:
    """Every object of this driver's node."""
    table = _context.connected().table
    return {info["id"] for info in repair.list_objects(table, OBJECTS_MAX)}


def object_bytes() -> int:
    """Bytes of every object of this driver's node."""
    table = _context.connected().table
    return sum(info["size"] for info in repair.list_objects(table, OBJECTS_MAX))


def memory_bytes() -> int:
    """Shared memory in use on this driver's node."""
    used: int = _context.connected().ask("status", {})["store"]["used_bytes"]
    return used
