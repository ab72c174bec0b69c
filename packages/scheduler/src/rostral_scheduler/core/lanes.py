"""Lanes of a ready queue: which there are, and in what order workers take from them.

This file owns the choice of the lane for a task; the memory of the lanes is the shell's. Of one job
and shape, what drivers submit has one queue and what tasks submit has another. A queue has a lane
for each priority of its tasks, and that of nested ones for each depth:

- the higher priority first. A task has at least the priority of the task that submits it, so what
  an urgent one waits for is as urgent;
- of the same priority, what is nested deeper first. So tasks that are begun are brought to their
  end before others begin, and those blocked at a time are about as many as CPUs times levels, and
  not as many as the graph is wide.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rostral_scheduler.errors import LimitReachedError

__all__ = ["DEEP_LANES_MAX", "PRIORITIES_MAX", "Lanes", "Rank"]

# Together one less than the bits of the word that says which lanes have tasks.
PRIORITIES_MAX: Final = 32
DEEP_LANES_MAX: Final = 31


class Rank(NamedTuple):
    """What the tasks of a lane have in common."""

    priority: int = 0
    depth: int = 0
    """How many tasks are above them; 0: a driver submitted them."""


class Lanes:
    """The lanes of one queue, which is the first of them, and their locators.

    Invariant: of lanes beside the first, at most ``DEEP_LANES_MAX`` have a depth above 1, and at
    most ``priorities_max`` have not.
    """

    def __init__(self, base: int, rank: Rank, priorities_max: int) -> None:
        self.queues: dict[Rank, int] = {rank: base}
        self._priorities_max = priorities_max

    @property
    def lane_count(self) -> int:
        """How many there are beside the queue itself; the number of the next one."""
        return len(self.queues) - 1

    def choose(self, wanted: Rank, *, may_add: bool) -> Rank:
        """The lane for tasks of this rank: one that there is, or one to be added.

        Where no more may be added, nested tasks share the lane of those that are less deep.

        Raises:
            LimitReachedError: The queue's tasks have as many priorities as they may.
        """
        if wanted in self.queues:
            return wanted
        deep_count = sum(rank.depth > 1 for rank in list(self.queues)[1:])
        if wanted.depth <= 1:
            if may_add and self.lane_count - deep_count < self._priorities_max:
                return wanted
            priorities = {rank.priority for rank in self.queues}
            raise LimitReachedError(
                f"priority {wanted.priority} would be one more than the {len(priorities)} that "
                "tasks of one job and combination of resources have already (priorities_max, "
                "queues_per_job_max)",
                hint="use fewer different priorities",
            )
        if may_add and deep_count < DEEP_LANES_MAX:
            return wanted
        shallower = [
            rank
            for rank in self.queues
            if rank.priority == wanted.priority and rank.depth < wanted.depth
        ]
        if shallower:
            return max(shallower)
        return self.choose(Rank(wanted.priority, 1), may_add=may_add)

    def neighbours(self, rank: Rank) -> tuple[int | None, int | None]:
        """The lanes between which one of this rank is taken from; None: there is none there."""
        first = [other for other in self.queues if other > rank]
        last = [other for other in self.queues if other < rank]
        return (
            self.queues[min(first)] if first else None,
            self.queues[max(last)] if last else None,
        )
