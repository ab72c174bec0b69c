"""A scheduler dies and its store lives: the next one ends what the dead one had begun."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from rostral_objectstore._native import repair
from rostral_objectstore._native.check import check
from rostral_objectstore.client import StoreClient

from .node import Driver, Node, eventually
from .test_cli import ended, start_scheduler, start_store


@dataclass
class Sockets:
    """What a driver must know of a node."""

    store_socket: str
    socket_path: str


@dataclass
class Services:
    """A node whose parts are processes of their own, as drivers see it."""

    folder: Path
    config: Sockets


def driver_of(services: Services) -> Driver:
    """A driver there: to come and to submit, it needs no more of a node."""
    return Driver(cast("Node", services))


@pytest.mark.slow
def test_the_next_scheduler_frees_the_queues_and_tasks_of_a_killed_one(folder: Path) -> None:
    """1. Tasks run, wait in queues and for each other; an actor lives. 2. The scheduler is killed.

    3. The next one begins while the driver is there still. 4. The driver goes, and all with it.
    """
    store, scheduler = start_store(folder), start_scheduler(folder)
    services = Services(folder, Sockets(str(folder / "store.sock"), str(folder / "s.sock")))
    processes = [scheduler, store]
    try:
        with StoreClient.connect(services.config.store_socket) as watcher:
            driver = driver_of(services)
            queue = driver.queue()
            for _ in range(6):
                driver.submit(queue, "rest", 60.0, retries=3)
            driver.create_actor().submit("add", 1)
            eventually(lambda: len(repair.list_tasks(watcher.segment, 10)) == 7, "seven tasks")
            scheduler.send_signal(signal.SIGKILL)
            scheduler.wait()

            processes.append(start_scheduler(folder))
            assert watcher.stats().chunks["queues"] > 0, "the driver may still use them"
            assert repair.list_tasks(watcher.segment, 10)
            driver.close()
            eventually(lambda: watcher.stats().chunks["queues"] == 0, "no queue is left")
            eventually(lambda: not repair.list_tasks(watcher.segment, 10), "no task is left")
            eventually(lambda: not watcher.list_objects(), "no object is left")
            assert check(watcher.table) == []

            again = driver_of(services)
            assert again.get(again.submit(again.queue(), "add", 1, 2)) == 3
            again.unregister()
    finally:
        for process in processes:
            ended(process)
