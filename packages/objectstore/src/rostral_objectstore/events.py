"""What happens to objects, as it happens: the reading side of the ring of events.

Owns one subscription's place in the ring, and the waiting. How events are written is in
_native/events.pyx.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType
from typing import Literal, Self

import msgspec

from rostral_gcs.ids import ObjectID
from rostral_objectstore._native.events import EventReader
from rostral_objectstore._native.segment import Segment
from rostral_objectstore.errors import StoreClosedError

KINDS: tuple[Literal["missed", "sealed", "deleted"], ...] = ("missed", "sealed", "deleted")
# The longest that a close by another thread goes unnoticed.
SLICE_S = 0.1
# A writer has a place in the ring and has not written yet.
HOLE_S = 0.005


class ObjectEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to an object, or how many events its reader came too late for."""

    kind: Literal["sealed", "deleted", "missed"]
    id: ObjectID | None = None
    """None of `missed`."""
    size_bytes: int = 0
    missed: int = 0
    """Of `missed`: how many events were overwritten before they were read. Else 0."""


class Subscription:
    """Events from the moment of `StoreClient.subscribe` on. One reader at a time."""

    def __init__(self, segment: Segment, prefix: bytes) -> None:
        self._segment, self._prefix = segment, prefix
        self._reader = EventReader(segment)
        self._pending: deque[ObjectEvent] = deque()
        self._lock = threading.Lock()
        self._closed = False

    def get(self, timeout_s: float | None = None) -> ObjectEvent | None:
        """The next event; None after `timeout_s` seconds. Raises StoreClosedError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            seen = self._segment.futex_value()
            with self._lock:
                wait_s = self._fetch()
                if self._pending:
                    return self._pending.popleft()
            if deadline is not None:
                wait_s = min(wait_s, deadline - time.monotonic())
                if wait_s <= 0:
                    return None
            self._segment.wait_poke(seen, int(wait_s * 1e9))

    def close(self) -> None:
        """Ends the subscription. Idempotent. Whoever iterates over it comes to the end."""
        with self._lock:
            self._closed = True
            self._reader.close()

    def _fetch(self) -> float:
        """Takes over what has happened. Returns how long to sleep until the next look."""
        if self._closed or self._segment.closed:
            raise StoreClosedError("the subscription is closed")
        for kind, id, number in self._reader.take():
            if KINDS[kind] == "missed":
                self._pending.append(ObjectEvent(kind="missed", missed=number))
            elif id.startswith(self._prefix):
                event = ObjectEvent(kind=KINDS[kind], id=ObjectID(id), size_bytes=number)
                self._pending.append(event)
        return HOLE_S if self._reader.waits_for_writer else SLICE_S

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ObjectEvent:
        try:
            event = self.get()
        except StoreClosedError:
            raise StopIteration from None
        assert event is not None
        return event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ObjectEvent:
        import asyncio  # not at the top: most readers are no coroutines

        try:
            while not self._pending:
                # Only looks: an event that comes while we are cancelled is not lost.
                await asyncio.to_thread(self._look)
        except StoreClosedError:
            raise StopAsyncIteration from None
        return self._pending.popleft()

    def _look(self) -> None:
        seen = self._segment.futex_value()
        with self._lock:
            wait_s = self._fetch()
        if not self._pending:
            self._segment.wait_poke(seen, int(wait_s * 1e9))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()
