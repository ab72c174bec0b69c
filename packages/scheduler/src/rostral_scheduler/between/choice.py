"""Which node a task of this one goes to: `core/placement.py`'s choice, from what is known here.

This file owns the loads of all nodes as this one sees them: what each has reported to the GCS, with
what of it is ours put right to the task, and this node's own, which it need not be told.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count

from rostral_gcs import NodeRow
from rostral_gcs.errors import RostralError
from rostral_scheduler.between.outgoing import ForwardQueue
from rostral_scheduler.core.node_view import NodeLoad
from rostral_scheduler.core.own_share import with_own_share
from rostral_scheduler.core.placement import PlacementLimits, PlacementPolicy
from rostral_scheduler.core.placement_request import Answer, Later, Placed, TaskInput, TaskRequest
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.core.where import NodeFacts
from rostral_scheduler.global_.placer import load_of

__all__ = ["NodeChoice"]

logger = logging.getLogger("rostral.scheduler.between")

# What was sent is counted here, so a report has nothing to wait for; and an answer is never asked
# for twice.
_LIMITS = PlacementLimits(settle_s=1e-9, remembered_max=1)


class _Node:
    """One node: its last report, and what it has of ours."""

    def __init__(self, load: NodeLoad, facts: NodeFacts) -> None:
        self.load, self.facts = load, facts
        self.ours: Counter[ResourceSet] = Counter()
        self.then: dict[ResourceSet, int] = {}
        self.is_closed = self.is_closed_for_now = False


class NodeChoice:
    """The living nodes that take tasks, and the choice among them; on the event loop's thread.

    Args:
        own_id: This node's id.
        own_load: What this node has, and what waits on it, now.
        window: How many tasks of this node one may have at a time.
    """

    def __init__(self, own_id: bytes, own_load: Callable[[], NodeLoad], window: int) -> None:
        self._own_id, self._own_load, self._window = own_id, own_load, window
        self._policy = PlacementPolicy(_LIMITS, salt=own_id)
        self._nodes: dict[bytes, _Node] = {}
        self._changed: set[bytes] = set()
        self._attempts = count()

    # ---- what is known

    def see(self, row: NodeRow) -> None:
        """A node has come, or reports again."""
        node_id = row.node_id.binary()
        if not row.scheduler_address and node_id != self._own_id:
            return
        try:
            load = load_of(row)
        except RostralError as error:
            logger.warning("node=%s reports what makes no sense error=%s", row.node_id.hex(), error)
            return
        facts = NodeFacts(node_id=node_id, total=load.total, labels=load.labels)
        node = self._nodes.get(node_id)
        if node is None:
            node = self._nodes[node_id] = _Node(load, facts)
        node.load, node.facts, node.then = load, facts, dict(node.ours)
        node.is_closed_for_now = False
        self._changed.add(node_id)

    def lose(self, node_id: bytes) -> None:
        """The node is dead."""
        if self._nodes.pop(node_id, None) is not None:
            self._changed.discard(node_id)
            self._policy.remove_node(node_id)

    def close(self, node_id: bytes, *, is_closed: bool = True) -> None:
        """It lives, and takes nothing of us; or does again."""
        node = self._nodes.get(node_id)
        if node is not None and node.is_closed is not is_closed:
            node.is_closed = is_closed
            self._changed.add(node_id)

    def pass_over(self, node_id: bytes) -> None:
        """It has given tasks back: nothing goes there before it reports again, and says why."""
        if (node := self._nodes.get(node_id)) is not None:
            node.is_closed_for_now = True
            self._changed.add(node_id)

    def sent(self, node_id: bytes, shape: ResourceSet) -> None:
        """A task of ours is that node's."""
        if (node := self._nodes.get(node_id)) is not None:
            node.ours[shape] += 1
            self._changed.add(node_id)

    def came_back(self, node_id: bytes, shape: ResourceSet) -> None:
        """It is not any more."""
        if (node := self._nodes.get(node_id)) is not None:
            node.ours[shape] -= 1
            if node.ours[shape] <= 0:
                del node.ours[shape]
            self._changed.add(node_id)

    # ---- choosing

    def facts(self) -> list[NodeFacts]:
        """All that there are."""
        return [node.facts for node in self._nodes.values()]

    def able(self, queue: ForwardQueue) -> list[bytes]:
        """Those that can ever run the queue's tasks, whether they take any now or not."""
        facts = self.facts()
        able = [node for node in queue.where.among(facts) if node.can_ever(queue.shape)]
        if not able and queue.where.node_id and queue.where.soft:
            able = [node for node in facts if node.can_ever(queue.shape)]
        return [node.node_id for node in able]

    def room(self, node_ids: Iterable[bytes]) -> int:
        """How many tasks more these may be given, together."""
        return sum(self._room(self._nodes[node_id]) for node_id in node_ids)

    def _room(self, node: _Node) -> int:
        if node.is_closed or node.is_closed_for_now or node.load.is_draining:
            return 0
        return max(0, self._window - sum(node.ours.values()))

    def choose(
        self, queue: ForwardQueue, inputs: Sequence[tuple[TaskInput, ...]]
    ) -> list[bytes | None]:
        """The node for each of so many tasks of the queue; None: it has to wait.

        Args:
            queue: Theirs.
            inputs: Of each, what it needs that is large, and where that is.
        """
        self._refresh(queue)
        now_s = time.monotonic()
        requests = [
            TaskRequest(b"", next(self._attempts), queue.constraints, inputs=each)
            for each in inputs
        ]
        left = {node_id: self._room(node) for node_id, node in self._nodes.items()}
        chosen: list[bytes | None] = []
        for answer in self._policy.place(requests, now_s):
            node_id = answer.node_id if isinstance(answer, Placed) else None
            if node_id is not None and left.get(node_id, 0) <= 0:
                node_id = None
            if node_id is not None:
                left[node_id] -= 1
                # What the policy counts with each answer is put right before the next choice.
                self._changed.add(node_id)
            chosen.append(node_id)
        return chosen

    def choose_for_copy(self, queue: ForwardQueue, request: TaskRequest) -> Answer:
        """The node for a second run of a task of the queue, and how long it would wait there.

        This node only where no other can have it.
        """
        self._refresh(queue)
        answer = self._ask(request)
        if not isinstance(answer, Placed) or answer.node_id != self._own_id:
            return answer
        own = self._nodes[self._own_id]
        self._policy.update_node(replace(own.load, is_draining=True), time.monotonic())
        self._changed.add(self._own_id)
        elsewhere = self._ask(request)
        return elsewhere if isinstance(elsewhere, Placed) else answer

    def _ask(self, request: TaskRequest) -> Answer:
        request = request._replace(task_id=b"", attempt=next(self._attempts))
        (answer,) = self._policy.place([request], time.monotonic())
        if isinstance(answer, Placed):
            # What the policy counts with it is put right before the next choice.
            self._changed.add(answer.node_id)
            if self._room(self._nodes[answer.node_id]) == 0:
                return Later(0.0, "the node has as many tasks of ours as it may")
        return answer

    def _refresh(self, queue: ForwardQueue) -> None:
        """Tells the policy what is so by now."""
        now_s = time.monotonic()
        own = self._nodes.get(self._own_id)
        if own is not None and own.facts.can_ever(queue.shape):
            own.load = replace(self._own_load(), labels=own.load.labels)
            self._changed.add(self._own_id)
        for node_id in self._changed:
            node = self._nodes[node_id]
            load = node.load
            if node_id != self._own_id:
                load = with_own_share(load, node.then, node.ours)
            if self._room(node) == 0:
                load = replace(load, is_draining=True)
            self._policy.update_node(load, now_s)
        self._changed.clear()
