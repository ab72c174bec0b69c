"""The way of results back to the event loop, in the order of their commits.

This file owns that order: changes are published one commit after the other, and each before its
writers are answered, whether the shard's thread has committed or the loop itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rostral_gcs.backends.base import Change

__all__ = ["Delivery", "Outcomes", "Parcel", "Publish"]

Publish = Callable[[int, list[Change]], None]
"""Called on the event loop with the shard's new last sequence and its watchable changes."""

Outcomes = Sequence[tuple["asyncio.Future[object]", object]]
"""Futures, and the result or the error of each."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a commit, or a question, came to.

    Attributes:
        outcomes: For those who wait.
        last_sequence: Of the shard, to be published with the changes; None: nothing is.
        changes: Those to publish, and others.
    """

    outcomes: Outcomes
    last_sequence: int | None = None
    changes: Sequence[Change] = ()


class Delivery:
    """From a shard to those who wait on the loop.

    Args:
        loop: The event loop.
        publish: Told of every commit.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, publish: Publish) -> None:
        self._loop = loop
        self._publish = publish
        # Each is written by one side alone: the thread, and the loop.
        self._sent_count = 0
        self._taken_count = 0

    def send(self, parcel: Parcel) -> None:
        """Has it delivered. For the shard's thread, in the order of commits."""
        self._sent_count += 1
        self.call(lambda: self._take(parcel))

    def give(self, parcel: Parcel) -> None:
        """Delivers it, on the loop: now, or after what the thread has sent."""
        if self._sent_count == self._taken_count:
            self._deliver(parcel)
        else:
            self._loop.call_soon(self._deliver, parcel)

    def call(self, call: Callable[[], None]) -> None:
        """Has something done on the loop, unless that is closed."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    def _take(self, parcel: Parcel) -> None:
        self._taken_count += 1
        self._deliver(parcel)

    def _deliver(self, parcel: Parcel) -> None:
        if parcel.last_sequence is not None:
            watchable = [change for change in parcel.changes if change.watchable]
            self._publish(parcel.last_sequence, watchable)
        for future, outcome in parcel.outcomes:
            if future.done():  # The caller was cancelled while it waited.
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
