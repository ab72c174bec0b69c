"""A pool of actors of one kind: calls go to whichever is free."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from rostral.actor import ActorHandle
from rostral.api import get, wait
from rostral.exceptions import GetTimeoutError
from rostral.object_ref import ObjectRef

V = TypeVar("V")
R = TypeVar("R")


class ActorPool(Generic[V, R]):
    """Shares calls out among actors. Not thread-safe.

        pool = ActorPool([Simulator.remote() for _ in range(4)])
        for score in pool.map(lambda simulator, seed: simulator.run.remote(seed), range(100)):
            ...

    Args:
        actors: Handles; what is called on one is said with each call.
    """

    def __init__(self, actors: Iterable[ActorHandle[Any]]) -> None:
        self._idle: deque[ActorHandle[Any]] = deque(actors)
        self._busy: dict[ObjectRef[R], tuple[int, ActorHandle[Any]]] = {}
        self._by_index: dict[int, ObjectRef[R]] = {}
        self._waiting: deque[tuple[Callable[[Any, V], ObjectRef[R]], V]] = deque()
        self._next_submitted = 0
        self._next_returned = 0

    def map(self, fn: Callable[[Any, V], ObjectRef[R]], values: Iterable[V]) -> Iterator[R]:
        """Results in the order of the values, as they come. Drops results not yet taken."""
        self._submit_all(fn, values)
        return self._drain(self.get_next)

    def map_unordered(
        self, fn: Callable[[Any, V], ObjectRef[R]], values: Iterable[V]
    ) -> Iterator[R]:
        """Results as they come, whichever is first. Drops results not yet taken."""
        self._submit_all(fn, values)
        return self._drain(self.get_next_unordered)

    def _submit_all(self, fn: Callable[[Any, V], ObjectRef[R]], values: Iterable[V]) -> None:
        while self.has_next():
            self.get_next_unordered(ignore_errors=True)
        for value in values:
            self.submit(fn, value)

    def _drain(self, take: Callable[[], R]) -> Iterator[R]:
        while self.has_next():
            yield take()

    def submit(self, fn: Callable[[Any, V], ObjectRef[R]], value: V) -> None:
        """Calls `fn(actor, value)` on an idle actor, now or when there is one.

        Args:
            fn: Makes one remote call on the actor that it is given, and returns its reference.
            value: Passed on to it.
        """
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.popleft()
        ref = fn(actor, value)
        self._busy[ref] = (self._next_submitted, actor)
        self._by_index[self._next_submitted] = ref
        self._next_submitted += 1

    def has_next(self) -> bool:
        """Whether results are still to come."""
        return bool(self._busy)

    def get_next(self, timeout: float | None = None, *, ignore_if_timedout: bool = False) -> R:
        """The next result, in the order of submission. Blocks.

        Args:
            timeout: Seconds.
            ignore_if_timedout: Gives up on the result that was late, so that the next call returns
                the one after it.

        Raises:
            StopIteration: Nothing was submitted that has not been returned.
            TimeoutError: The result did not come in time.
            ValueError: Results have been taken out of order.
        """
        if not self.has_next():
            raise StopIteration("no more results to get")
        if self._next_returned not in self._by_index:
            raise ValueError("get_next() cannot follow get_next_unordered(): the order is lost")
        ref = self._by_index[self._next_returned]
        if timeout is not None and not wait([ref], timeout=timeout)[0]:
            if ignore_if_timedout:
                self._take(ref)
            raise TimeoutError(f"the next result did not come within {timeout} s")
        self._take(ref)
        return get(ref)

    def get_next_unordered(
        self,
        timeout: float | None = None,
        *,
        ignore_if_timedout: bool = False,
        ignore_errors: bool = False,
    ) -> R:
        """The next result that is there. Blocks.

        Args:
            timeout: Seconds.
            ignore_if_timedout: Gives up on one that was late.
            ignore_errors: Returns an error in place of raising it.

        Raises:
            StopIteration: Nothing was submitted that has not been returned.
            TimeoutError: No result came in time.
        """
        if not self.has_next():
            raise StopIteration("no more results to get")
        ready, late = wait(list(self._busy), timeout=timeout)
        if not ready:
            if ignore_if_timedout:
                self._take(late[0])
            raise TimeoutError(f"no result came within {timeout} s")
        self._take(ready[0])
        try:
            return get(ready[0])
        except Exception as error:
            if isinstance(error, GetTimeoutError) or not ignore_errors:
                raise
            dropped: Any = error
            return dropped  # type: ignore[no-any-return]

    def _take(self, ref: ObjectRef[R]) -> None:
        """Its actor is free again."""
        index, actor = self._busy.pop(ref)
        del self._by_index[index]
        self._next_returned = max(self._next_returned, index + 1)
        self._return(actor)

    def _return(self, actor: ActorHandle[Any]) -> None:
        self._idle.append(actor)
        if self._waiting:
            self.submit(*self._waiting.popleft())

    def has_free(self) -> bool:
        """Whether an actor is idle and nothing waits for one."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle[Any] | None:
        """Takes an idle actor out of the pool; None when all are at work."""
        return self._idle.popleft() if self.has_free() else None

    def push(self, actor: ActorHandle[Any]) -> None:
        """Adds an actor. Raises ValueError for one that is in the pool."""
        if actor in self._idle or any(actor == busy for _, busy in self._busy.values()):
            raise ValueError(f"{actor!r} is in the pool already")
        self._return(actor)
