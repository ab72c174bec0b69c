"""Writes that the event loop commits itself, without a hop to the shard's thread and back.

This file owns which writes those are: few and small ones, alone in their turn of the loop. When
more come together they go to the thread, which groups them and leaves the loop free; and so they do
for a while after a commit that took long, since the loop stood still for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from rostral_gcs.shard_commands import Write

__all__ = ["LoopCommits"]

_OPS_MAX: Final = 8
_SIZE_MAX: Final = 64 * 1024
# A commit that takes longer is a disk that is busy; so many times as long it is left to the thread.
_SLOW_S: Final = 0.005
_PAUSES: Final = 20


class LoopCommits:
    """The writes of one turn of the loop. Used on that loop.

    Args:
        loop: The event loop.
        commit: Commits them now and answers, or says that the thread must.
        pass_on: Gives one to the thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        commit: Callable[[Sequence[Write], int], bool],
        pass_on: Callable[[Write], None],
    ) -> None:
        self._loop = loop
        self._commit = commit
        self._pass_on = pass_on
        self._offered: list[Write] = []
        self._not_before_s = 0.0

    def __len__(self) -> int:
        return len(self._offered)

    def offer(self, write: Write) -> None:
        """Takes one; what comes in the same turn of the loop is looked at together."""
        if not self._offered:
            self._loop.call_soon(self._decide)
        self._offered.append(write)

    def pass_all_on(self) -> None:
        """Gives all to the thread."""
        offered, self._offered = self._offered, []
        for write in offered:
            self._pass_on(write)

    def _decide(self) -> None:
        offered = self._offered
        began_s = time.monotonic()
        if not offered or began_s < self._not_before_s:
            self.pass_all_on()
            return
        size = _small_size(offered)
        if size is None or not self._commit(offered, size):
            self.pass_all_on()
        else:
            self._offered = []
        ended_s = time.monotonic()
        if ended_s - began_s > _SLOW_S:
            self._not_before_s = ended_s + _PAUSES * (ended_s - began_s)


def _small_size(writes: Sequence[Write]) -> int | None:
    """Bytes of all values; None when they are too much, or there are too many."""
    if sum(len(write.ops) for write in writes) > _OPS_MAX:
        return None
    ops = [op for write in writes for op in write.ops]
    if any(op.spec.appended for op in ops):
        return None
    size = sum(len(op.value) for op in ops if op.value is not None)
    return size if size <= _SIZE_MAX else None
