"""A node that leaves: it takes nothing new, gives away what waits, and ends what is done.

This file owns the order of that and its deadline. How tasks go to other nodes is not its affair
(between/leaving.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

__all__ = ["Draining"]

logger = logging.getLogger("rostral.scheduler.local")

_LOOK_S = 0.05


class Neighbours(Protocol):
    """The cluster, as far as leaving it goes."""

    def begin_drain(self) -> None:
        """Takes nothing new, and gives away what waits."""

    @property
    def has_work(self) -> bool:
        """Whether anything of this node is elsewhere, or of others here."""


class Draining:
    """The end of a node in order, on the running event loop.

    Args:
        neighbours: The cluster; None: the node is alone.
        is_busy: Whether a task or actor runs, or waits, on this node.
        report: Tells the cluster at once.
        done: Called when nothing runs any more, or the deadline has passed.

    Attributes:
        is_draining: Whether it has begun.
    """

    def __init__(
        self,
        neighbours: Neighbours | None,
        *,
        is_busy: Callable[[], bool],
        report: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        self._neighbours, self._is_busy = neighbours, is_busy
        self._report, self._done = report, done
        self._work: asyncio.Task[None] | None = None
        self._deadline_s = 0.0
        self.is_draining = False

    def begin(self, within_s: float) -> None:
        """Leaves within so many seconds; of several such orders, the first that runs out counts."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + within_s
        if self._work is not None:
            self._deadline_s = min(self._deadline_s, deadline_s)
            return
        logger.info("draining within_s=%s", within_s)
        self.is_draining, self._deadline_s = True, deadline_s
        if self._neighbours is not None:
            self._neighbours.begin_drain()
        self._report()
        self._work = loop.create_task(self._wait(), name="draining")

    async def stop(self) -> None:
        """Waits for nothing any more."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < self._deadline_s:
            has_work = self._neighbours is not None and self._neighbours.has_work
            if not has_work and not self._is_busy():
                logger.info("drained: nothing is left")
                break
            await asyncio.sleep(_LOOK_S)
        else:
            logger.warning("the time to drain is over: what still runs is ended")
        self._done()
