"""A scheduler's service that is told to end lets its tasks end, for so long."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .node import Driver, eventually
from .test_cli import ended, started

pytestmark = pytest.mark.slow


def driver_of(folder: Path) -> Driver:
    """A driver of the services in the folder."""
    sockets = SimpleNamespace(
        store_socket=str(folder / "store.sock"), socket_path=str(folder / "s.sock")
    )
    node: Any = SimpleNamespace(folder=folder, config=sockets)
    return Driver(node)


def test_term_lets_running_and_waiting_tasks_end(folder: Path) -> None:
    store, scheduler = started(folder)
    try:
        assert scheduler.stdout is not None
        assert scheduler.stdout.readline()
        driver = driver_of(folder)
        queue = driver.queue()
        results = [driver.submit(queue, "rest", 0.3) for _ in range(4)]
        added = driver.submit(queue, "add", 1, 2)
        scheduler.send_signal(signal.SIGTERM)
        assert driver.get(added) == 3
        for result in results:
            driver.get(result)
        assert scheduler.wait(10) == 0
        driver.close()
    finally:
        ended(scheduler)
        ended(store)


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_what_does_not_end_in_time_is_ended(folder: Path, again: bool) -> None:
    settings = folder / "local.toml"
    settings.write_text(f"drain_timeout_s = {600 if again else 0.3}\n")
    store, scheduler = started(folder, "--config", str(settings))
    try:
        assert scheduler.stdout is not None
        assert scheduler.stdout.readline()
        driver = driver_of(folder)
        driver.submit(driver.queue(), "rest", 600.0)
        eventually(
            lambda: any(
                worker["stage"] == "GRANTED"
                for worker in driver.scheduler.call("status", {})["workers"]
            ),
            "it runs",
        )
        begin_s = time.monotonic()
        scheduler.send_signal(signal.SIGTERM)
        if again:
            # Only once the first was taken in: two at a time are one.
            eventually(lambda: scheduler.poll() is not None or _is_draining(scheduler.pid), "TERM")
            scheduler.send_signal(signal.SIGTERM)
        assert scheduler.wait(10) == (128 + signal.SIGTERM if again else 0)
        assert time.monotonic() - begin_s < 10
        driver.close()
    finally:
        ended(scheduler)
        ended(store)


def _is_draining(pid: int) -> bool:
    """Whether the signal has been delivered: it is neither pending nor new to the process."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    return not int(pending.split()[1], 16) >> (signal.SIGTERM - 1) & 1
