"""What a pool hands out for work under way: results that can be waited for, and iterated over."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any, Generic, NamedTuple, TypeVar

from rostral.api import get, wait
from rostral.object_ref import ObjectRef

T = TypeVar("T")

# The values of the calls of one chunk, in order.
ChunkRef = ObjectRef[list[Any]]


class Failure(NamedTuple):
    """What a call raised, in place of its value."""

    error: BaseException
    trace: str = ""

    def raised(self) -> BaseException:
        """The error as the standard library's pool raises it: its cause is the remote trace."""
        if self.trace:
            self.error.__cause__ = RemoteTraceback(self.trace)
        return self.error


def values_of(ref: ChunkRef) -> list[Any]:
    """The values of a chunk; one Failure if the engine has none."""
    try:
        return get(ref)
    except Exception as error:  # what the engine could not send, or run to its end
        return [Failure(error)]


class AsyncResult(Generic[T]):
    """The result of calls that a pool runs. Thread-safe.

    Args:
        chunks: References to the values of the calls.
        join: Makes the result of the values of all calls.
        callback: Called with the result, in another thread.
        error_callback: Called with the first exception, in another thread.
    """

    def __init__(
        self,
        chunks: Sequence[ChunkRef],
        join: Callable[[list[Any]], T],
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._chunks = list(chunks)
        self._join = join
        self._callback = callback
        self._error_callback = error_callback
        self._lock = threading.Lock()
        self._outcome: tuple[bool, Any] | None = None
        self._called_back: threading.Event | None = None
        if callback is not None or error_callback is not None:
            self._called_back = threading.Event()
            self._await_chunk(None)

    def _await_chunk(self, done: Future[list[Any]] | None) -> None:
        """Calls back when all chunks are there, one after the other."""
        del done
        chunks = self._chunks
        missing = wait(chunks, num_returns=len(chunks), timeout=0)[1] if chunks else []
        if missing:
            missing[0].future().add_done_callback(self._await_chunk)
            return
        succeeded, value = self._take()
        assert self._called_back is not None
        try:
            if succeeded and self._callback is not None:
                self._callback(value)
            if not succeeded and self._error_callback is not None:
                self._error_callback(value)
        finally:
            self._called_back.set()

    def _take(self) -> tuple[bool, Any]:
        """Whether all calls succeeded, and the result or the first error. All must be there."""
        with self._lock:
            if self._outcome is None:
                values = [value for chunk in self._chunks for value in values_of(chunk)]
                failure = next((value for value in values if isinstance(value, Failure)), None)
                if failure is None:
                    self._outcome = True, self._join(values)
                else:
                    self._outcome = False, failure.raised()
                self._chunks = []
            return self._outcome

    def get(self, timeout: float | None = None) -> T:
        """The result; blocks. Raises what a call raised, or multiprocessing.TimeoutError."""
        if timeout is not None or self._called_back is not None:
            self.wait(timeout)
        if timeout is not None and not self.ready():
            raise multiprocessing.TimeoutError(f"the result did not come within {timeout} s")
        succeeded, value = self._take()
        if not succeeded:
            raise value
        result: T = value
        return result

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until it is done, for `timeout` seconds at most."""
        if self._called_back is not None:
            self._called_back.wait(timeout)
        elif chunks := self._chunks:
            wait(chunks, num_returns=len(chunks), timeout=timeout)

    def ready(self) -> bool:
        """Whether it is done."""
        if self._called_back is not None:
            return self._called_back.is_set()
        chunks = self._chunks
        return not chunks or not wait(chunks, num_returns=len(chunks), timeout=0)[1]

    def successful(self) -> bool:
        """Whether no call raised. Raises ValueError while it is not done."""
        if not self.ready():
            raise ValueError("the result is not ready")
        return self._take()[0]


class ResultIterator(Generic[T], Iterator[T]):
    """Values of single calls as they come, in their order or in any. For one thread.

    An error is raised in its place; the values after it still come.

    Args:
        chunks: Starts a chunk each time it is asked for the next.
        ahead: How many chunks are under way, or done and not taken, at once.
        ordered: Whether values come in the order of their calls.
    """

    def __init__(self, chunks: Iterator[ChunkRef], ahead: int, *, ordered: bool) -> None:
        self._chunks = chunks
        self._ahead = ahead
        self._ordered = ordered
        self._started: deque[ChunkRef] = deque()
        self._values: Iterator[Any] = iter(())
        self._error: Exception | None = None
        self._is_started = False
        self._start_some()

    @property
    def is_started(self) -> bool:
        """Whether no chunk is left to be started."""
        return self._is_started

    def start_all(self) -> None:
        """Starts what is left, however much is under way."""
        while self._start_next():
            pass

    def _start_some(self) -> None:
        while len(self._started) < self._ahead and self._start_next():
            pass

    def _start_next(self) -> bool:
        if self._is_started:
            return False
        try:
            self._started.append(next(self._chunks))
            return True
        except StopIteration:
            pass
        except Exception as error:  # whatever the caller's iterable does
            self._error = error
        self._is_started = True
        return False

    def __iter__(self) -> ResultIterator[T]:
        return self

    def __next__(self) -> T:
        return self.next()

    def next(self, timeout: float | None = None) -> T:
        """The next value; blocks. Raises what the call raised, or multiprocessing.TimeoutError."""
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while True:
            for value in self._values:
                if isinstance(value, Failure):
                    raise value.raised()
                result: T = value
                return result
            if not self._started:
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
                raise StopIteration
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            ref = self._next_chunk(left_s)
            self._values = iter(values_of(ref))
            self._start_some()

    def _next_chunk(self, timeout_s: float | None) -> ChunkRef:
        candidates = [self._started[0]] if self._ordered else list(self._started)
        ready, _ = wait(candidates, timeout=timeout_s)
        if not ready:
            raise multiprocessing.TimeoutError("the next result did not come in time")
        self._started.remove(ready[0])
        return ready[0]
