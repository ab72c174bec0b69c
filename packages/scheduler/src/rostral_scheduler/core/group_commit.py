"""Two-phase commit of a placement group: the coordinator's side, pure.

This file owns the protocol. The group's row in the GCS is its only truth, and every step of it is a
compare-and-set; so there may be any number of coordinators at once, each may die at any step, and
whoever comes next goes on from the row. The row's version numbers the attempt.

    row                          coordinator                            nodes
    PENDING, RESCHEDULING        chooses nodes, writes PREPARED
    PREPARED                     Prepare to each, again until it       set bundles aside for a time,
                                 answers                                answer yes or no
                                 all yes: writes CREATED      <- the group is committed here
                                 a no, or a node is gone: writes
                                 PENDING, Release to all
    CREATED                      Commit to each, again until answered   keep them for good
                                 a node is gone: writes RESCHEDULING
    REMOVED                      Release to each, until answered        give them back

A node whose time is up reads the row. If it was committed, it keeps the bundles; else it first
takes the attempt back in the row, by compare-and-set, and gives them back only then. So no
coordinator can commit what a node has given up. The node's side is ``group_member.py``.

A group that lost a node keeps its other bundles: in RESCHEDULING a row names nodes for the lost
ones and goes to CREATED when these have said yes.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rostral_scheduler.core.group_nodes import GroupStrategy, NodeRoom, choose_nodes
from rostral_scheduler.core.resources import ResourceSet

__all__ = [
    "Commit",
    "GroupAction",
    "GroupCoordinator",
    "GroupState",
    "GroupView",
    "Prepare",
    "Release",
    "WriteGroup",
]


# The states of the GCS's placement group table; the drawing is above and there.
class GroupState(enum.Enum):
    """Where a group is in its life."""

    PENDING = "PENDING"
    PREPARED = "PREPARED"
    CREATED = "CREATED"
    RESCHEDULING = "RESCHEDULING"
    REMOVED = "REMOVED"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """A group's row, as far as the protocol needs it.

    Attributes:
        group_id: Its id.
        version: The row's version.
        state: Its state.
        strategy: PACK, SPREAD, STRICT_PACK or STRICT_SPREAD.
        bundles: What each bundle sets aside.
        nodes: The node of each bundle; None: none yet.
    """

    group_id: bytes
    version: int
    state: GroupState
    strategy: GroupStrategy
    bundles: tuple[ResourceSet, ...]
    nodes: tuple[bytes | None, ...]

    def bundles_on(self, node_id: bytes) -> dict[int, ResourceSet]:
        """The bundles that the row puts on a node, by index."""
        return {
            index: self.bundles[index] for index, node in enumerate(self.nodes) if node == node_id
        }

    def node_ids(self) -> list[bytes]:
        """The nodes that the row names, each once, in order."""
        return list(dict.fromkeys(node for node in self.nodes if node is not None))

    def without(self, lost: set[bytes]) -> GroupView:
        """The row to write when these nodes do not have their bundles (any more)."""
        if self.state is GroupState.PREPARED:
            nodes: tuple[bytes | None, ...] = (None,) * len(self.bundles)
            return replace(self, state=GroupState.PENDING, nodes=nodes)
        kept = tuple(None if node in lost else node for node in self.nodes)
        return replace(self, state=GroupState.RESCHEDULING, nodes=kept)


@dataclass(frozen=True, slots=True)
class WriteGroup:
    """Write the row if it still has ``view.version``; then tell of what is stored."""

    view: GroupView


@dataclass(frozen=True, slots=True)
class Prepare:
    """Ask the node to set bundles aside; answered by ``handle_prepared``."""

    node_id: bytes
    group_id: bytes
    version: int
    bundles: tuple[tuple[int, ResourceSet], ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """Tell the node to keep its bundles; answered by ``handle_committed``."""

    node_id: bytes
    group_id: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Release:
    """Tell the node to give back what it has of the group up to this version."""

    node_id: bytes
    group_id: bytes
    version: int


GroupAction = WriteGroup | Prepare | Commit | Release

_SETTLING = (GroupState.PREPARED, GroupState.RESCHEDULING)
_UNPLACED = (GroupState.PENDING, GroupState.RESCHEDULING)


class GroupCoordinator:
    """Drives one group from its row. Any number of these may drive the same group.

    Args:
        resend_s: After which what was not answered is sent again.
        write_s: After which a write that nobody told of is tried again.
    """

    def __init__(self, *, resend_s: float = 0.5, write_s: float = 2.0) -> None:
        self._resend_s = resend_s
        self._write_s = write_s
        self.view: GroupView | None = None
        self._answered: set[bytes] = set()
        self._owed: dict[bytes, int] = {}
        self._sent_at_s = -1e9
        self._written_at_s = -1e9

    @property
    def is_done(self) -> bool:
        """Nothing is left to do: the group is removed, and every node has said that it knows."""
        removed = self.view is not None and self.view.state is GroupState.REMOVED
        return removed and not self._owed

    def handle_row(self, view: GroupView, now_s: float) -> list[GroupAction]:
        """The row as it is stored now; older ones than known are passed over."""
        before = self.view
        if before is not None and view.version <= before.version:
            return []
        is_removed = view.state is GroupState.REMOVED
        named = [] if before is None else before.node_ids()
        # Of a removed group nobody knows whether the one who removed it lived to say so.
        for node_id in [*named, *view.node_ids()] if is_removed else named:
            if is_removed or node_id not in view.nodes:
                self._owed[node_id] = view.version
        self.view = view
        self._answered.clear()
        self._sent_at_s = self._written_at_s = -1e9
        return self._send(now_s)

    def handle_tick(
        self, now_s: float, nodes: Sequence[NodeRoom], alive: set[bytes]
    ) -> list[GroupAction]:
        """Time has passed; ``nodes`` has the room of nodes that take new bundles."""
        view = self.view
        if view is None:
            return []
        for node_id in self._owed.keys() - alive:
            del self._owed[node_id]
        if view.state is GroupState.REMOVED:
            return self._send(now_s)
        lost = set(view.node_ids()) - alive
        if lost:
            return self._write(view.without(lost), now_s)
        if view.state in _UNPLACED and None in view.nodes:
            return [*self._send(now_s), *self._choose(view, now_s, nodes)]
        return self._send(now_s)

    def handle_restarted(self, node_id: bytes, now_s: float) -> list[GroupAction]:
        """A node is a new one under its old id: what it had answered holds no longer."""
        if self.view is None or node_id not in self.view.nodes:
            return []
        self._answered.discard(node_id)
        self._sent_at_s = -1e9
        return self._send(now_s)

    def handle_prepared(
        self, node_id: bytes, version: int, now_s: float, *, accepted: bool
    ) -> list[GroupAction]:
        """A node has answered Prepare; an answer to another attempt says nothing."""
        view = self.view
        if view is None or version != view.version or view.state not in _SETTLING:
            return []
        if not accepted:
            return self._write(view.without({node_id}), now_s)
        self._answered.add(node_id)
        if None in view.nodes or not self._answered.issuperset(view.node_ids()):
            return []
        return self._write(replace(view, state=GroupState.CREATED), now_s)

    def handle_committed(
        self, node_id: bytes, version: int, now_s: float, *, known: bool
    ) -> list[GroupAction]:
        """A node has answered Commit; one that does not know of it has lost its bundles."""
        view = self.view
        if view is None or version != view.version or view.state is not GroupState.CREATED:
            return []
        self._answered.add(node_id)
        return [] if known else self._write(view.without({node_id}), now_s)

    def handle_released(self, node_id: bytes, version: int) -> None:
        """A node has given back what it had."""
        if self._owed.get(node_id) == version:
            del self._owed[node_id]

    # ---- what to do now

    def _choose(
        self, view: GroupView, now_s: float, nodes: Sequence[NodeRoom]
    ) -> list[GroupAction]:
        missing = [index for index, node in enumerate(view.nodes) if node is None]
        # A node sets a group's bundles aside together: it gets no further ones later.
        taken = set(view.node_ids())
        chosen = choose_nodes(
            [view.bundles[index] for index in missing],
            [node for node in nodes if node.node_id not in taken],
            view.strategy,
        )
        if chosen is None:
            return []
        placed = list(view.nodes)
        for index, node_id in zip(missing, chosen, strict=True):
            placed[index] = node_id
        state = GroupState.PREPARED if view.state is GroupState.PENDING else GroupState.RESCHEDULING
        return self._write(replace(view, state=state, nodes=tuple(placed)), now_s)

    def _write(self, view: GroupView, now_s: float) -> list[GroupAction]:
        if now_s - self._written_at_s < self._write_s:
            return []
        self._written_at_s = now_s
        return [WriteGroup(view)]

    def _send(self, now_s: float) -> list[GroupAction]:
        view = self.view
        assert view is not None
        if now_s - self._sent_at_s < self._resend_s:
            return []
        self._sent_at_s = now_s
        actions: list[GroupAction] = [
            Release(node_id, view.group_id, version) for node_id, version in self._owed.items()
        ]
        for node_id in view.node_ids():
            if node_id in self._answered or view.state is GroupState.REMOVED:
                continue
            if view.state in _SETTLING:
                bundles = tuple(view.bundles_on(node_id).items())
                actions.append(Prepare(node_id, view.group_id, view.version, bundles))
            elif view.state is GroupState.CREATED:
                actions.append(Commit(node_id, view.group_id, view.version))
        return actions
