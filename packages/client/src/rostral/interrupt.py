"""Interrupting tasks that were cancelled while they run, in the process that runs them.

The flag in a task's record is the truth; a signal to the process only says that it is time to look.
So a signal that comes late, or twice, does no harm: the handler, which Python runs in the main
thread, looks at the flags of what runs at this moment.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
from collections.abc import Callable, Iterator

from rostral import _context
from rostral.exceptions import ClusterUnavailableError, RostralError, TaskCancelledError
from rostral.failure import StoredError, seal_error
from rostral.runtime import Runtime
from rostral_objectstore._native.task import ClaimedTask
from rostral_objectstore.layout import TaskFlag
from rostral_scheduler.worker_start import CANCEL_SIGNAL

# Tasks that coroutines run, and how each is interrupted.
_coroutines: dict[bytes, tuple[ClaimedTask, Callable[[], object]]] = {}


def install() -> None:
    """Makes this process, whose main thread this must be, ready for the signal."""
    signal.signal(CANCEL_SIGNAL, lambda _number, _frame: look())


def look() -> None:
    """Interrupts what was cancelled. Raises KeyboardInterrupt if that runs in this thread."""
    runtime = _context.current_runtime()
    if runtime is None:
        return
    # Threads that wait for calls look at those that wait for their inputs.
    runtime.store.segment.poke(runtime.store.slot)
    for task_id, (task, interrupt) in list(_coroutines.items()):
        if _flags(runtime, task) & TaskFlag.CANCELLED:
            _coroutines.pop(task_id, None)
            interrupt()
    scope = _context.task_scope.get()
    if scope is None or scope.task is None or scope.interrupt is None:
        return
    # An actor's call only if its scheduler allows it: another process must be able to follow.
    if _flags(runtime, scope.task) & TaskFlag.INTERRUPT:
        interrupt, scope.interrupt = scope.interrupt, None
        interrupt()


def _flags(runtime: Runtime, task: ClaimedTask) -> int:
    try:
        return runtime.tasks.flags(task)
    except RostralError:
        return 0  # The cluster is gone.


def raise_interrupt() -> None:
    """Raises what a task's code is interrupted by: KeyboardInterrupt, as by Ctrl-C."""
    raise KeyboardInterrupt("the task was cancelled")


@contextlib.contextmanager
def interrupted_by(task: ClaimedTask, interrupt: Callable[[], object]) -> Iterator[None]:
    """While a coroutine runs the task: `interrupt` is called once, if the task is cancelled.

    In the main thread. Look at the task's flag after this was entered: an earlier signal is lost.
    """
    _coroutines[task.id] = task, interrupt
    try:
        yield
    finally:
        _coroutines.pop(task.id, None)


def end_cancelled(runtime: Runtime, task: ClaimedTask) -> None:
    """Seals the results of a cancelled task with that, and sees that its children are cancelled.

    `finish` must follow.
    """
    flags = runtime.tasks.flags(task)
    error = TaskCancelledError.of(task.id, is_late=bool(flags & TaskFlag.LATE))
    seal_error(runtime.table, task.returns, StoredError(pickle.dumps(error), []))
    if flags & TaskFlag.CANCEL_CHILDREN:
        # Those that it submitted after the scheduler had looked for them.
        with contextlib.suppress(ClusterUnavailableError):
            runtime.ask("cancel_children", {"task_id": task.id})


def is_cancelled() -> bool:
    """Whether the task that runs in this thread was cancelled, and should come to its end.

    Raises: RuntimeError outside of a task, and in a coroutine, which is cancelled by its loop.
    """
    scope = _context.task_scope.get()
    if scope is None or scope.task is None:
        raise RuntimeError("only a task can be cancelled, and none runs in this thread")
    if _context.runs_event_loop():
        raise RuntimeError("a coroutine is told by asyncio.CancelledError that it was cancelled")
    return _context.connected().tasks.is_cancelled(scope.task)
