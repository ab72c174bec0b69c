"""Where this process's runtime is found, and the running task's context.

The only process-wide state of the package.
"""

from __future__ import annotations

import contextvars
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from rostral.exceptions import NotConnectedError
from rostral_objectstore._native.references import set_reference_table

if TYPE_CHECKING:
    from rostral.runtime import Runtime, TaskScope

_runtime: Runtime | None = None
_start: Callable[[], object] | None = None
_end_actor: Callable[[], None] | None = None
task_scope: contextvars.ContextVar[TaskScope | None] = contextvars.ContextVar(
    "rostral_task_scope", default=None
)


def set_runtime(runtime: Runtime | None) -> None:
    """Makes `runtime` the one of this process (None: there is none)."""
    global _runtime
    _runtime = runtime
    set_reference_table(getattr(runtime, "table", None))


def start_on_first_use(start: Callable[[], object]) -> None:
    """Says what connects a process that uses the cluster without having called `init`."""
    global _start
    _start = start


def set_end_of_actor(end: Callable[[], None] | None) -> None:
    """Says what `exit_actor` does in this process, which is an actor's, or has some (None: not)."""
    global _end_actor
    _end_actor = end


def end_of_actor() -> Callable[[], None] | None:
    """What ends this process's actor; None where there is none."""
    return _end_actor


def current_runtime() -> Runtime | None:
    """This process's runtime, or None."""
    return _runtime


def runs_event_loop() -> bool:
    """Whether an event loop runs in this thread."""
    # Importing asyncio would take half as long as importing all of this package.
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def runtime() -> Runtime:
    """This process's runtime.

    Starts a cluster on first use, unless ROSTRAL_ENABLE_AUTO_CONNECT=0 or, as Ray's users have it,
    RAY_ENABLE_AUTO_CONNECT=0. Raises NotConnectedError.
    """
    if _runtime is not None:
        return _runtime
    if _start is not None and "0" not in (
        os.environ.get("ROSTRAL_ENABLE_AUTO_CONNECT"),
        os.environ.get("RAY_ENABLE_AUTO_CONNECT"),
    ):
        _start()
    return connected()


def connected() -> Runtime:
    """This process's runtime, for calls that start no cluster. Raises NotConnectedError."""
    if _runtime is None:
        raise NotConnectedError(
            "rostral is not connected to a cluster", hint="call rostral.init() first"
        )
    return _runtime
