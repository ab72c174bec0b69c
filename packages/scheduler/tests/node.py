"""A whole node for the tests: store and scheduler on one loop thread, drivers in this process."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rostral_objectstore._native import repair
from rostral_objectstore._native.table import Handle
from rostral_objectstore._native.task import TaskContext
from rostral_objectstore.client import StoreClient
from rostral_objectstore.config import StoreConfig
from rostral_objectstore.control import ControlClient
from rostral_objectstore.daemon import StoreDaemon
from rostral_objectstore.layout import SlotState
from rostral_scheduler import LocalScheduler, LocalSchedulerConfig

DEADLINE_S = 10.0
Result = TypeVar("Result")
FLAG_ACTOR_CALL = 2


def eventually(
    condition: Callable[[], object], what: str = "it", deadline_s: float = DEADLINE_S
) -> None:
    """Waits for a condition; fails loudly when it does not come true."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {deadline_s} s"
        time.sleep(0.002)


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class LoopThread:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs a coroutine to its end."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def close(self) -> None:
        """Ends the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Node:
    """Store and scheduler, served by a thread of their own."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.store_config = StoreConfig(
            socket_path=str(folder / "store.sock"), memory_bytes=64 << 20
        )
        defaults: dict[str, Any] = {
            "num_cpus": 2.0,
            "worker_module": "sample_worker:main",
            "preload_modules": (),
            "store_socket": self.store_config.socket_path,
            "socket_path": str(folder / "scheduler.sock"),
            "session_dir": folder / "session",
        }
        self.config = LocalSchedulerConfig(**{**defaults, **settings})
        self._loop = LoopThread()

    def start(self) -> None:
        """Serves from here on."""
        self._loop.run(self._start())

    async def _start(self) -> None:
        self.store = StoreDaemon(self.store_config)
        await self.store.start()
        self.scheduler = LocalScheduler(self.config)
        try:
            await self.scheduler.start()
        except BaseException:
            await self.store.stop()
            raise

    def stop(self) -> None:
        """Ends everything."""
        try:
            if hasattr(self, "scheduler"):
                self._loop.run(self._stop())
        finally:
            self._loop.close()

    async def _stop(self) -> None:
        await self.scheduler.stop()
        await self.store.stop()

    def on_loop(self, function: Callable[[], Result]) -> Result:
        """Calls a function on the node's loop."""

        async def call() -> Result:
            return function()

        return self._loop.run(call())

    def worker_pids(self) -> list[int]:
        """Of every worker the scheduler knows."""
        pool = self.scheduler.pool
        return self.on_loop(lambda: [w.pid for w in pool.by_number.values() if w.pid])

    def expect_nothing_left(self) -> None:
        """No job, actor, queue, task or process of one is left; each dead slot is buried."""
        scheduler = self.scheduler

        def left() -> list[object]:
            workers = [w for w in scheduler.pool.by_number.values() if w.job_id is not None]
            slots = self.store.segment.slots_in_state
            return [
                *scheduler.jobs.by_id,
                *scheduler.actors.by_id,
                *scheduler.policy.queues,
                *workers,
                *slots(SlotState.DEAD),
                *slots(SlotState.REPAIRED),
                *repair.list_tasks(self.store.segment, 10),
                *self.queue_chunks(),
            ]

        eventually(lambda: not self.on_loop(left), "the end of everything of the job")
        self.check()

    def queue_chunks(self) -> list[int]:
        """Chunks of the store that hold queues."""
        return [0] * self.store.stats()["chunks"]["queues"]

    def check(self) -> None:
        """The policy's invariants hold."""
        self.on_loop(self.scheduler.policy.check_invariants)


