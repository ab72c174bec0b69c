"""Concurrency groups: how many calls of an actor may run at once, and which share a limit.

Every actor has the default group, number 0; `concurrency_groups` names more. Pure bookkeeping: in
which thread or coroutine a call runs is the business of others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from rostral.call_word import group_of, method_of
from rostral_objectstore._native.task import ClaimedTask

DEFAULT_GROUP = "_default"
# Calls that are claimed and wait for a place in their group. Reached, no more are claimed, and a
# full group does hold up the others until it has caught up.
HELD_CALLS_MAX = 1 << 14


class Group:
    """Calls that share a limit."""

    __slots__ = ("held", "limit", "running")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        # Claimed, in order, until there is a place.
        self.held: deque[ClaimedTask] = deque()


class Groups:
    """The groups of one actor. Not thread-safe.

    Args:
        default_limit: of the default group.
        limits: of the named ones, in the order that numbers them from 1.
        of_methods: the group's number for each method.
    """

    def __init__(
        self, default_limit: int, limits: Mapping[str, int], of_methods: Sequence[int]
    ) -> None:
        self.all = [Group(default_limit), *(Group(limit) for limit in limits.values())]
        self.are_named = bool(limits)
        self._of_methods = of_methods
        self.held_count = 0

    @property
    def limit(self) -> int:
        """How many calls may run at once, over all groups."""
        return sum(group.limit for group in self.all)

    def number_of(self, call: ClaimedTask) -> int:
        """The number of the call's group."""
        named = group_of(call.function)
        return self._of_methods[method_of(call.function)] if named is None else named

    def of(self, call: ClaimedTask) -> Group:
        """The call's group."""
        return self.all[self.number_of(call)] if self.are_named else self.all[0]

    def may_claim(self) -> bool:
        """Whether there is a place for one more call, to run or to be held."""
        if self.are_named:
            return self.held_count < HELD_CALLS_MAX
        # Calls that cannot run yet had better stay in the mailbox: a restart leaves them alone.
        return self.all[0].running < self.all[0].limit

    def begin(self, call: ClaimedTask) -> Group | None:
        """The call's group if the call may run now, or None: it is held."""
        group = self.of(call)
        if group.running < group.limit:
            group.running += 1
            return group
        group.held.append(call)
        self.held_count += 1
        return None

    def end(self, group: Group) -> ClaimedTask | None:
        """A call has ended; the one that takes its place, or None."""
        if group.held:
            self.held_count -= 1
            return group.held.popleft()
        group.running -= 1
        return None
