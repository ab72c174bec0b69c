"""One claimed task from its record to its sealed results.

Pure in that it decides nothing: fetches the inputs, runs the code, stores what it returns or
raises. How tasks are claimed, and in which thread they run, is the worker's and the actor's affair.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from rostral._context import task_scope
from rostral.arguments import decode, value_count
from rostral.exceptions import ReferenceCountError, RostralError, TaskError, UserCodeError
from rostral.failure import dump_task_error, pass_on, seal_error, task_error
from rostral.interrupt import end_cancelled, raise_interrupt
from rostral.object_ref import ObjectRef
from rostral.runtime import Read, Runtime, TaskScope
from rostral.serialization import Packed, pack
from rostral.streaming import GENERATORS, Yielded, as_results, write_dynamic, write_stream
from rostral_objectstore._native import repair
from rostral_objectstore._native.task import ClaimedTask
from rostral_objectstore.layout import TaskFlag
from rostral_objectstore.serialization import deserialize

_LOST_INPUT_LOOK_S = 0.5
"""Between two looks whether a task was cancelled that waits for an input to be made again."""

RetriedErrors = bool | tuple[type[BaseException], ...]


class FailedInputError(Exception):
    """An input of the task is an error; carries it as it is stored, to be passed on unchanged."""

    def __init__(self, inband: bytes) -> None:
        super().__init__()
        self.inband = inband


def fetch_arguments(runtime: Runtime, task: ClaimedTask) -> tuple[Sequence[Any], dict[str, Any]]:
    """The call's arguments, with values for references. Raises FailedInputError."""
    table = runtime.table
    values = []
    for loc in task.dependencies[: value_count(task.payload)]:
        ref: ObjectRef[Any] = table.adopt_held(ObjectRef, loc)
        read = table.read(ref)
        if read is None:
            read = _await_input(runtime, task, ref)
        kind, is_error, inband, buffers = read
        if is_error:
            raise FailedInputError(bytes(inband))
        values.append(deserialize(kind, inband, buffers))
    return decode(task.payload, values)


def _await_input(runtime: Runtime, task: ClaimedTask, missing: ObjectRef[Any]) -> Read:
    """An input that is not sealed: another has failed, or it was lost and is being made again."""
    table = runtime.table
    while not any(
        runtime.tasks.has_failed(table.adopt_held(ObjectRef, loc))
        for loc in task.dependencies[: value_count(task.payload)]
    ):
        if runtime.tasks.is_cancelled(task):
            raise_interrupt()
        # A wait like any other, in which this worker's CPU is lent to others.
        runtime.wait_sealed([missing], 1, _LOST_INPUT_LOOK_S)
        read = table.read(missing)
        if read is not None:
            return read
    raise _missing_input(runtime, task, missing)


def _missing_input(runtime: Runtime, task: ClaimedTask, missing: ObjectRef[Any]) -> Exception:
    """Why the task has been started without one of its inputs."""
    table = runtime.table
    for loc in task.dependencies[: value_count(task.payload)]:
        ref: ObjectRef[Any] = table.adopt_held(ObjectRef, loc)
        read = table.read(ref) if runtime.tasks.has_failed(ref) else None
        if read is not None:
            return FailedInputError(bytes(read[2]))
    return ReferenceCountError(
        "an input of the task is not in the store any more", object_ref_hex=missing.hex()
    )


def store_results(runtime: Runtime, task: ClaimedTask, name: str, value: Any) -> None:
    """Seals the task's results with what its code returned."""
    count = len(task.returns)
    if count == 0:
        return
    if task.flags & TaskFlag.STREAM:
        write_stream(runtime, task, name, value)
        return
    if task.flags & TaskFlag.DYNAMIC:
        value = write_dynamic(runtime, task, name, value)
    is_one = count == 1 and not isinstance(value, Yielded)
    values = (value,) if is_one else _split(name, value, count)
    packed: list[Packed] = [pack(item) for item in values]
    for loc, item in zip(task.returns, packed, strict=True):
        runtime.table.fill_at(loc, item.kind, item.inband, item.buffers, item.refs)


def _split(name: str, value: Any, count: int) -> Sequence[Any]:
    """The results in what a task with several returned. Raises ValueError."""
    try:
        # One more than wanted tells that it is too long: there may be no end, or a large one.
        values = tuple(itertools.islice(value, count + 1))
    except TypeError:
        raise ValueError(
            f"{name}() has num_returns={count} but returned {type(value).__name__}"
        ) from None
    if len(values) != count:
        length = len(values) if len(values) < count else "more"
        did, hint = "returned", ""
        if isinstance(value, Yielded):
            did, hint = "yielded", ': num_returns="streaming" takes any number'
        raise ValueError(f"{name}() has num_returns={count} but {did} {length} values{hint}")
    return values


def store_error(runtime: Runtime, task: ClaimedTask, name: str, error: BaseException) -> None:
    """Seals the task's results with an error."""
    if isinstance(error, FailedInputError):
        stored = pass_on(error.inband)
    else:
        stored = dump_task_error(task_error(name, error))
    seal_error(runtime.table, task.returns, stored)


def should_retry(error: BaseException, retried: RetriedErrors) -> bool:
    """Whether the user asked for another try after this error."""
    if isinstance(error, FailedInputError):
        return False
    if isinstance(error, UserCodeError) and error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(retried, bool):
        return isinstance(error, retried)
    is_users = not isinstance(error, RostralError) or isinstance(error, TaskError)
    return retried and isinstance(error, Exception) and is_users


def execute(
    runtime: Runtime,
    task: ClaimedTask,
    name: str,
    code: Callable[..., Any],
    scope: TaskScope,
    *,
    retried: RetriedErrors = False,
) -> None:
    """Runs the task in this thread and finishes it.

    SystemExit is the process's end, and passes through.
    """
    token = task_scope.set(scope)
    is_cancelled = runtime.tasks.is_cancelled
    try:
        if task.dependencies and is_cancelled(task):
            raise_interrupt()  # its inputs may be missing
        args, kwargs = fetch_arguments(runtime, task)
        # In this order: who cancels sets the flag, and then has this process look at `interrupt`.
        scope.interrupt = raise_interrupt
        if is_cancelled(task):
            raise_interrupt()
        value = code(*args, **kwargs)
        if type(value) in GENERATORS:
            value = as_results(task, value)
        scope.interrupt = None
        if is_cancelled(task):
            raise_interrupt()
        store_results(runtime, task, name, value)
    except SystemExit:
        raise
    except BaseException as error:
        scope.interrupt = None
        if is_cancelled(task):
            end_cancelled(runtime, task)
        elif should_retry(error, retried) and repair.run_again(runtime.store.segment, task.loc):
            runtime.tasks.forget(task)
            return
        else:
            store_error(runtime, task, name, error)
    finally:
        task_scope.reset(token)
    runtime.tasks.finish(task)
