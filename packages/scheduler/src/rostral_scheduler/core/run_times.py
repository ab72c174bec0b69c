"""How long the tasks of each queue take, smoothed, from what can be seen without asking anybody.

No daemon takes part in a task, so nobody is told when one begins or ends. But a queue says how many
tasks were taken from it, and its workers' slots say who has one: the time that workers were busy,
over the tasks that ended in it, is how long one took.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["QueueUse", "RunTimes"]

_SHARE = 0.2
"""Of one task in the smoothed time; of many that end together, accordingly more."""


@dataclass(frozen=True, slots=True)
class QueueUse:
    """One queue at one moment.

    Attributes:
        queue: Its locator.
        taken: How many tasks were taken from it so far.
        running: How many workers have one of them now.
    """

    queue: int
    taken: int
    running: int


@dataclass(slots=True)
class _Known:
    taken: int
    running: int
    busy_s: float = 0.0
    run_time_s: float = 0.0


class RunTimes:
    """Smoothed run times of all queues of a node."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._seen_at_s = 0.0

    def see(self, uses: Iterable[QueueUse], now_s: float) -> None:
        """Takes in all queues as they are now; those that are left out are forgotten."""
        passed_s, self._seen_at_s = now_s - self._seen_at_s, now_s
        known, self._known = self._known, {}
        for use in uses:
            was = known.get(use.queue)
            if was is None or use.taken < was.taken:
                self._known[use.queue] = _Known(use.taken, use.running)
                continue
            self._known[use.queue] = was
            was.busy_s += passed_s * (was.running + use.running) / 2
            ended = use.taken - was.taken - (use.running - was.running)
            was.taken, was.running = use.taken, use.running
            if ended > 0:
                sample_s = was.busy_s / ended
                share = 1.0 if was.run_time_s == 0 else 1.0 - (1.0 - _SHARE) ** min(ended, 100)
                was.run_time_s += share * (sample_s - was.run_time_s)
                was.busy_s = 0.0

    def of(self, queue: int) -> float:
        """Of one queue, in seconds; 0 while not known.

        Of tasks that have run for longer than any before, so long at least.
        """
        known = self._known.get(queue)
        if known is None:
            return 0.0
        so_far_s = known.busy_s / known.running if known.running else 0.0
        return max(known.run_time_s, so_far_s)
