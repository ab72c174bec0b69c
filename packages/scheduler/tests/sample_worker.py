"""A small worker module for the tests: runs pickled (name, arguments) payloads of this file.

It stands for the client's worker: attaches, registers, claims, fills results.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rostral_objectstore._native.table import Handle
from rostral_objectstore._native.task import TaskContext
from rostral_objectstore.client import StoreClient
from rostral_objectstore.control import ControlClient
from rostral_scheduler.worker_start import WorkerStart

KIND_PICKLE = 1
FLAG_ERROR = 1
POLL_NS = 200_000_000


class Runtime:
    """What a task of the tests may use."""

    def __init__(self, start: WorkerStart) -> None:
        self.start = start
        self.store = StoreClient.connect(
            start.store_socket,
            kind="worker" if start.kind == "worker" else "actor",
            worker_id=start.worker_id,
        )
        self.exiting = False
        self.scheduler = ControlClient(
            start.scheduler_socket, on_push=self._pushed, on_close=lambda: os._exit(1)
        )
        self.told = self.scheduler.call(
            "register_worker",
            {"slot": self.store.slot, "pid": os.getpid(), "worker_id": start.worker_id},
        )
        self.context = TaskContext(os.urandom(16))
        self.actor: Any = None

    def _pushed(self, topic: str, _: dict[str, Any]) -> None:
        if topic == "exit":
            self.exiting = True

    def submit(self, queue: int, name: str, *arguments: Any, retries: int = 0) -> Handle:
        """Submits one of this file's functions."""
        payload = pickle.dumps((name, arguments))
        return self.store.tasks.submit(
            Handle, self.context, queue, 0, payload, [], [], 1, retries, 0, False
        )[0]

    def get(self, handle: Handle) -> Any:
        """The result, or its exception."""
        self.store.table.wait([handle], 1, -1)
        found = self.store.table.read(handle)
        assert found is not None
        value = pickle.loads(bytes(found[2]))
        if found[1]:
            raise value
        return value

    def serve(self, mailbox: int) -> None:
        """Claims and runs until told to exit."""
        tasks, table = self.store.tasks, self.store.table
        while not self.exiting:
            task = tasks.next(mailbox, POLL_NS, [])
            if task is None:
                continue
            name, arguments = pickle.loads(task.payload)
            flags = 0
            try:
                value = FUNCTIONS[name](self, *arguments)
            except Exception as error:
                value, flags = error, FLAG_ERROR
            table.fill_at(task.returns[0], KIND_PICKLE, pickle.dumps(value), [], [], flags)
            tasks.finish(task)

    def serve_actor(self) -> None:
        """Builds the actor that the creation object describes, then serves its mailbox."""
        assignment = self.told["assignment"]
        creation = assignment["creation"]
        handle = self.store.table.adopt(
            Handle, creation["loc"], creation["version"], creation["id"]
        )
        found = self.store.table.read(handle)
        assert found is not None
        name, arguments = pickle.loads(bytes(found[2]))
        del handle, found
        try:
            self.actor = ACTORS[name](*arguments)
        except Exception as error:
            body = {"actor_id": self.start.actor_id, "error": pickle.dumps(error)}
            self.scheduler.call("actor_failed", body)
            return
        self.scheduler.call("actor_ready", {"actor_id": self.start.actor_id})
        self.serve(assignment["mailbox"])


def main(start: WorkerStart) -> None:
    """The worker's life."""
    runtime = Runtime(start)
    if start.kind == "actor":
        runtime.serve_actor()
    else:
        runtime.serve(0)


class Counter:
    """An actor."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value


class Unbuildable:
    """An actor whose constructor fails."""

    def __init__(self) -> None:
        raise ValueError("no such thing")


class Doomed:
    """An actor whose process dies in the constructor."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def add(_: Runtime, a: int, b: int) -> int:
    return a + b


def pid(_: Runtime) -> int:
    return os.getpid()


def speak(_: Runtime, text: str) -> None:
    sys.stdout.write(text + "\n")


def rest(_: Runtime, seconds: float) -> None:
    """Takes its time."""
    time.sleep(seconds)


def fail(_: Runtime, text: str) -> None:
    raise ValueError(text)


def note_then(runtime: Runtime, path: str, what: str) -> int:
    """Adds a line to the file, then `what`: die at the first run only, always, or hang."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    runs = len(Path(path).read_text().splitlines())
    if what == "die" or (what == "die once" and runs == 1):
        os.write(2, b"about to die\n")
        os.kill(os.getpid(), signal.SIGKILL)
    while what == "hang":
        time.sleep(0.05)
    return runs


def nested(runtime: Runtime, queue: int, depth: int) -> int:
    """Waits for a child of its own kind, `depth` times over."""
    if depth == 0:
        return 0
    child = runtime.submit(queue, "nested", queue, depth - 1)
    return 1 + int(runtime.get(child))


def ask_child(runtime: Runtime, job_id: bytes, value: int) -> Any:
    """Waits for a child that it submits as a worker does: where the scheduler says."""
    body = {"job_id": job_id, "resources": {"CPU": 1.0}}
    queue = int(runtime.scheduler.call("get_queue", body)["queue"])
    return runtime.get(runtime.submit(queue, "add", value, 1))


def call(runtime: Runtime, method: str, *arguments: Any) -> Any:
    """A method of this process's actor."""
    return getattr(runtime.actor, method)(*arguments)


def exit_actor(runtime: Runtime) -> None:
    runtime.scheduler.call("exit_actor", {"actor_id": runtime.start.actor_id})


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (add, ask_child, pid, speak, rest, fail, note_then, nested, call, exit_actor)
}
ACTORS: dict[str, Callable[..., Any]] = {
    cls.__name__: cls for cls in (Counter, Doomed, Unbuildable)
}
