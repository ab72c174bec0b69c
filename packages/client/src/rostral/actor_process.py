"""The process of one actor: builds the instance, runs the calls of its mailbox, ends when told to.

Calls of one caller run in the order of their submission, even when an input of one of them is late:
that caller's later calls then wait behind it, and other callers overtake. With `max_concurrency`
above 1, or concurrency groups, calls run in threads (actor_threads.py); an actor with any `async
def` method runs them all on one event loop (actor_coroutines.py).
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import logging
import pickle
import sys
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Protocol

from rostral import _context
from rostral._context import task_scope
from rostral.actor import method_names
from rostral.actor_coroutines import AsyncCalls
from rostral.actor_settings import ActorSettings
from rostral.actor_threads import ThreadedCalls
from rostral.arguments import decode
from rostral.assignment import ActorAssignment
from rostral.call_word import METHOD_MASK, RETRY_SHIFT, Retry, retry_of
from rostral.checkpoint import Checkpoints
from rostral.concurrency import Groups
from rostral.downtime import retried_calls
from rostral.exceptions import ActorDiedError, ActorExit
from rostral.execution import (
    RetriedErrors,
    execute,
    fetch_arguments,
    should_retry,
    store_error,
    store_results,
)
from rostral.failure import StoredError, seal_error, task_error
from rostral.interrupt import end_cancelled
from rostral.mailbox import Mailbox
from rostral.object_ref import ObjectRef
from rostral.own_name import bind_own_name
from rostral.runtime import Runtime, TaskScope
from rostral.scheduling_strategies import Placement
from rostral.streaming import as_awaited
from rostral_objectstore._native import repair
from rostral_objectstore._native.task import ClaimedTask
from rostral_objectstore.layout import TaskFlag

logger = logging.getLogger("rostral.actor_process")

# How long `__ray_terminate__` waits for calls that had begun before it.
DRAIN_TIMEOUT_S = 30.0
# What runs at an actor's end when it is not killed; the second is the name that Ray's users know.
END_HOOKS = ("__rostral_shutdown__", "__ray_shutdown__")


class CallEngine(Protocol):
    """What runs calls at the same time: threads, or an event loop."""

    def stop(self) -> None:
        """Lets the thread that runs the engine go on. Callable from any thread."""

    def join(self, timeout_s: float) -> None:
        """Waits until the calls that had been claimed have ended."""

    def close(self) -> None:
        """Ends what is left of it, but for calls that still run in threads."""


class ActorProcess:
    """The instance, its methods by number, and how calls are run."""

    def __init__(self, runtime: Runtime, assignment: dict[str, Any]) -> None:
        self.runtime = runtime
        self.actor_id: bytes = assignment["actor_id"]
        self.class_name = "actor"
        self.instance: Any = None
        self._told = assignment
        self._creation = assignment["creation"]
        self._placement: Placement | None = None
        self.mailbox = Mailbox(runtime, int(assignment["mailbox"]), self._line_of)
        self._engine: CallEngine | None = None
        # Set once `exit_actor` was called, by calls and by whatever else runs here.
        self._is_leaving = False
        self._left_by: set[bytes] = set()
        self._is_draining = False
        self._exit: SystemExit | None = None
        self._checkpoints: Checkpoints | None = None
        # Also where finished calls are kept for replay.
        self._finish_for_good = runtime.tasks.finish

    # ---- the beginning

    def load(self) -> None:
        """Finds out what to build. Raises what unpickling and missing inputs raise."""
        runtime, at = self.runtime, self._creation
        # Not kept: who holds this object keeps the actor alive, which the actor itself must not.
        creation: ObjectRef[Any] = runtime.table.adopt(
            ObjectRef, at["loc"], at["version"], at["id"]
        )
        code, self._payload, inputs, settings = runtime.get([creation], None)[0]
        self.class_name, self._class = runtime.functions.load(runtime.functions.key(code))
        bind_own_name(self._class)
        self._inputs: list[Any] = runtime.get(inputs, None)
        self.settings = ActorSettings(**settings["calls"])
        self._placement = settings["placement"]
        if self._placement is not None and self._placement.captures:
            runtime.captures = True
        interval = settings["checkpoint_interval"]
        if interval is not None:
            self._checkpoints = Checkpoints(runtime, self._told, interval)
        self.names = method_names(self._class)
        self._titles = [f"{self.class_name}.{name}" for name in self.names]
        options = [ActorSettings.of_method(self._class, name) for name in self.names]
        self._retried: list[RetriedErrors] = [of_method.retry_exceptions for of_method in options]
        self.groups = Groups(
            self.settings.concurrency,
            self.settings.groups,
            [self.settings.group_number(of_method.concurrency_group) for of_method in options],
        )
        if self.settings.is_async:
            self._engine = self._coroutines = AsyncCalls(runtime, self.mailbox, self)

    def build(self) -> None:
        """Runs the constructor. Raises what it raises, and ActorExit if it called exit_actor."""
        token = task_scope.set(self.scope(self.actor_id))
        try:
            args, kwargs = decode(self._payload, self._inputs)
            del self._inputs
            if self.settings.is_async:
                self._coroutines.loop.run_until_complete(self._build_on_loop(args, kwargs))
            else:
                self.instance = self._class(*args, **kwargs)
            if self._checkpoints is not None:
                self._checkpoints.restore(self.instance)
                self._checkpoints.take_log()
        finally:
            task_scope.reset(token)
        if self._is_leaving:
            raise ActorExit
        self.methods: list[Callable[..., Any]] = [
            getattr(self.instance, name, None) or getattr(self, name) for name in self.names
        ]

    async def _build_on_loop(self, args: Any, kwargs: Any) -> None:
        """The constructor of an async actor may start tasks, and may be a coroutine itself."""
        if inspect.iscoroutinefunction(self._class.__init__):
            self.instance = self._class.__new__(self._class, *args, **kwargs)
            await self.instance.__init__(*args, **kwargs)
        else:
            self.instance = self._class(*args, **kwargs)

    def scope(self, task_id: bytes, method: str = "", call: ClaimedTask | None = None) -> TaskScope:
        """The scope of one call, of the method with this name; of the constructor without."""
        return TaskScope(task_id, self.class_name, self.actor_id, self._placement, method, call)

    @property
    def is_serial(self) -> bool:
        """Whether one call runs after the other, in the main thread."""
        return not self.settings.is_async and self.groups.limit == 1

    def method_name(self, task: ClaimedTask) -> str:
        """Class and method, for errors."""
        return self._titles[task.function & METHOD_MASK]

    def catch_up(self, waiting: int) -> None:
        """What comes before new calls: those of the process before, and those that waited since."""
        title = f"actor {self.class_name} ({self.actor_id.hex()})"
        if self._checkpoints is not None:
            for call in self._checkpoints.replays():
                self.run_call(call, is_replay=True)
            self.mailbox.admit(self._checkpoints.retried(title))
        mailbox = int(self._told["mailbox"])
        self.mailbox.admit(retried_calls(self.runtime, mailbox, waiting, title, self.actor_id))

    # ---- methods that every actor has

    def __ray_ready__(self) -> bool:
        return True

    def __ray_call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(self.instance, *args, **kwargs)

    def __ray_terminate__(self) -> None:
        self._is_draining = True
        self.leave()
        raise ActorExit

    # ---- running calls

    def run(self) -> None:
        """Runs calls until the actor ends. Raises SystemExit if a call did."""
        if self.settings.is_async:
            self._coroutines.run(self.groups)
        elif self.groups.limit > 1:
            self._engine = threads = ThreadedCalls(
                self.mailbox, self.groups, self.runtime.tasks, self.run_call
            )
            threads.run()
        else:
            for call in self.mailbox:
                self.run_call(call)
        if self._engine is not None and self._is_draining:
            self._engine.join(DRAIN_TIMEOUT_S)
        if self._exit is not None:
            raise self._exit

    def run_call(self, call: ClaimedTask, *, is_replay: bool = False) -> None:
        """One call, in this thread. A replay, whose results are there already, is not retried."""
        name = self.method_name(call)
        scope = self.scope(call.id, name, call)
        try:
            execute(
                self.runtime,
                call,
                name,
                self._code(call),
                scope,
                retried=not is_replay and self._retried_errors(call),
            )
        except SystemExit as error:
            self._exited(call, error)

    def _code(self, call: ClaimedTask) -> Callable[..., Any]:
        method = self.methods[call.function & METHOD_MASK]

        def code(*args: Any, **kwargs: Any) -> Any:
            value = method(*args, **kwargs)
            if self._is_leaving and call.id in self._left_by:
                raise ActorExit  # The method has caught it: the actor ends all the same.
            return value

        return code

    def begin(self, call: ClaimedTask) -> Any:
        """CallRunner: on the event loop, in a context of the call's own."""
        task_scope.set(self.scope(call.id, self.method_name(call), call))
        if self.runtime.tasks.is_cancelled(call):
            raise asyncio.CancelledError
        args, kwargs = fetch_arguments(self.runtime, call)
        value = self.methods[call.function & METHOD_MASK](*args, **kwargs)
        return as_awaited(self.runtime, call, self.method_name(call), value)

    def finish(self, call: ClaimedTask, value: Any) -> None:
        """CallRunner."""
        if self._is_leaving and call.id in self._left_by:
            self._exited(call, ActorExit())
            return
        if self._end_if_cancelled(call):
            return
        try:
            if not call.flags & TaskFlag.STREAM:
                store_results(self.runtime, call, self.method_name(call), value)
        except Exception as error:
            store_error(self.runtime, call, self.method_name(call), error)
        self.runtime.tasks.finish(call)

    def fail(self, call: ClaimedTask, error: BaseException) -> None:
        """CallRunner."""
        if isinstance(error, SystemExit):
            self._exited(call, error)
            return
        if self._end_if_cancelled(call):
            return
        retried = self._retried_errors(call)
        if should_retry(error, retried) and repair.run_again(self.runtime.store.segment, call.loc):
            self.runtime.tasks.forget(call)
            return
        store_error(self.runtime, call, self.method_name(call), error)
        self.runtime.tasks.finish(call)

    def _end_if_cancelled(self, call: ClaimedTask) -> bool:
        is_cancelled = self.runtime.tasks.is_cancelled(call)
        if is_cancelled:
            end_cancelled(self.runtime, call)
            self.runtime.tasks.finish(call)
        return is_cancelled

    def _retried_errors(self, call: ClaimedTask) -> RetriedErrors:
        """The exceptions after which the call runs again, if it has retries."""
        if not call.function >> RETRY_SHIFT:
            return self._retried[call.function & METHOD_MASK]
        said = retry_of(call.function)
        if said is not Retry.LISTED:
            return said is Retry.ALWAYS
        # The last of what the call keeps.
        loc = call.dependencies[-1]
        listed: tuple[type[BaseException], ...] = self.runtime.get(
            [self.runtime.table.adopt_held(ObjectRef, loc)], None
        )[0]
        return listed

    def _line_of(self, call: ClaimedTask) -> Hashable:
        """Calls of one caller keep their order, those of each group by themselves."""
        if not self.settings.in_order:
            return call.loc
        return call.submitter, self.groups.number_of(call)

    # ---- the end

    def leave(self) -> None:
        """Ends the actor: it takes no more calls. Callable from any thread."""
        scope = task_scope.get()
        if scope is not None:
            self._left_by.add(scope.task_id)
        self._is_leaving = True
        self._close()

    def leave_in_order(self) -> None:
        """Ends the actor, after the calls that run if none of them asks for it. From any thread."""
        if task_scope.get() is None:
            # A thread of the user's own, or the scheduler.
            self._is_draining = True
        self.leave()

    def _close(self) -> None:
        self.mailbox.close()
        if self._engine is not None:
            self._engine.stop()

    def _exited(self, call: ClaimedTask, error: SystemExit) -> None:
        """A call ended the actor: in order, so that it is known what the call's end was."""
        cause = f"its process exited with {error.code}"
        if isinstance(error, ActorExit):
            cause = "it ended itself with exit_actor()"
        else:
            self._exit = error
        death = ActorDiedError(
            f"actor {self.class_name} ({self.actor_id.hex()}) died: {cause}",
            actor_id=self.actor_id,
        )
        seal_error(self.runtime.table, call.returns, StoredError(pickle.dumps(death), []))
        self._finish_for_good(call)
        self._close()

    def close(self) -> None:
        """Lets go of the instance and of the event loop; for an actor that shares its process."""
        self.instance, self.methods = None, []
        if self._engine is not None:
            self._engine.close()

    @property
    def exit_status(self) -> object:
        """What a call gave to sys.exit; None: none did."""
        return None if self._exit is None else self._exit.code

    def clean_up(self) -> None:
        """Runs the class's own hook for its end, and what was registered with atexit."""
        self.run_end_hook()
        # Not left to the interpreter: the scheduler ends this process once it knows of the end.
        atexit._run_exitfuncs()

    def run_end_hook(self) -> None:
        """Runs the class's own hook for its end."""
        hook = next((hook for name in END_HOOKS if (hook := self._hook(name))), None)
        if hook is not None:
            try:
                ended = hook()
                if inspect.iscoroutine(ended):
                    self._run_coroutine(ended)
            except BaseException:
                logger.exception("the shutdown hook of %s failed", self.class_name)

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, object]) -> None:
        if self.settings.is_async:
            self._coroutines.loop.run_until_complete(coroutine)
        else:
            asyncio.run(coroutine)

    def _hook(self, name: str) -> Callable[[], Any] | None:
        return getattr(self.instance, name, None)


