"""Batching of unconditional writes by columns: what is written meanwhile goes in the next request.

This file owns one table's waiting list and the one task that sends it, in the order in which rows
were given. Where what is sent arrives in that order, the next requests are sent before the answer
of the first is there, so that caller, service and storage work at the same time. It knows no RPC:
it is given a function that sends.

One that had to be sent again may have been overtaken by those behind it, which would leave an older
row where a newer one was. So those are sent once more: they are unconditional, and doing them twice
is doing them once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rostral_gcs.client_options import ClientOptions
from rostral_gcs.errors import ClientClosedError

__all__ = ["ColumnBatcher", "SendColumns"]

SendColumns = Callable[[list[bytes], list[bytes] | None], Awaitable[bool]]
"""Sends keys and their values, or None to delete the keys. Whether the first attempt did it."""

UNDER_WAY_MAX: Final = 3
"""Requests of one table at a time, where they arrive in their order."""


@dataclass(slots=True)
class _Part:
    keys: Sequence[bytes]
    values: Sequence[bytes] | None
    size: int
    future: asyncio.Future[None]


class ColumnBatcher:
    """Collects rows of one table and sends them in batches. Used on one event loop.

    Args:
        send: Sends one batch; retries are its business.
        options: Bounds.
        keeps_order: Whether what is sent now arrives before what is sent next.
    """

    def __init__(
        self,
        send: SendColumns,
        options: ClientOptions,
        keeps_order: Callable[[], bool] = lambda: False,
    ) -> None:
        self._send = send
        self._options = options
        self._keeps_order = keeps_order
        self._waiting: deque[_Part] = deque()
        self._pending_count = 0
        self._room = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def write(self, keys: Sequence[bytes], values: Sequence[bytes] | None) -> None:
        """Writes rows, or deletes them, and waits for the answer; first for room to wait in.

        Raises:
            GcsError: A batch was refused or nothing answered; the writes may have happened.
        """
        if not keys:
            return
        if not self._options.batching:
            await self._write_at_once(keys, values)
            return
        if self._pending_count >= self._options.pending_ops_max:
            async with self._room:
                await self._room.wait_for(
                    lambda: self._closed or self._pending_count < self._options.pending_ops_max
                )
        if self._closed:
            raise ClientClosedError("the client was closed", hint="make a new client")
        parts = list(self._parts(keys, values))
        self._pending_count += len(keys)
        self._waiting.extend(parts)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="gcs-column-batcher")
        if len(parts) == 1:
            await parts[0].future
            return
        # All of them end before this does, so that no failure goes unheard.
        outcomes = await asyncio.gather(*(part.future for part in parts), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _write_at_once(self, keys: Sequence[bytes], values: Sequence[bytes] | None) -> None:
        if self._closed:
            raise ClientClosedError("the client was closed", hint="make a new client")
        for part in self._parts(keys, values):
            await self._send_batch([part])

    async def close(self) -> None:
        """Sends what waits, then refuses more."""
        async with self._room:
            self._closed = True
            self._room.notify_all()
        if self._task is not None:
            await self._task

    def _parts(self, keys: Sequence[bytes], values: Sequence[bytes] | None) -> Iterator[_Part]:
        """Cuts rows into parts that fit in a request."""
        loop = asyncio.get_running_loop()
        start = size = 0
        for at in range(len(keys)):
            row_size = len(values[at]) if values is not None else 0
            if at > start and (
                at - start >= self._options.batch_ops_max
                or size + row_size > self._options.batch_size_max
            ):
                part = None if values is None else values[start:at]
                yield _Part(keys[start:at], part, size, loop.create_future())
                start, size = at, 0
            size += row_size
        part = None if values is None else values[start:]
        yield _Part(keys[start:], part, size, loop.create_future())

    async def _run(self) -> None:
        under_way: deque[tuple[list[_Part], asyncio.Task[bool]]] = deque()
        try:
            while self._waiting or under_way:
                while self._waiting and len(under_way) < self._depth():
                    batch = self._next_batch()
                    under_way.append((batch, asyncio.create_task(self._send_batch(batch))))
                batch, sending = under_way[0]
                if not await self._finish(batch, sending):
                    await self._send_again(under_way)
                under_way.popleft()
                await self._make_room(sum(len(part.keys) for part in batch))
        except asyncio.CancelledError:
            # The loop is going down: nobody will send what waits.
            for batch, sending in under_way:
                sending.cancel()
                for part in batch:
                    part.future.cancel()
            for part in self._waiting:
                part.future.cancel()
            raise

    def _depth(self) -> int:
        return UNDER_WAY_MAX if self._keeps_order() else 1

    async def _finish(self, batch: Sequence[_Part], sending: asyncio.Task[bool]) -> bool:
        """Tells those who wait for the batch; whether nothing can have overtaken it."""
        try:
            was_first = await sending
        except Exception as error:
            # Theirs to handle; what waits behind is sent all the same.
            for part in batch:
                if not part.future.done():
                    part.future.set_exception(error)
            return True
        for part in batch:
            if not part.future.done():
                part.future.set_result(None)
        return was_first

    async def _send_again(self, under_way: deque[tuple[list[_Part], asyncio.Task[bool]]]) -> None:
        """Sends those behind the first once more, each once it has been answered."""
        for at in range(1, len(under_way)):
            batch, sending = under_way[at]
            await asyncio.wait({sending})
            if sending.exception() is None:
                again = asyncio.create_task(self._send_batch(batch))
                under_way[at] = batch, again
                await asyncio.wait({again})

    async def _make_room(self, count: int) -> None:
        full = self._pending_count >= self._options.pending_ops_max
        self._pending_count -= count
        if full:
            async with self._room:
                self._room.notify_all()

    def _next_batch(self) -> list[_Part]:
        """Takes parts of one kind up to the bounds of a request."""
        batch: list[_Part] = []
        count = size = 0
        while self._waiting:
            part = self._waiting[0]
            if batch and (
                (part.values is None) is not (batch[0].values is None)
                or count + len(part.keys) > self._options.batch_ops_max
                or size + part.size > self._options.batch_size_max
            ):
                break
            batch.append(self._waiting.popleft())
            count += len(part.keys)
            size += part.size
        return batch

    async def _send_batch(self, batch: Sequence[_Part]) -> bool:
        keys = [key for part in batch for key in part.keys]
        deletes = batch[0].values is None
        values = None if deletes else [value for part in batch for value in part.values or ()]
        return await self._send(keys, values)
