"""The process of one actor: builds the instance, runs the calls of its mailbox, ends when it is told to.

Calls of one caller run in the order of their submission, even when an input of one of them is late:
that caller's later calls then wait behind it, and other callers overtake. With `max_concurrency`
above 1 calls run in threads; an actor with any `async def` method runs them all on one event loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import os
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from rostral._context import task_scope
from rostral.actor import method_names
from rostral.arguments import decode, value_count
from rostral.exceptions import ActorDiedError, TaskError
from rostral.execution import execute, fetch_arguments, store_error, store_results
from rostral.object_ref import ObjectRef
from rostral.runtime import Runtime, TaskScope
from rostral_objectstore._native.task import ClaimedTask

logger = logging.getLogger("rostral.actor")

ASYNC_CONCURRENCY = 1000


class ActorExit(BaseException):
    """Ends the actor from inside a call; not an Exception, so that user code does not catch it by accident."""


def exit_actor() -> None:
    """Ends the actor that runs this. Raises TypeError outside of an actor."""
    scope = task_scope.get()
    if scope is None or scope.actor_id is None:
        raise TypeError("exit_actor() was called outside of an actor")
    raise ActorExit


class Mailbox:
    """The calls of an actor in the order in which they may run."""

    def __init__(self, runtime: Runtime, mailbox: int) -> None:
        self._runtime = runtime
        self._mailbox = mailbox
        self._parked: dict[int, deque[ClaimedTask]] = {}

    def __iter__(self) -> Iterator[ClaimedTask]:
        """Calls as they become ready; blocks in between."""
        while True:
            ready = self._take_ready()
            if ready is not None:
                yield ready
                continue
            task = self._runtime.tasks.next(self._mailbox, -1, self._missing_inputs())
            if task is None:
                self._runtime.tasks.sweep()
            elif task.submitter in self._parked or self._missing(task):
                self._parked.setdefault(task.submitter, deque()).append(task)
            else:
                yield task

    def _missing(self, task: ClaimedTask) -> list[ObjectRef[Any]]:
        if not task.dependencies or not value_count(task.payload):
            return []
        table = self._runtime.table
        refs = [
            table.adopt_held(ObjectRef, loc)
            for loc in task.dependencies[: value_count(task.payload)]
        ]
        return [ref for ref in refs if not table.is_sealed(ref)]

    def _missing_inputs(self) -> list[ObjectRef[Any]]:
        return [ref for calls in self._parked.values() for ref in self._missing(calls[0])]

    def _take_ready(self) -> ClaimedTask | None:
        for submitter, calls in self._parked.items():
            if not self._missing(calls[0]):
                task = calls.popleft()
                if not calls:
                    del self._parked[submitter]
                return task
        return None


class ActorProcess:
    """The instance, its methods by number, and how calls are run."""

    def __init__(self, runtime: Runtime, assignment: dict[str, Any]) -> None:
        self.runtime = runtime
        self.actor_id: bytes = assignment["actor_id"]
        self.mailbox = Mailbox(runtime, int(assignment["mailbox"]))
        at = assignment["creation"]
        self._creation = runtime.table.adopt(ObjectRef, at["loc"], at["version"], at["id"])
        self.class_name = "actor"
        self.instance: Any = None
        self.exiting = threading.Event()

    def build(self) -> None:
        """Runs the constructor. Raises what it raises."""
        runtime = self.runtime
        code_key, payload, inputs, self.settings = runtime.get([self._creation], None)[0]
        self.class_name, cls = runtime.functions.load(code_key)
        token = task_scope.set(self.scope(self.actor_id))
        try:
            args, kwargs = decode(payload, runtime.get(inputs, None))
            self.instance = cls(*args, **kwargs)
        finally:
            task_scope.reset(token)
        self.names = method_names(cls)
        self.methods: list[Callable[..., Any]] = [
            getattr(self.instance, name, None) or getattr(self, name) for name in self.names
        ]
        self.is_async = any(
            inspect.iscoroutinefunction(getattr(cls, name, None)) for name in self.names
        )

    def scope(self, task_id: bytes) -> TaskScope:
        """The scope of one call."""
        return TaskScope(task_id, self.class_name, self.actor_id)

    def method_name(self, task: ClaimedTask) -> str:
        """Class and method, for errors."""
        return f"{self.class_name}.{self.names[task.function]}"

    # ---- methods that every actor has

    def __ray_ready__(self) -> bool:
        return True

    def __ray_call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(self.instance, *args, **kwargs)

    def __ray_terminate__(self) -> None:
        raise ActorExit

    # ---- running calls

    def run(self) -> None:
        """Runs calls until the actor exits."""
        concurrency = self.settings.get("max_concurrency")
        if self.is_async:
            self._run_async(concurrency or ASYNC_CONCURRENCY)
        elif concurrency and concurrency > 1:
            self._run_threaded(concurrency)
        else:
            for task in self.mailbox:
                self.run_call(task)
                if self.exiting.is_set():
                    return

    def run_call(self, task: ClaimedTask) -> None:
        """One call, in this thread."""
        try:
            execute(
                self.runtime, task, self.method_name(task), self._guarded(task), self.scope(task.id)
            )
        except SystemExit as error:
            store_error(
                self.runtime,
                task,
                self.method_name(task),
                self._death(f"its process exited with {error.code}"),
            )
            self.runtime.tasks.finish(task)
            raise

    def _guarded(self, task: ClaimedTask) -> Callable[..., Any]:
        """The method; an ActorExit in it becomes the actor's end and the call's None."""

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return self.methods[task.function](*args, **kwargs)
            except ActorExit:
                self.exiting.set()
                return None

        return call

    def _run_threaded(self, concurrency: int) -> None:
        slots = threading.Semaphore(concurrency)
        with concurrent.futures.ThreadPoolExecutor(concurrency, "rostral-actor") as pool:
            for task in self.mailbox:
                slots.acquire()
                pool.submit(self.run_call, task).add_done_callback(lambda _: slots.release())
                if self.exiting.is_set():
                    return

    def _run_async(self, concurrency: int) -> None:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="rostral-actor-loop", daemon=True)
        thread.start()
        slots = threading.Semaphore(concurrency)
        for task in self.mailbox:
            slots.acquire()
            future = asyncio.run_coroutine_threadsafe(self._run_coroutine(task), loop)
            future.add_done_callback(lambda _: slots.release())
            if self.exiting.is_set():
                break
        loop.call_soon_threadsafe(loop.stop)

    async def _run_coroutine(self, task: ClaimedTask) -> None:
        name = self.method_name(task)
        task_scope.set(self.scope(task.id))
        try:
            args, kwargs = fetch_arguments(self.runtime, task)
            value = self._guarded(task)(*args, **kwargs)
            if inspect.isawaitable(value):
                try:
                    value = await value
                except ActorExit:
                    self.exiting.set()
                    value = None
            store_results(self.runtime, task, name, value)
        except BaseException as error:
            store_error(self.runtime, task, name, error)
        self.runtime.tasks.finish(task)
        if self.exiting.is_set():
            self.runtime.store.segment.poke(self.runtime.store.slot)

    def _death(self, why: str) -> ActorDiedError:
        return ActorDiedError(f"actor {self.class_name} ({self.actor_id.hex()}) died: {why}")


def run_actor(runtime: Runtime, assignment: dict[str, Any]) -> None:
    """Builds and runs the actor; returns, or exits the process, at its end."""
    actor = ActorProcess(runtime, assignment)
    try:
        actor.build()
    except BaseException as error:
        wrapped = TaskError.from_exception(f"{actor.class_name}.__init__", error, os.getpid())
        death = ActorDiedError(
            f"actor {actor.class_name} ({actor.actor_id.hex()}) died because its constructor raised:\n"
            f"{wrapped.remote_traceback}",
            actor_id=actor.actor_id.hex(),
            actor_init_failed=True,
        )
        runtime.ask("actor_failed", {"actor_id": actor.actor_id, "error": pickle.dumps(death)})
        sys.exit(1)
    runtime.ask("actor_ready", {"actor_id": actor.actor_id})
    actor.run()
    runtime.ask("exit_actor", {"actor_id": actor.actor_id})
