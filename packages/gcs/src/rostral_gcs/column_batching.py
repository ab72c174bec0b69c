"""Batching of unconditional writes by columns: what is written meanwhile goes in the next request.

This file owns one table's waiting list and the one task that sends it. One request at a time, so
that rows are written in the order in which they were given. It knows no RPC: it is given a function
that sends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from rostral_gcs.client_options import ClientOptions
from rostral_gcs.errors import ClientClosedError

__all__ = ["ColumnBatcher", "SendColumns"]

SendColumns = Callable[[list[bytes], list[bytes] | None], Awaitable[None]]
"""Sends keys and their values, or None to delete the keys."""


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
    """

    def __init__(self, send: SendColumns, options: ClientOptions) -> None:
        self._send = send
        self._options = options
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
        while self._waiting:
            batch = self._next_batch()
            count = sum(len(part.keys) for part in batch)
            try:
                await self._send_batch(batch)
            except asyncio.CancelledError:
                # The loop is going down: nobody will send what waits.
                for part in [*batch, *self._waiting]:
                    part.future.cancel()
                raise
            except Exception as error:
                # Theirs to handle; what waits behind is sent all the same.
                for part in batch:
                    if not part.future.done():
                        part.future.set_exception(error)
            else:
                for part in batch:
                    if not part.future.done():
                        part.future.set_result(None)
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

    async def _send_batch(self, batch: Sequence[_Part]) -> None:
        keys = [key for part in batch for key in part.keys]
        deletes = batch[0].values is None
        values = None if deletes else [value for part in batch for value in part.values or ()]
        await self._send(keys, values)
