"""Generators of references: what a call of a remote generator function returns.

Owns the consumer's side of a stream, and `wait` over lists that hold streams. How items lie in the
store, and how they get there, is said in `stream.pyx` and `streaming.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from rostral import _context
from rostral.object_ref import ObjectRef
from rostral_gcs.ids import TaskID
from rostral_objectstore._native.stream import StreamReader
from rostral_objectstore.errors import StoreClosedError

if TYPE_CHECKING:
    from rostral.runtime import Runtime

T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")


class ObjectRefGenerator(Generic[T_co]):
    """Gives a reference for each item that a remote generator yields, in order, while it runs.

    `next(g)` blocks until the next item is there; `async for` waits without blocking the loop. If
    the task fails, its error is the last reference. Dropping the generator gives up what was not
    taken, and has the task stop at its next `yield`. It stays in its process: not picklable.
    """

    __slots__ = ("__weakref__", "_completion", "_is_finished", "_reader")

    def __init__(
        self, completion: ObjectRef[Any], reader: StreamReader[ObjectRef[Any]] | None
    ) -> None:
        self._completion = completion
        # None: the call came to nobody, and `completion` is the error that says why.
        self._reader = reader
        self._is_finished = False

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._completion.hex()})"

    def __iter__(self) -> ObjectRefGenerator[T_co]:
        return self

    def __next__(self) -> ObjectRef[T_co]:
        """The next item's reference. Blocks until it is yielded; raises StopIteration at the end.

        Raises ClusterUnavailableError when the cluster ends meanwhile.
        """
        try:
            while not self._is_finished:
                ref = self._take()
                if ref is not None:
                    return ref
                if self._reader is not None and not self._is_finished:
                    self._reader.wait(-1)
        except StoreClosedError as error:
            raise _context.runtime().gone() from error
        except ValueError:
            # Closed by another thread, which has come to the end meanwhile.
            if not self._is_finished:
                raise
        raise StopIteration

    def __aiter__(self) -> ObjectRefGenerator[T_co]:
        return self

    async def __anext__(self) -> ObjectRef[T_co]:
        """As `__next__`, for the running event loop."""
        try:
            while not self._is_finished:
                ref = self._take()
                if ref is not None:
                    return ref
                if self._reader is not None and not self._is_finished:
                    await _context.runtime().any_sealed(self._awaited())
        except StoreClosedError as error:
            raise _context.runtime().gone() from error
        except ValueError:
            if not self._is_finished:
                raise
        raise StopAsyncIteration

    def _take(self) -> ObjectRef[T_co] | None:
        """What `next` would give, if it is there. At the end, notes that it is the end."""
        reader = self._reader
        if reader is not None:
            ref = reader.take()
            if ref is not None:
                return ref
            if not reader.is_over:
                return None
        self._is_finished = True
        if reader is not None:
            # The task's record can go.
            reader.close()
        read = _context.runtime().table.read(self._completion)
        return self.completed() if read is not None and read[1] else None

    def _awaited(self) -> list[ObjectRef[Any]]:
        """References of which one is sealed once there is something to take, or the end."""
        expected = None if self._reader is None else self._unless_closed(self._reader.expect)
        return [self._completion] if expected is None else [expected, self._completion]

    def _unless_closed(self, look: Callable[[], V]) -> V | None:
        """What a look at the stream finds. None: it is at its end and closed, maybe meanwhile."""
        try:
            return None if self._is_finished else look()
        except ValueError:
            if not self._is_finished:
                raise
            return None

    def completed(self) -> ObjectRef[Any]:
        """A reference that is ready when the task has ended; `get` raises the task's error."""
        return _context.runtime().table.share(ObjectRef, self._completion)

    def task_id(self) -> TaskID:
        """The task that yields."""
        return self._completion.task_id()

    def next_ready(self) -> bool:
        """Whether `next` gives a reference at once."""
        if self.is_finished():
            return False
        reader = self._reader
        return reader is None or bool(self._unless_closed(lambda: reader.wait(0)))

    def is_finished(self) -> bool:
        """Whether the task has ended and everything, its error too, was taken."""
        reader = self._reader
        if reader is None or not self._unless_closed(lambda: reader.is_over):
            return self._is_finished
        read = _context.runtime().table.read(self._completion)
        return read is None or not read[1]

    def send(self, value: object) -> NoReturn:
        """Always raises NotImplementedError: nothing can be sent to a remote generator."""
        raise NotImplementedError("a remote generator takes no values: send() does not work")

    def throw(self, *error: object) -> NoReturn:
        """Always raises NotImplementedError."""
        raise NotImplementedError("a remote generator takes no exceptions: throw() does not work")

    def close(self) -> NoReturn:
        """Always raises NotImplementedError: drop the generator, or cancel the task."""
        raise NotImplementedError("drop the last reference to the generator to end it")

    async def asend(self, value: object) -> NoReturn:
        """As `send`."""
        self.send(value)

    async def athrow(self, *error: object) -> NoReturn:
        """As `throw`."""
        self.throw(*error)

    async def aclose(self) -> NoReturn:
        """As `close`."""
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an ObjectRefGenerator cannot be pickled: it belongs to the process that called the "
            "remote function; pass on the references that it gives"
        )


class DynamicObjectRefGenerator:
    """The value of a task with `num_returns="dynamic"`: the references of all that it yielded."""

    def __init__(self, refs: Sequence[ObjectRef[Any]]) -> None:
        self._refs = list(refs)

    def __iter__(self) -> Iterator[ObjectRef[Any]]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)


Waited = ObjectRef[Any] | ObjectRefGenerator[Any]
W = TypeVar("W", bound=Waited)


def wait_for_any(
    current: Runtime, items: list[W], count: int, timeout_s: float | None
) -> tuple[list[W], list[W]]:
    """`wait` for references and generators: these are ready when `next` does not block.

    Raises: TypeError, ValueError for what `wait` refuses.
    """
    for index, item in enumerate(items):
        if not isinstance(item, ObjectRef | ObjectRefGenerator):
            raise TypeError(
                f"wait() was given a list whose item {index} is {type(item).__name__}, not "
                "ObjectRef or ObjectRefGenerator"
            )
    if len(set(items)) < len(items):
        raise ValueError("wait() was given the same reference or generator twice")
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        ready = {item for item in items if _is_ready(current, item)}
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        if len(ready) >= count or (left_s is not None and left_s <= 0):
            break
        awaited: list[ObjectRef[Any]] = []
        for item in items:
            if item not in ready:
                awaited += item._awaited() if isinstance(item, ObjectRefGenerator) else [item]
        # One more of them, then look again: a generator waits for either of two references.
        current.wait_sealed(awaited, 1, left_s)
    first = [item for item in items if item in ready][:count]
    chosen = set(first)
    return first, [item for item in items if item not in chosen]


def _is_ready(current: Runtime, item: Waited) -> bool:
    if isinstance(item, ObjectRefGenerator):
        return item.is_finished() or item.next_ready()
    return current.table.is_sealed(item)
