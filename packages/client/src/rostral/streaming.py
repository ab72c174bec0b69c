"""Streams from the inside: a task yields items, which its caller takes while it runs.

Owns the producer's side: what a generator yields is stored item by item, no further ahead of the
consumer than there is room, until its end or until nobody will take any more. Consumers are in
`generator.py`; what the two share in memory is said in `stream.pyx`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from rostral.exceptions import StreamingGeneratorReplayInconsistentError
from rostral.generator import DynamicObjectRefGenerator
from rostral.object_ref import ObjectRef
from rostral.runtime import Runtime
from rostral.serialization import pack
from rostral_objectstore._native.stream import StreamWriter
from rostral_objectstore._native.task import ClaimedTask
from rostral_objectstore.layout import TaskFlag

# How long a producer sleeps before it looks for exceptions that another thread has set in it.
WAIT_SLICE_NS = 100_000_000
# After so many items that it had not to wait for, a producer lets its event loop go on.
ITEMS_PER_TURN = 32
GENERATORS = frozenset({types.GeneratorType, types.AsyncGeneratorType})


class Stream:
    """What a running task yields, on its way into the store."""

    def __init__(self, runtime: Runtime, task: ClaimedTask, name: str) -> None:
        self.writer = StreamWriter(runtime.table, task.loc)
        self._runtime = runtime
        self._task = task
        self._name = name
        self._replayed = self.writer.yielded_count

    def wait_for_room(self) -> bool:
        """Blocks until the next item can be stored. False: nobody will take it."""
        while self._runtime.waits_for_room and not self.writer.wait_room(WAIT_SLICE_NS):
            self.check_cancelled()
        self.check_cancelled()
        return not self.writer.is_closed

    async def room(self) -> bool:
        """`wait_for_room` for an event loop, which goes on meanwhile."""
        if self._runtime.waits_for_room and not self.writer.has_room():
            await self._runtime.rooms().wait(self.writer)
        self.check_cancelled()
        return not self.writer.is_closed

    def check_cancelled(self) -> None:
        """Raises KeyboardInterrupt in a task that was cancelled."""
        if self._runtime.tasks.is_cancelled(self._task):
            raise KeyboardInterrupt

    def store(self, value: Any) -> None:
        """Stores the next item, unless an earlier run of the task has done so."""
        if self.writer.index < self._replayed and self.writer.skip():
            return
        packed = pack(value)
        self.writer.write(packed.kind, packed.inband, packed.buffers, packed.refs)

    def check_length(self) -> None:
        """After the last item. Raises StreamingGeneratorReplayInconsistentError."""
        yielded = self.writer.yielded_count
        if self.writer.index < yielded:
            raise StreamingGeneratorReplayInconsistentError(
                f"{self._name}() ran again and yielded {self.writer.index} items, but an earlier "
                f"run had yielded {yielded}",
                hint="a generator that can run again must yield the same: make it deterministic, "
                "or give it max_retries=0",
            )

    def seal(self) -> None:
        """The stream is at its end."""
        packed = pack(None)
        self._runtime.table.fill_at(self._task.returns[0], packed.kind, packed.inband, [], [])


def _refuse(name: str, option: str, value: object) -> ValueError:
    return ValueError(
        f"{name}() has num_returns={option!r} but returned {type(value).__name__}, not a generator"
    )


def write_stream(runtime: Runtime, task: ClaimedTask, name: str, value: Any) -> None:
    """Stores what a generator yields, in this thread, and seals the task's result.

    Raises what the generator raises; ValueError for what is no generator; NotPicklableError;
    ObjectStoreFullError; StreamingGeneratorReplayInconsistentError.
    """
    if isinstance(value, AsyncIterator):
        asyncio.run(write_stream_async(runtime, task, name, value))
        return
    if not isinstance(value, Iterator):
        raise _refuse(name, "streaming", value)
    stream = Stream(runtime, task, name)
    with contextlib.ExitStack() as stack:
        close: Callable[[], None] | None = getattr(value, "close", None)
        if close is not None:
            stack.callback(close)
        while stream.wait_for_room():
            try:
                item = next(value)
            except StopIteration:
                stream.check_length()
                break
            stream.store(item)
    stream.seal()


async def write_stream_async(runtime: Runtime, task: ClaimedTask, name: str, value: Any) -> None:
    """`write_stream` on an event loop, which goes on while the stream has no room."""
    if inspect.isawaitable(value):
        value = await value
    if isinstance(value, Iterator):
        value = _stepwise(value)
    elif not isinstance(value, AsyncIterator):
        raise _refuse(name, "streaming", value)
    stream = Stream(runtime, task, name)
    async with contextlib.AsyncExitStack() as stack:
        if hasattr(value, "aclose"):
            stack.push_async_callback(value.aclose)
        while await stream.room():
            try:
                item = await anext(value)
            except StopAsyncIteration:
                stream.check_length()
                break
            stream.store(item)
            if stream.writer.index % ITEMS_PER_TURN == 0:
                await asyncio.sleep(0)
    stream.seal()


def as_awaited(runtime: Runtime, task: ClaimedTask, name: str, value: Any) -> Any:
    """For an event loop: what it awaits where a call yields, and else the call's own value.

    A stream is stored by then; another generator's items are a list.
    """
    if task.flags & TaskFlag.STREAM:
        return write_stream_async(runtime, task, name, value)
    if isinstance(value, types.AsyncGeneratorType):
        return collect(value, _limit(task))
    return as_results(task, value) if type(value) in GENERATORS else value


async def _stepwise(items: Iterator[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


def write_dynamic(
    runtime: Runtime, task: ClaimedTask, name: str, value: Any
) -> DynamicObjectRefGenerator:
    """Stores what a generator yields; returns the references, which are the task's result."""
    if isinstance(value, AsyncIterator):
        value = asyncio.run(collect(value))
    if not isinstance(value, Iterator | Yielded):
        raise _refuse(name, "dynamic", value)
    refs = []
    for number, item in enumerate(value, 1):
        packed = pack(item)
        ref = runtime.table.expect(ObjectRef, task.id + number.to_bytes(4, "little"))
        runtime.table.fill(ref, packed.kind, packed.inband, packed.buffers, packed.refs)
        refs.append(ref)
    return DynamicObjectRefGenerator(refs)


class Yielded(list[Any]):
    """What a generator has yielded, where its items are the task's results: not itself a result."""


def as_results(task: ClaimedTask, value: Any) -> Any:
    """Runs one of GENERATORS that a task's code has returned, unless it is to stream."""
    if task.flags & (TaskFlag.STREAM | TaskFlag.DYNAMIC):
        return value
    if isinstance(value, types.GeneratorType):
        with contextlib.closing(value):
            return Yielded(itertools.islice(value, _limit(task)))
    return asyncio.run(collect(value, _limit(task)))


def _limit(task: ClaimedTask) -> int | None:
    """How many items of a generator to ask for; None: all."""
    if task.flags & TaskFlag.DYNAMIC or not task.returns:
        return None
    return len(task.returns) + 1  # One more than wanted tells that they are too many.


async def collect(items: AsyncIterator[Any], limit: int | None = None) -> Yielded:
    """What an async generator yields, up to `limit` items."""
    yielded = Yielded()
    while limit is None or len(yielded) < limit:
        try:
            yielded.append(await anext(items))
        except StopAsyncIteration:
            break
    return yielded
