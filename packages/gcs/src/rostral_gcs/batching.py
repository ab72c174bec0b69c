"""Batching of writes in a client: what is written while a request is under way goes in the next.

This file owns the waiting list and the one task that sends it. One request at a time, so that a
client's writes are applied in the order in which they were made. What is written while none is
under way is sent by its own caller: a task for it alone costs as much as the call does. It knows no
RPC: it is given a function that sends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from rostral_gcs._proto import gcs_pb2
from rostral_gcs.client_options import ClientOptions
from rostral_gcs.errors import ClientClosedError

__all__ = ["Batcher", "Send"]

Send = Callable[[Sequence[gcs_pb2.WriteOp]], Awaitable[Sequence[gcs_pb2.WriteResult]]]


@dataclass(slots=True)
class _Entry:
    ops: Sequence[gcs_pb2.WriteOp]
    future: asyncio.Future[list[gcs_pb2.WriteResult]]
    results: list[gcs_pb2.WriteResult] = field(default_factory=list)


class Batcher:
    """Collects writes and sends them in batches. Used on one event loop.

    Args:
        send: Sends one batch; retries are its business.
        options: Bounds.
    """

    def __init__(self, send: Send, options: ClientOptions) -> None:
        self._send = send
        self._options = options
        self._waiting: deque[_Entry] = deque()
        self._pending_count = 0
        self._room = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        # Of a request that its caller sends: done when it is.
        self._alone: asyncio.Future[None] | None = None
        self._closed = False

    async def write(self, ops: Sequence[gcs_pb2.WriteOp]) -> list[gcs_pb2.WriteResult]:
        """Writes and waits for the answer. Waits first while too many writes are pending.

        Raises:
            GcsError: The batch was refused or nothing answered; the writes may have happened.
        """
        if not ops:
            return []
        if not self._options.batching:
            return await self._write_at_once(ops)
        if self._is_idle and self._fits(ops):
            return await self._write_alone(ops)
        async with self._room:
            await self._room.wait_for(
                lambda: self._closed or self._pending_count < self._options.pending_ops_max
            )
            if self._closed:
                raise ClientClosedError("the client was closed", hint="make a new client")
            self._pending_count += len(ops)
        entry = _Entry(ops, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._alone is None:
            self._begin()
        return await entry.future

    @property
    def _is_idle(self) -> bool:
        return (
            self._alone is None
            and not self._waiting
            and not self._closed
            and (self._task is None or self._task.done())
        )

    def _fits(self, ops: Sequence[gcs_pb2.WriteOp]) -> bool:
        if len(ops) == 1:
            return True
        size = sum(len(op.value) for op in ops)
        return len(ops) <= self._options.batch_ops_max and size <= self._options.batch_size_max

    async def _write_alone(self, ops: Sequence[gcs_pb2.WriteOp]) -> list[gcs_pb2.WriteResult]:
        self._alone = asyncio.get_running_loop().create_future()
        try:
            return list(await self._send(ops))
        finally:
            alone, self._alone = self._alone, None
            if self._waiting:
                self._begin()
            alone.set_result(None)

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="gcs-batcher")

    async def _write_at_once(self, ops: Sequence[gcs_pb2.WriteOp]) -> list[gcs_pb2.WriteResult]:
        if self._closed:
            raise ClientClosedError("the client was closed", hint="make a new client")
        results: list[gcs_pb2.WriteResult] = []
        for at in range(0, len(ops), self._options.batch_ops_max):
            results.extend(await self._send(ops[at : at + self._options.batch_ops_max]))
        return results

    async def close(self) -> None:
        """Sends what waits, then refuses more."""
        async with self._room:
            self._closed = True
            self._room.notify_all()
        if self._alone is not None:
            await asyncio.wait([self._alone])
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            ops = [op for _, part in batch for op in part]
            try:
                results = await self._send(ops)
            except asyncio.CancelledError as error:
                # The loop is going down: nobody will send what waits.
                self._fail([*batch, *((entry, ()) for entry in self._waiting)], error)
                raise
            except Exception as error:
                # Theirs to handle; what waits behind is sent all the same.
                self._fail(batch, error)
            else:
                self._resolve(batch, results)
            async with self._room:
                self._pending_count -= len(ops)
                self._room.notify_all()

    def _next_batch(self) -> list[tuple[_Entry, Sequence[gcs_pb2.WriteOp]]]:
        """Takes entries, whole or in part, up to the bounds of a request."""
        batch: list[tuple[_Entry, Sequence[gcs_pb2.WriteOp]]] = []
        count = size = 0
        while self._waiting:
            entry = self._waiting[0]
            taken = 0
            for op in entry.ops:
                if count and (
                    count >= self._options.batch_ops_max
                    or size + len(op.value) > self._options.batch_size_max
                ):
                    break
                taken += 1
                count += 1
                size += len(op.value)
            if taken:
                batch.append((entry, entry.ops[:taken]))
            if taken < len(entry.ops):
                entry.ops = entry.ops[taken:]
                break
            entry.ops = ()
            self._waiting.popleft()
        return batch

    def _resolve(
        self,
        batch: Sequence[tuple[_Entry, Sequence[gcs_pb2.WriteOp]]],
        results: Sequence[gcs_pb2.WriteResult],
    ) -> None:
        at = 0
        for entry, part in batch:
            entry.results.extend(results[at : at + len(part)])
            at += len(part)
            if not entry.ops and not entry.future.done():
                entry.future.set_result(entry.results)

    def _fail(
        self, batch: Sequence[tuple[_Entry, Sequence[gcs_pb2.WriteOp]]], error: BaseException
    ) -> None:
        for entry, _ in batch:
            if entry.ops:
                # The rest of a split entry: its caller hears of the failure now.
                self._waiting = deque(other for other in self._waiting if other is not entry)
                self._pending_count -= len(entry.ops)
                entry.ops = ()
            if not entry.future.done():
                if isinstance(error, asyncio.CancelledError):
                    entry.future.cancel()
                else:
                    entry.future.set_exception(error)
