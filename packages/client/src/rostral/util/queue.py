"""A first-in-first-out queue that any task, actor or driver can put into and take from.

It lives in an actor of its own, which is what waits; items are passed by value.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from rostral.actor import ActorHandle
from rostral.api import get, kill
from rostral.decorator import remote

T = TypeVar("T")


class Empty(queue.Empty):
    """Nothing was in the queue, or came in time."""


class Full(queue.Full):
    """The queue had no room, or got none in time."""


class _QueueActor:
    """What holds the items."""

    def __init__(self, maxsize: int) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def qsize(self) -> int:
        return self._items.qsize()

    async def put(self, item: Any, timeout_s: float | None) -> bool:
        try:
            await asyncio.wait_for(self._items.put(item), timeout_s)
        except TimeoutError:
            return False
        return True

    async def get(self, timeout_s: float | None) -> tuple[bool, Any]:
        try:
            return True, await asyncio.wait_for(self._items.get(), timeout_s)
        except TimeoutError:
            return False, None

    async def put_nowait(self, items: Sequence[Any]) -> bool:
        """All or none."""
        maxsize = self._items.maxsize
        if maxsize > 0 and self._items.qsize() + len(items) > maxsize:
            return False
        for item in items:
            self._items.put_nowait(item)
        return True

    async def get_nowait(self, count: int) -> tuple[int, list[Any]]:
        """All or none; first, how many there are."""
        size = self._items.qsize()
        if size < count:
            return size, []
        return size, [self._items.get_nowait() for _ in range(count)]


class Queue(Generic[T]):
    """A queue of the cluster, with the interface of `queue.Queue`.

    Picklable: tasks and actors that get it share it. It ends with its last handle.

    Args:
        maxsize: Items at once; 0 or less for no limit.
        actor_options: Options of the actor that holds the items, such as `name`.
    """

    def __init__(self, maxsize: int = 0, actor_options: Mapping[str, Any] | None = None) -> None:
        if isinstance(maxsize, bool) or not isinstance(maxsize, int):
            raise TypeError(f"maxsize must be a whole number, not {type(maxsize).__name__}")
        self.maxsize = maxsize
        self.actor: ActorHandle[Any] = (
            remote(_QueueActor).options(**(actor_options or {})).remote(maxsize)
        )

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """How many items are in it at this moment."""
        return cast(int, get(self.actor.qsize.remote()))

    qsize = size

    def empty(self) -> bool:
        """Whether nothing is in it at this moment."""
        return self.size() == 0

    def full(self) -> bool:
        """Whether it has no room at this moment."""
        return 0 < self.maxsize <= self.size()

    def put(
        self,
        item: T,
        block: bool = True,  # noqa: FBT001 - as in queue.Queue
        timeout: float | None = None,
    ) -> None:
        """Adds an item; waits for room, `timeout` seconds at most.

        Raises:
            Full: No room, or none in time.
            ValueError: The timeout is negative.
        """
        if not block:
            self.put_nowait(item)
        elif not get(self.actor.put.remote(item, _checked(timeout))):
            raise Full

    async def put_async(
        self,
        item: T,
        block: bool = True,  # noqa: FBT001 - as put
        timeout: float | None = None,  # noqa: ASYNC109 - as put
    ) -> None:
        """As `put`, without blocking the event loop."""
        if not block:
            if not await self.actor.put_nowait.remote([item]):
                raise Full
        elif not await self.actor.put.remote(item, _checked(timeout)):
            raise Full

    def get(
        self,
        block: bool = True,  # noqa: FBT001 - as in queue.Queue
        timeout: float | None = None,
    ) -> T:
        """Takes the oldest item; waits for one, `timeout` seconds at most.

        Raises:
            Empty: There is none, or none came in time.
            ValueError: The timeout is negative.
        """
        if not block:
            return self.get_nowait()
        found, item = get(self.actor.get.remote(_checked(timeout)))
        if not found:
            raise Empty
        return cast(T, item)

    async def get_async(
        self,
        block: bool = True,  # noqa: FBT001 - as get
        timeout: float | None = None,  # noqa: ASYNC109 - as get
    ) -> T:
        """As `get`, without blocking the event loop."""
        if not block:
            size, items = await self.actor.get_nowait.remote(1)
            found, item = size > 0, items[0] if items else None
        else:
            found, item = await self.actor.get.remote(_checked(timeout))
        if not found:
            raise Empty
        return cast(T, item)

    def put_nowait(self, item: T) -> None:
        """Adds an item. Raises Full."""
        if not get(self.actor.put_nowait.remote([item])):
            raise Full

    def put_nowait_batch(self, items: Sequence[T]) -> None:
        """Adds all items, or none. Raises Full, TypeError."""
        if isinstance(items, str | bytes) or not isinstance(items, Sequence):
            raise TypeError(f"items must be a list, not {type(items).__name__}")
        if not get(self.actor.put_nowait.remote(list(items))):
            raise Full(f"there is no room for {len(items)} items at once")

    def get_nowait(self) -> T:
        """Takes the oldest item. Raises Empty."""
        return self.get_nowait_batch(1)[0]

    def get_nowait_batch(self, num_items: int) -> list[T]:
        """Takes the oldest items, as many as are asked for or none. Raises Empty, ValueError."""
        if isinstance(num_items, bool) or not isinstance(num_items, int):
            raise TypeError(f"num_items must be a whole number, not {type(num_items).__name__}")
        if num_items < 0:
            raise ValueError(f"num_items is {num_items}: it must not be negative")
        size, items = get(self.actor.get_nowait.remote(num_items))
        if size < num_items:
            raise Empty(f"{num_items} items were asked for, and there are {size}")
        return cast("list[T]", items)

    def shutdown(self, force: bool = False) -> None:  # noqa: FBT001 - as in Ray
        """Ends the queue; what is in it is lost.

        Args:
            force: At once; else after the calls that it has got, which may wait for ever.
        """
        if force:
            kill(self.actor)
        else:
            self.actor.__ray_terminate__.remote()


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout is {timeout}: it must not be negative")
    return timeout
