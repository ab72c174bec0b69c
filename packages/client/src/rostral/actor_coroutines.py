"""Async actors: all calls on one event loop, as many begun at once as their groups allow.

One asyncio task at a time takes calls from the mailbox and runs them, one after the other, each in
a context of its own. A coroutine that never waits thus needs no task of its own. When one does, the
task that had taken it stays with it to its end, and another goes on taking calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Protocol

from rostral.actor_loop import ActorLoop, MailboxSelector
from rostral.concurrency import Group, Groups
from rostral.exceptions import ActorExit
from rostral.interrupt import interrupted_by
from rostral.mailbox import Mailbox
from rostral.runtime import Runtime
from rostral.sweeper import sweep_timeout_ns
from rostral_objectstore._native.task import ClaimedTask

# After so many calls without a wait, the loop sees to its other business.
CALLS_PER_TURN = 32


# What the rest of a coroutine needs: its context, itself, and what it waits for.
Waiting = tuple[contextvars.Context, Coroutine[Any, Any, Any], Any]


class CallRunner(Protocol):
    """What is done with one call, apart from when and where."""

    def begin(self, call: ClaimedTask) -> Any:
        """Calls the method, in the current context; what it returns may have to be awaited."""

    def finish(self, call: ClaimedTask, value: Any) -> None:
        """Seals the call's results. Raises nothing."""

    def fail(self, call: ClaimedTask, error: BaseException) -> None:
        """Seals the call's results with the error, or has the call run again. Raises nothing."""


class AsyncCalls:
    """Runs an actor's calls on an event loop of the thread that makes this.

    Args:
        runtime: this process's.
        mailbox: the actor's.
        runner: what runs a call.
    """

    def __init__(self, runtime: Runtime, mailbox: Mailbox, runner: CallRunner) -> None:
        store = runtime.store
        self._mailbox = mailbox
        self._runner = runner
        self._is_cancelled = runtime.tasks.is_cancelled
        self._selector = MailboxSelector(
            mailbox, store.segment, lambda: sweep_timeout_ns(runtime.tasks)
        )
        self.loop = ActorLoop(self._selector, store.segment, store.slot)
        asyncio.set_event_loop(self.loop)
        self._groups = Groups(1, {}, ())
        self._taker: asyncio.Task[None] | None = None
        # A loop keeps no task alive by itself.
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = self.loop.create_future()

    def run(self, groups: Groups) -> None:
        """Blocks until the mailbox is closed. Calls may be waiting then."""
        self._groups = groups
        self._appoint_taker()
        # An ActorExit raised in a task of the user's own.
        with contextlib.suppress(ActorExit):
            self.loop.run_until_complete(self._ended)

    def stop(self) -> None:
        """Lets `run` return: the mailbox is closed. Callable from any thread."""
        self.loop.call_soon_threadsafe(self._end)

    def join(self, timeout_s: float) -> None:
        """Waits until the calls that had been claimed have ended."""
        deadline_s = self.loop.time() + timeout_s
        while self._tasks and (left_s := deadline_s - self.loop.time()) > 0:
            with contextlib.suppress(ActorExit):
                self.loop.run_until_complete(asyncio.wait(self._tasks, timeout=left_s))

    def close(self) -> None:
        """Cancels what has not ended, and closes the loop; for an actor that shares its process."""
        with contextlib.suppress(ActorExit):
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                self.loop.run_until_complete(asyncio.wait(self._tasks))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        self.loop.close()

    # ---- taking calls

    def _appoint_taker(self) -> None:
        self._taker = self._spawn(self._take_calls())

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _take_calls(self) -> None:
        me = asyncio.current_task()
        taken = 0
        try:
            while not self._mailbox.closed:
                if not self._groups.may_claim():
                    self._taker = None
                    return
                call = self._mailbox.take(0)
                if call is None:
                    await self._arrival()
                    continue
                group = self._groups.begin(call)
                if group is not None:
                    await self._run_call(call, group)
                    if self._taker is not me:
                        return
                taken += 1
                if taken % CALLS_PER_TURN == 0:
                    await asyncio.sleep(0)
            self._end()
        finally:
            # Somebody may have cancelled this task, which he knew from a call that it ran.
            if self._taker is me:
                self._taker = None
                if not self._mailbox.closed:
                    self._appoint_taker()

    async def _arrival(self) -> None:
        self._selector.bell = self.loop.create_future()
        await self._selector.bell

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # ---- running calls

    async def _run_call(self, call: ClaimedTask, group: Group) -> None:
        """Runs one call to its end; if it waits, another task takes calls from then on."""
        try:
            waiting = self._first_step(call)
            if waiting is not None:
                if self._taker is asyncio.current_task():
                    self._appoint_taker()
                await self._other_steps(call, waiting)
        finally:
            held = self._groups.end(group)
            if held is not None:
                self._spawn(self._run_call(held, group))
            elif self._taker is None and not self._mailbox.closed:
                self._appoint_taker()

    def _first_step(self, call: ClaimedTask) -> Waiting | None:
        """Runs the call until it waits. None: it has ended."""
        context = contextvars.copy_context()
        try:
            value = context.run(self._runner.begin, call)
            if type(value) is not types.CoroutineType:
                if not hasattr(type(value), "__await__"):
                    self._runner.finish(call, value)
                    return None
                value = awaited(value)
            try:
                return context, value, context.run(value.send, None)
            except StopIteration as stop:
                self._runner.finish(call, stop.value)
        except BaseException as error:
            self._runner.fail(call, error)
        return None

    async def _other_steps(self, call: ClaimedTask, waiting: Waiting) -> None:
        me = asyncio.current_task()
        assert me is not None
        try:
            with interrupted_by(call, lambda: self.loop.call_soon_threadsafe(me.cancel)):
                if self._is_cancelled(call):
                    me.cancel()
                value = await resumed(*waiting)
        except GeneratorExit:
            raise
        except BaseException as error:
            self._runner.fail(call, error)
        else:
            self._runner.finish(call, value)


async def awaited(value: Awaitable[Any]) -> Any:
    """A coroutine of what is awaitable in another way."""
    return await value


@types.coroutine
def resumed(
    context: contextvars.Context, coroutine: Coroutine[Any, Any, Any], waited: Any
) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that has made its first step, in the context that it began in."""
    try:
        while True:
            try:
                value = yield waited
            except GeneratorExit:
                context.run(coroutine.close)
                raise
            except BaseException as error:
                waited = context.run(coroutine.throw, error)
            else:
                waited = context.run(coroutine.send, value)
    except StopIteration as stop:
        return stop.value