def constructor_death(actor: ActorProcess, error: BaseException) -> ActorDiedError:
    """What callers of an actor get whose constructor raised."""
    raised = task_error(f"{actor.class_name}.__init__", error)
    return ActorDiedError(
        f"actor {actor.class_name} ({actor.actor_id.hex()}) died because its constructor "
        f"raised:\n{raised.remote_traceback}",
        actor_id=actor.actor_id,
        actor_init_failed=True,
    )


def run_actor(runtime: Runtime, assignment: dict[str, Any]) -> None:
    """Builds and runs the actor; returns, or exits the process, at its end."""
    runtime.assignment = ActorAssignment.of(assignment)
    actor = ActorProcess(runtime, assignment)
    _context.set_end_of_actor(actor.leave_in_order)
    try:
        actor.load()
        actor.build()
    except ActorExit:
        _end(actor)
        return
    except BaseException as error:
        death = constructor_death(actor, error)
        runtime.ask("actor_failed", {"actor_id": actor.actor_id, "error": pickle.dumps(death)})
        sys.exit(1)
    ready = {"actor_id": actor.actor_id, "is_serial": actor.is_serial}
    answer = runtime.ask("actor_ready", ready)
    actor.catch_up(int(answer["waiting"]))
    actor.run()
    _end(actor)


def _end(actor: ActorProcess) -> None:
    actor.clean_up()
    actor.runtime.ask("exit_actor", {"actor_id": actor.actor_id})
