"""The process of one actor: builds the instance, runs the calls of its mailbox, ends when told to.

Calls of one caller run in the order of their submission, even when an input of one of them is late:
that caller's later calls then wait behind it, and other callers overtake. With `max_concurrency`
above 1 calls run in threads; an actor with any `async def` method runs them all on one event loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from rostral._context import task_scope
from rostral.actor import ActorExit, method_names
from rostral.arguments import decode, value_count
from rostral.exceptions import ActorDiedError
from rostral.execution import execute, fetch_arguments, store_error, store_results
from rostral.failure import StoredError, seal_error, task_error
from rostral.object_ref import ObjectRef
from rostral.runtime import Runtime, TaskScope
from rostral.scheduling_strategies import Placement
from rostral.sweeper import sweep_timeout_ns
from rostral_objectstore._native.task import ClaimedTask

ASYNC_CONCURRENCY = 1000


class Mailbox:
    """The calls of an actor in the order in which they may run, until it is `closed`."""

    def __init__(self, runtime: Runtime, mailbox: int) -> None:
        self._runtime = runtime
        self._mailbox = mailbox
        self._closed = False
        self._parked: dict[int, deque[ClaimedTask]] = {}
        self._ready: deque[ClaimedTask] = deque()

    def __iter__(self) -> Iterator[ClaimedTask]:
        """Calls as they become ready; blocks in between."""
        tasks = self._runtime.tasks
        while not self._closed:
            missing = self._take_stock()
            if self._ready:
                yield self._ready.popleft()
                continue
            task = tasks.next(self._mailbox, sweep_timeout_ns(tasks), missing)
            if task is None:
                tasks.sweep()
            elif task.submitter in self._parked or self._missing(task):
                self._parked.setdefault(task.submitter, deque()).append(task)
            else:
                yield task

    def close(self) -> None:
        """Yields no more calls. Callable from any thread."""
        self._closed = True
        self._runtime.store.segment.poke(self._runtime.store.slot)

    def _missing(self, task: ClaimedTask) -> list[ObjectRef[Any]]:
        if not task.dependencies or not value_count(task.payload):
            return []
        table = self._runtime.table
        refs = [
            table.adopt_held(ObjectRef, loc)
            for loc in task.dependencies[: value_count(task.payload)]
        ]
        return [ref for ref in refs if not table.is_sealed(ref)]

    def _take_stock(self) -> list[ObjectRef[Any]]:
        """Moves parked calls that have become ready; what the others still wait for."""
        waited: list[ObjectRef[Any]] = []
        for submitter, calls in list(self._parked.items()):
            while calls:
                missing = self._missing(calls[0])
                if missing:
                    waited += missing
                    break
                self._ready.append(calls.popleft())
            else:
                del self._parked[submitter]
        return waited


class ActorProcess:
    """The instance, its methods by number, and how calls are run."""

    def __init__(self, runtime: Runtime, assignment: dict[str, Any]) -> None:
        self.runtime = runtime
        self.actor_id: bytes = assignment["actor_id"]
        self.mailbox = Mailbox(runtime, int(assignment["mailbox"]))
        self.class_name = "actor"
        self.instance: Any = None
        self._creation = assignment["creation"]
        self._placement: Placement | None = None
        self._exit: SystemExit | None = None

    def build(self) -> None:
        """Runs the constructor. Raises what it raises."""
        runtime, at = self.runtime, self._creation
        # Not kept: who holds this object keeps the actor alive, which the actor itself must not.
        creation: ObjectRef[Any] = runtime.table.adopt(
            ObjectRef, at["loc"], at["version"], at["id"]
        )
        code_key, payload, inputs, self.settings = runtime.get([creation], None)[0]
        self._placement = self.settings["placement"]
        if self._placement is not None and self._placement.captures:
            runtime.captures = True
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
        return TaskScope(task_id, self.class_name, self.actor_id, self._placement)

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
        """Runs calls until the actor exits. Raises SystemExit if a call did."""
        concurrency = self.settings.get("max_concurrency")
        if self.is_async:
            self._run_async(concurrency or ASYNC_CONCURRENCY)
        elif concurrency and concurrency > 1:
            self._run_threaded(concurrency)
        else:
            for task in self.mailbox:
                self.run_call(task)
        if self._exit is not None:
            raise self._exit

    def run_call(self, task: ClaimedTask) -> None:
        """One call, in this thread."""
        name, scope = self.method_name(task), self.scope(task.id)
        try:
            execute(self.runtime, task, name, self._guarded(task), scope)
        except SystemExit as error:
            self._exited(task, error)

    def _exited(self, task: ClaimedTask, error: SystemExit) -> None:
        """A call ended the process: in order, so that it is known what the call's end was."""
        death = ActorDiedError(
            f"actor {self.class_name} ({self.actor_id.hex()}) died: its process exited with "
            f"{error.code}",
            actor_id=self.actor_id,
        )
        seal_error(self.runtime.table, task.returns, StoredError(pickle.dumps(death), []))
        self.runtime.tasks.finish(task)
        self._exit = error
        self.mailbox.close()

    def _guarded(self, task: ClaimedTask) -> Callable[..., Any]:
        """The method; an ActorExit in it becomes the actor's end and the call's None."""

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return self.methods[task.function](*args, **kwargs)
            except ActorExit:
                self.mailbox.close()
                return None

        return call

    def _run_threaded(self, concurrency: int) -> None:
        slots = threading.Semaphore(concurrency)
        with concurrent.futures.ThreadPoolExecutor(concurrency, "rostral-actor") as pool:
            for task in self.mailbox:
                slots.acquire()
                pool.submit(self.run_call, task).add_done_callback(lambda _: slots.release())

    def _run_async(self, concurrency: int) -> None:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="rostral-actor-loop", daemon=True)
        thread.start()
        slots = threading.Semaphore(concurrency)
        for task in self.mailbox:
            slots.acquire()
            future = asyncio.run_coroutine_threadsafe(self._run_coroutine(task), loop)
            future.add_done_callback(lambda _: slots.release())
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
                    self.mailbox.close()
                    value = None
            store_results(self.runtime, task, name, value)
        except SystemExit as error:
            self._exited(task, error)
            return
        except BaseException as error:
            store_error(self.runtime, task, name, error)
        self.runtime.tasks.finish(task)


def run_actor(runtime: Runtime, assignment: dict[str, Any]) -> None:
    """Builds and runs the actor; returns, or exits the process, at its end."""
    actor = ActorProcess(runtime, assignment)
    try:
        actor.build()
    except ActorExit:
        runtime.ask("exit_actor", {"actor_id": actor.actor_id})
        return
    except BaseException as error:
        raised = task_error(f"{actor.class_name}.__init__", error)
        death = ActorDiedError(
            f"actor {actor.class_name} ({actor.actor_id.hex()}) died because its constructor "
            f"raised:\n{raised.remote_traceback}",
            actor_id=actor.actor_id,
            actor_init_failed=True,
        )
        runtime.ask("actor_failed", {"actor_id": actor.actor_id, "error": pickle.dumps(death)})
        sys.exit(1)
    runtime.ask("actor_ready", {"actor_id": actor.actor_id})
    actor.run()
    runtime.ask("exit_actor", {"actor_id": actor.actor_id})