class Driver:
    """What a driver does, in this process."""

    def __init__(self, node: Node, namespace: str = "") -> None:
        self.node = node
        self.job_id = os.urandom(16)
        self.logs: list[dict[str, Any]] = []
        self.store = StoreClient.connect(node.config.store_socket, kind="driver")
        self.scheduler = ControlClient(node.config.socket_path, on_push=self._pushed)
        self.context = TaskContext(os.urandom(16))
        self.welcome = self.scheduler.call(
            "register_driver",
            {
                "slot": self.store.slot,
                "job_id": self.job_id,
                "namespace": namespace,
                "entrypoint": "test",
                "sys_path": [],
                "cwd": str(node.folder),
            },
        )

    def _pushed(self, topic: str, body: dict[str, Any]) -> None:
        if topic == "log":
            self.logs.append(body)

    def queue(self, **resources: float) -> int:
        """The job's queue for a shape."""
        body = {"job_id": self.job_id, "resources": resources or {"CPU": 1.0}}
        return int(self.scheduler.call("get_queue", body)["queue"])

    def submit(self, queue: int, name: str, *arguments: Any, retries: int = 0) -> Handle:
        """Submits one function of sample_worker.py."""
        payload = pickle.dumps((name, arguments))
        return self.store.tasks.submit(
            Handle, self.context, queue, 0, payload, [], [], 1, retries, 0, False
        )[0]

    def call(self, mailbox: int, name: str, *arguments: Any, retries: int = 0) -> Handle:
        """Pushes one call into an actor's mailbox."""
        payload = pickle.dumps((name, arguments))
        return self.store.tasks.submit(
            Handle,
            self.context,
            mailbox,
            0,
            payload,
            [],
            [],
            1,
            retries,
            FLAG_ACTOR_CALL,
            True,
        )[0]

    def get(self, handle: Handle, timeout_s: float = DEADLINE_S) -> Any:
        """The result; raises what the task raised."""
        count = self.store.table.wait([handle], 1, int(timeout_s * 1e9))
        assert count == 1, "no result in time"
        found = self.store.table.read(handle)
        assert found is not None
        value = pickle.loads(bytes(found[2]))
        if found[1]:
            raise value
        return value

    def create_actor(self, class_name: str = "Counter", *arguments: Any, **options: Any) -> Actor:
        """Makes an actor of a class of sample_worker.py."""
        creation = self.store.table.put(
            Handle, os.urandom(20), 1, pickle.dumps((class_name, arguments)), [], []
        )
        actor_id = os.urandom(16)
        body = {
            "job_id": self.job_id,
            "actor_id": actor_id,
            "name": None,
            "namespace": "",
            "class_name": class_name,
            "resources": {},
            "placement_resources": {"CPU": 1.0},
            "max_restarts": 0,
            "max_task_retries": 0,
            "detached": False,
            "creation": {
                "loc": creation.loc,
                "version": creation.version,
                "id": creation.binary(),
            },
            "meta": b"meta",
            "mailbox_capacity": 100,
            **options,
        }
        mailbox = self.scheduler.call("create_actor", body)["mailbox"]
        return Actor(self, actor_id, mailbox, creation)

    def close(self) -> None:
        """Dies, as far as the node can tell."""
        self.scheduler.close()
        self.store.close()

    def unregister(self) -> None:
        """Ends politely."""
        self.scheduler.call("unregister_driver", {})
        self.close()


class Actor:
    """A driver's handle of an actor; keeps its creation object held."""

    def __init__(self, driver: Driver, actor_id: bytes, mailbox: int, creation: Handle) -> None:
        self.driver, self.actor_id, self.mailbox = driver, actor_id, mailbox
        self.creation: Handle | None = creation

    def call(self, method: str, *arguments: Any, retries: int = 0) -> Any:
        """Calls a method and waits."""
        return self.driver.get(self.submit(method, *arguments, retries=retries))

    def submit(self, method: str, *arguments: Any, retries: int = 0) -> Handle:
        """Calls a method."""
        return self.driver.call(self.mailbox, "call", method, *arguments, retries=retries)

    def info(self) -> dict[str, Any]:
        """What the scheduler says of it."""
        return self.driver.scheduler.call("actor_info", {"actor_id": self.actor_id})

    def state(self) -> str:
        """Its stage."""
        return str(self.info()["state"])

    def pid(self) -> int:
        """Of its process."""
        return int(self.driver.get(self.driver.call(self.mailbox, "pid")))


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Node]:
    """A node for the block; at its end nothing of it may be left."""
    node = Node(folder, **settings)
    pids: list[int] = []
    try:
        node.start()
        yield node
        pids += [*node.worker_pids(), node.scheduler.pool.zygote_pid]
    finally:
        node.stop()
    eventually(lambda: not any(is_alive(pid) for pid in pids), "the end of every process")
    assert not list(folder.glob("*.sock"))
