"""Remote functions that are coroutines: each call runs on an event loop of its own, to its end.

Its own, so that what a call has left running ends with it, as `asyncio.run` has it. While it awaits
references its worker gives its CPU back, as in any wait for objects.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rostral import _context
from rostral.interrupt import raise_interrupt
from rostral.runtime import TaskScope

T = TypeVar("T")


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Whether a call of it gives a coroutine."""
    # Instances of a class with such a `__call__`, too.
    return any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))


def run_in_loop(
    scope: TaskScope, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any
) -> T:
    """Runs a call to its end, in this thread. Raises what it raises.

    A cancelled task is cancelled in its loop, from which its code may clean up.
    """
    call = functools.partial(function, *args, **kwargs)
    if not _context.runs_event_loop():
        return _run(scope, call)
    # Inline, a coroutine has submitted this one, and a thread runs one loop at a time.
    return _run_in_thread(scope, call)


def _run(scope: TaskScope, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    import asyncio

    with asyncio.Runner() as runner:
        return runner.run(_interruptible(scope, call))


async def _interruptible(scope: TaskScope, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    import asyncio

    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None
    scope.interrupt = functools.partial(loop.call_soon_threadsafe, me.cancel)
    try:
        return await call()
    finally:
        # The loop, which now ends what was left running, may be closed when it is interrupted.
        scope.interrupt = raise_interrupt


def _run_in_thread(scope: TaskScope, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(_run(scope, call))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
