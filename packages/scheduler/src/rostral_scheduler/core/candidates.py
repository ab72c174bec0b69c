"""The nodes that one kind of task may run on, in the order in which it could start there.

This file owns a heap that is put right when it is looked at: a node that got more work since only
moves back, so an entry that says too little is found at the top and corrected. Nodes that got less
are pushed anew from the policy's log of changes, however many kinds there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from rostral_scheduler.core.labels import Selector, matches
from rostral_scheduler.core.node_view import NodeView
from rostral_scheduler.core.resources import ResourceSet

__all__ = ["Candidates", "ChangeLog"]

# start, tasks sent there (SPREAD), tie-breaker, node
Entry = tuple[float, float, bytes, NodeView]

_SLACK = 64


class ChangeLog:
    """Which nodes changed, in order; its oldest part is forgotten.

    Attributes:
        end: The number of changes so far.
    """

    def __init__(self) -> None:
        self.end = 0
        self._start = 0
        self._changed: list[NodeView] = []

    def add(self, node: NodeView, kept_max: int) -> None:
        """A node has reported, come or gone."""
        if len(self._changed) >= kept_max:
            self._changed.clear()
            self._start = self.end
        self._changed.append(node)
        self.end += 1

    def since(self, position: int) -> list[NodeView] | None:
        """Each node that changed after ``position``, once; None when that is forgotten."""
        if position < self._start:
            return None
        return list(dict.fromkeys(self._changed[position - self._start :]))


class Candidates:
    """All nodes that meet a shape and a selector.

    Args:
        shape: What a task needs.
        selector: Which nodes are meant; None: all.
        spread: Among nodes where a task could start at the same time, those that were sent fewest
            come first.
        salt: Makes the order of equal nodes this scheduler's own; empty: by their ids.
    """

    def __init__(
        self,
        shape: ResourceSet,
        selector: Selector | None,
        *,
        spread: bool,
        salt: bytes = b"",
    ) -> None:
        self.shape = shape
        self.selector = selector
        self.spread = spread
        self.members: set[NodeView] = set()
        self.heap: list[Entry] = []
        self._salt = int.from_bytes(salt, "big")
        self._sent: dict[NodeView, float] = {}
        self._position = -1

    def refresh(self, nodes: Iterable[NodeView], count: int, log: ChangeLog, now_s: float) -> None:
        """Takes in what changed: of few nodes one by one, of many all anew."""
        changed = None
        if self._position >= 0 and log.end - self._position <= count // 4:
            changed = log.since(self._position)
        self._position = log.end
        if changed is None or len(self.heap) + len(changed) > 2 * len(self.members) + _SLACK:
            self._rebuild(nodes, now_s)
            return
        for node in changed:
            if self._admits(node):
                self.members.add(node)
                if node.is_open:
                    heapq.heappush(self.heap, self._entry(node, now_s))
            else:
                self.members.discard(node)
                self._sent.pop(node, None)

    def _rebuild(self, nodes: Iterable[NodeView], now_s: float) -> None:
        self.members = {node for node in nodes if self._admits(node)}
        for node in self._sent.keys() - self.members:
            del self._sent[node]
        self.heap = [self._entry(node, now_s) for node in self.members if node.is_open]
        heapq.heapify(self.heap)

    def _admits(self, node: NodeView) -> bool:
        return (
            not node.is_gone
            and node.has(self.shape)
            and (self.selector is None or matches(self.selector, node.labels))
        )

    def _entry(self, node: NodeView, now_s: float) -> Entry:
        tie = node.node_id
        if self._salt:
            tie = (int.from_bytes(tie, "big") ^ self._salt).to_bytes(max(16, len(tie)), "big")
        sent = self._sent_to(node) if self.spread else 0.0
        return node.start_s(self.shape, now_s), sent, tie, node

    def _sent_to(self, node: NodeView) -> float:
        # One that comes later does not get all that the others have had.
        known = self._sent.get(node)
        if known is None:
            known = self._sent[node] = min(self._sent.values(), default=0.0)
        return known

    def best(self, now_s: float) -> Entry | None:
        """Where a task could start first; its entry is right, and stays at the top."""
        heap, shape = self.heap, self.shape
        while heap:
            entry = heap[0]
            node = entry[3]
            if not node.is_open:
                heapq.heappop(heap)
                continue
            start_s = node.start_s(shape, now_s)
            sent = self._sent[node] if self.spread else 0.0
            if start_s == entry[0] and sent == entry[1]:
                return entry
            heapq.heapreplace(heap, (start_s, sent, entry[2], node))
        return None

    def took(self, node: NodeView) -> None:
        """A task was sent there."""
        if self.spread:
            self._sent[node] += 1.0
