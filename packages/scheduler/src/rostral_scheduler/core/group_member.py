"""Two-phase commit of a placement group: the node's side, pure.

This file owns what a node has of which group, and in which attempt. It reserves in the node's
ledger (``bundles.py``) when asked, and gives back when told, or when the time of an attempt is up
and the group's row says that it was not committed. What was committed is compared with the row now
and then, in case nobody lived to tell of the group's end. The protocol is drawn in
``group_commit.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from rostral_scheduler.core.amounts import covers
from rostral_scheduler.core.bundles import sum_of
from rostral_scheduler.core.events import Event, GroupRemoved, GroupWanted
from rostral_scheduler.core.group_commit import GroupState, GroupView
from rostral_scheduler.core.local import LocalPolicy
from rostral_scheduler.core.resources import ResourceSet

__all__ = ["GroupMember", "Ledger", "PolicyLedger", "ReadGroup", "TakeBack"]


class Ledger(Protocol):
    """Where bundles are set aside: the node's reservations, or its policy (`PolicyLedger`)."""

    def reserve(self, group_id: bytes, bundles: Mapping[int, ResourceSet]) -> bool | None:
        """Sets all aside, or none. False when they are not free; None: they may be soon."""

    def end(self, group_id: bytes) -> None:
        """Gives the group's part back, now or when its last member has gone; ends a wait for it."""


@dataclass(frozen=True, slots=True)
class ReadGroup:
    """Read the group's row and tell of it; again at the next tick if it cannot be read."""

    group_id: bytes


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Write the row if it still has ``view.version``, then read it again and tell of it."""

    view: GroupView


class PolicyLedger:
    """The local policy as a ledger: it withdraws idle workers' grants for a group that waits.

    Args:
        policy: Of the node.
        tell: Gives the policy an event, and carries out what it orders.
    """

    def __init__(self, policy: LocalPolicy, tell: Callable[[Event], None]) -> None:
        self._policy = policy
        self._tell = tell

    def reserve(self, group_id: bytes, bundles: Mapping[int, ResourceSet]) -> bool | None:
        """Sets aside what is free; else lets the group wait in the policy, with all others."""
        policy = self._policy
        if group_id in policy.reservations.by_group:
            return not policy.reservations.by_group[group_id].ending
        if group_id in policy.pending_groups:
            return None
        if not covers(dict(policy.resources.total), sum_of(list(bundles.values()))):
            return False
        wanted = GroupWanted(
            group_id=group_id,
            job_id=b"",
            bundles=tuple(bundles.values()),
            indexes=tuple(bundles),
        )
        self._tell(wanted)
        return True if group_id in policy.reservations.by_group else None

    def end(self, group_id: bytes) -> None:
        """Gives the group's part back, now or when its last member has gone; ends a wait for it."""
        self._tell(GroupRemoved(group_id=group_id))


@dataclass(slots=True)
class _Part:
    """What the node has of one group.

    Invariant: its bundles are reserved in the ledger, or wait there to be.
    """

    version: int
    bundles: dict[int, ResourceSet]
    look_at_s: float
    committed: bool = False
    reserved: bool = True
    """Else it waits for what others give back; its Prepare has no answer yet."""


class GroupMember:
    """One node's part in all groups.

    Args:
        node_id: The node.
        ledger: Its reservations.
        hold_s: How long an attempt's bundles are kept before the row is asked: long against the
            time that a coordinator needs.
        retry_s: Between two looks at the row.
        audit_s: Between two looks at the row of what is committed.
    """

    def __init__(
        self,
        node_id: bytes,
        ledger: Ledger,
        *,
        hold_s: float = 5.0,
        retry_s: float = 1.0,
        audit_s: float = 60.0,
    ) -> None:
        self.node_id = node_id
        self._ledger = ledger
        self._hold_s = hold_s
        self._retry_s = retry_s
        self._audit_s = audit_s
        self.parts: dict[bytes, _Part] = {}

    def handle_prepare(
        self, group_id: bytes, version: int, bundles: Mapping[int, ResourceSet], now_s: float
    ) -> bool | None:
        """Sets bundles aside for an attempt; whether they are. Asked again, it answers again.

        None: not yet, since idle workers have to give back first what they have. The coordinator
        asks again; after a while the answer is no.
        """
        part = self.parts.get(group_id)
        if part is not None and not part.reserved and part.bundles == dict(bundles):
            return self._prepare_again(group_id, part, version, now_s)
        if part is not None and part.bundles == dict(bundles) and version >= part.version:
            # Committed before, and the group now replaces others: or the same once more.
            part.version, part.look_at_s = version, now_s + self._hold_s
            return True
        if part is not None and (part.committed or version <= part.version):
            return False
        if part is not None:
            self._give_back(group_id)
        answer = self._ledger.reserve(group_id, bundles)
        if answer is False:
            return False
        part = _Part(version, dict(bundles), now_s + self._hold_s, reserved=answer is True)
        self.parts[group_id] = part
        return answer

    def _prepare_again(
        self, group_id: bytes, part: _Part, version: int, now_s: float
    ) -> bool | None:
        """Asked again for what still waits; not for longer than an attempt is held."""
        part.version = max(part.version, version)
        answer = self._ledger.reserve(group_id, part.bundles)
        if answer is True:
            part.reserved, part.look_at_s = True, now_s + self._hold_s
        elif answer is False or part.look_at_s <= now_s:
            self._give_back(group_id)
            return False
        return answer

    def handle_commit(self, group_id: bytes, version: int) -> bool:
        """Keeps the bundles for good; whether the node has them."""
        part = self.parts.get(group_id)
        if part is None or part.version > version or not part.reserved:
            return False
        part.committed, part.version = True, version
        return True

    def handle_release(self, group_id: bytes, version: int) -> None:
        """Gives back what was set aside up to this version of the row."""
        part = self.parts.get(group_id)
        if part is not None and part.version <= version:
            self._give_back(group_id)

    def handle_tick(self, now_s: float) -> list[ReadGroup]:
        """Asks for the rows of attempts whose time is up, and of what is to be compared."""
        actions: list[ReadGroup] = []
        for group_id, part in self.parts.items():
            if part.look_at_s <= now_s:
                part.look_at_s = now_s + (self._audit_s if part.committed else self._retry_s)
                actions.append(ReadGroup(group_id))
        return actions

    def handle_row(self, group_id: bytes, view: GroupView | None) -> list[TakeBack]:
        """The row that was asked for; None: there is none."""
        part = self.parts.get(group_id)
        if part is None:
            return []
        if view is None or view.state is GroupState.REMOVED or not part.reserved:
            self._give_back(group_id)
            return []
        if view.bundles_on(self.node_id) != part.bundles:
            # A row that is older than the attempt says nothing of it.
            if view.version >= part.version:
                self._give_back(group_id)
            return []
        if view.state is GroupState.CREATED:
            part.committed, part.version = True, max(part.version, view.version)
        if part.committed:
            return []
        if view.version == part.version:
            return [TakeBack(view.without({self.node_id}))]
        # A newer attempt with the same bundles: its Prepare is on its way, or its time will be up.
        if view.version > part.version:
            part.version = view.version
        return []

    def _give_back(self, group_id: bytes) -> None:
        del self.parts[group_id]
        self._ledger.end(group_id)
