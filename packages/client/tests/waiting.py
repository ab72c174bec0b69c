"""Waiting with a deadline, and looking at what is left of processes, objects and files."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from rostral import _context
from rostral.functions import FUNCTION_INDEX
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


def leftovers() -> list[str]:
    """What lies in the node's store that no living program needs, in words.

    Not counted: code, which stays for as long as any process that exported it, and what the driver
    has pickled by hand, which stays for as long as the driver.
    """
    gc.collect()
    runtime = _context.connected()
    runtime.tasks.sweep()
    kept = {ref.binary() for ref in runtime._kept}
    objects = [
        f"object {info['id'].hex()} state={info['state']} size={info['size']} "
        f"holders={info['holders']} containers={info['containers']}"
        for info in repair.list_objects(runtime.table, OBJECTS_MAX)
        if info["id"] not in kept and not info["id"].endswith(FUNCTION_INDEX)
    ]
    tasks = repair.list_tasks(runtime.store.segment, OBJECTS_MAX)
    return [*objects, *(f"task {info['id'].hex()} state={info['state']}" for info in tasks)]


def nothing_left() -> None:
    """Fails unless the store soon holds no object, no byte and no task."""
    deadline = time.monotonic() + 10
    while left := leftovers():
        assert time.monotonic() < deadline, "left in the store:\n" + "\n".join(left)
        time.sleep(0.02)


def end_workers() -> None:
    """Kills the processes that run tasks: they keep loaded code, and with it what it captured."""
    for worker in _context.connected().ask("status", {})["workers"]:
        if worker["actor_id"] is None:
            os.kill(worker["pid"], signal.SIGKILL)


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
