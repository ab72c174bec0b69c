"""The global scheduler's policy: on which node each task has the lowest estimated waiting time.

This file owns the choice (OSDI'18 §4.2.2): time in the node's queue, plus the time to move inputs
that are not there. It takes what nodes report and requests, and answers; it reads no clock and does
no I/O. What it has just placed counts at once, so that a burst spreads; a node's next report takes
its place.

How it is fast: nodes are kept in one heap for each kind of demand (``candidates.py``), so a task
without inputs is placed by looking at its top. One with inputs is compared with the nodes that have
some of them, and with nodes from the top of the heap until no other can be better by a tenth.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from rostral_scheduler.core.candidates import Candidates, ChangeLog, Entry
from rostral_scheduler.core.node_view import NodeLoad, NodeView
from rostral_scheduler.core.placement_request import (
    Affinity,
    Answer,
    Constraints,
    InBundle,
    Infeasible,
    Later,
    Placed,
    TaskInput,
    TaskRequest,
)
from rostral_scheduler.core.resources import UNITS, ResourceSet

__all__ = ["PlacementLimits", "PlacementPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementLimits:
    """Bounds and first guesses of a placement policy.

    Attributes:
        run_time_s: Of a task of which nothing is known.
        bandwidth_bytes_per_s: Of a node of which nothing is known.
        settle_s: A report that comes less than this after a placement does not have it yet: on its
            way are the answer, the task and the report.
        smoothing: Share of a new run time in the smoothed one.
        functions_max: Functions whose run time is remembered.
        queue_length_max: A node with so many tasks waiting is sent no more.
        remembered_max: Placements that are remembered, so that a request that is sent again is
            answered as before; between this and twice as many.
        entries_max: Entries of all heaps together; of beyond, the kinds of demand that were not
            used for longest are forgotten.
        walk_max: Nodes of a heap that are compared for one task with inputs.
        holders_max: Nodes with an input that are compared for one task.
        better_by: Search ends when no other node can be better by this share.
        retry_s: After which to ask again when nothing can be said.
    """

    run_time_s: float = 0.1
    bandwidth_bytes_per_s: float = 1e9
    settle_s: float = 0.5
    smoothing: float = 0.2
    functions_max: int = 10_000
    queue_length_max: int = 1_000_000
    remembered_max: int = 100_000
    entries_max: int = 1_000_000
    walk_max: int = 32
    holders_max: int = 32
    better_by: float = 0.1
    retry_s: float = 0.1

    def problems(self) -> list[str]:
        """What is out of range, a line each."""
        return [
            f"{field.name} is {getattr(self, field.name)}; allowed: a finite number above 0"
            for field in fields(self)
            if not (math.isfinite(getattr(self, field.name)) and getattr(self, field.name) > 0)
        ]


_Group = tuple[tuple[bytes, ResourceSet], ...]
_Kind = tuple[ResourceSet, object, bool]


class PlacementPolicy:
    """Reports and requests in, answers out. Not thread-safe.

    Args:
        limits: Bounds.
        salt: Makes the order among equal nodes this scheduler's own, so that two of them do not
            send their bursts to the same nodes; empty: by node id.

    Attributes:
        nodes: Those that are known, by id.
        scheduler_count: How many place from the same reports, this one included. What the others
            place nobody hears before the next report; it is taken to be what this one does.
    """

    def __init__(self, limits: PlacementLimits | None = None, *, salt: bytes = b"") -> None:
        self.limits = limits if limits is not None else PlacementLimits()
        self.nodes: dict[bytes, NodeView] = {}
        self.scheduler_count = 1
        self._salt = salt
        self._log = ChangeLog()
        self._kinds: OrderedDict[_Kind, Candidates] = OrderedDict()
        self._entries = 0
        self._groups: dict[bytes, _Group] = {}
        self._group_sent: dict[tuple[bytes, bytes], int] = {}
        self._run_times_s: dict[bytes, float] = {}
        self._bandwidth_max = 0.0
        # Two generations: the older one goes when the newer is full.
        self._placed: dict[tuple[bytes, int], NodeView] = {}
        self._placed_before: dict[tuple[bytes, int], NodeView] = {}

    # ---- what is known

    def update_node(self, load: NodeLoad, now_s: float) -> None:
        """A node is there, or reports again."""
        limits = self.limits
        node = self.nodes.get(load.node_id)
        if node is not None and (node.total != load.total or node.labels != load.labels):
            self.remove_node(load.node_id)
            node = None
        if node is None:
            node = self.nodes[load.node_id] = NodeView(load)
        node.report(
            load,
            now_s,
            settle_s=limits.settle_s,
            run_time_s=limits.run_time_s,
            bandwidth=limits.bandwidth_bytes_per_s,
        )
        self._bandwidth_max = max(self._bandwidth_max, node.bandwidth)
        for function_id, run_time_s in load.run_times_s.items():
            self._learn(function_id, run_time_s)
        self._changed(node)

    def remove_node(self, node_id: bytes) -> None:
        """The node is dead; one that is not known is well."""
        node = self.nodes.pop(node_id, None)
        if node is not None:
            node.is_gone, node.is_open = True, False
            self._changed(node)

    def set_group(self, group_id: bytes, bundles: Iterable[tuple[bytes, ResourceSet]]) -> None:
        """A placement group has its bundles: the node and the resources of each."""
        self._groups[group_id] = tuple(bundles)

    def remove_group(self, group_id: bytes) -> None:
        """The placement group is gone, or has lost a node."""
        for node_id, _ in self._groups.pop(group_id, ()):
            self._group_sent.pop((group_id, node_id), None)

    def _learn(self, function_id: bytes, run_time_s: float) -> None:
        known = self._run_times_s.pop(function_id, run_time_s)
        if len(self._run_times_s) >= self.limits.functions_max:
            del self._run_times_s[next(iter(self._run_times_s))]
        self._run_times_s[function_id] = known + self.limits.smoothing * (run_time_s - known)

    def _changed(self, node: NodeView) -> None:
        self._log.add(node, 2 * len(self.nodes) + 1024)

    # ---- placing

    def place(self, requests: Sequence[TaskRequest], now_s: float) -> list[Answer]:
        """Answers each request, in order; each sees what those before it were given."""
        refreshed: dict[Constraints, Candidates | Answer | None] = {}
        answers: list[Answer] = []
        for request in requests:
            constraints = request.constraints
            known = self._placed_already(request)
            if known is not None:
                answers.append(known)
                continue
            if constraints in refreshed:
                found = refreshed[constraints]
            else:
                found = refreshed[constraints] = self._resolve(constraints, now_s)
            if found is None:
                answers.append(self._place_by_name(request, now_s))
            elif isinstance(found, Candidates):
                answers.append(self._place_one(request, found, now_s))
            else:
                answers.append(found)
        return answers

    def _placed_already(self, request: TaskRequest) -> Placed | None:
        key = request[0], request[1]
        node = self._placed.get(key)
        if node is None:
            node = self._placed_before.get(key)
            if node is None:
                return None
        if not node.is_open:
            return None
        return Placed(node.node_id, node.address, 0.0)

    def _place_one(self, request: TaskRequest, candidates: Candidates, now_s: float) -> Answer:
        if request.avoid:
            chosen = self._choose_avoiding(request, candidates, now_s)
        elif request.inputs and not candidates.spread:
            chosen = self._choose_near(request.inputs, candidates, now_s)
        else:
            top = candidates.best(now_s)
            chosen = None if top is None else (top[3], max(0.0, top[0] - now_s))
        if chosen is None:
            return self._later("all nodes that could run it are draining")
        node, wait_s = chosen
        if wait_s == math.inf:
            return self._later("actors and placement groups hold what it needs, wherever it could")
        if node.queued >= self.limits.queue_length_max:
            return self._later("every node has as many tasks waiting as it may (queue_length_max)")
        candidates.took(node)
        return self._send(request, node, wait_s, now_s)

    def _send(self, request: TaskRequest, node: NodeView, wait_s: float, now_s: float) -> Placed:
        run_time_s = self._run_times_s.get(request.function_id)
        if run_time_s is None:
            run_time_s = request.run_time_s or self.limits.run_time_s
        node.place(request.constraints.shape, run_time_s, now_s, self.scheduler_count)
        if len(self._placed) >= self.limits.remembered_max:
            self._placed_before, self._placed = self._placed, {}
        self._placed[request[0], request[1]] = node
        return Placed(node.node_id, node.address, wait_s)

    def _choose_avoiding(
        self, request: TaskRequest, candidates: Candidates, now_s: float
    ) -> tuple[NodeView, float] | None:
        """As if the node were not there; it is rare that anybody asks for this."""
        avoided = self.nodes.get(request.avoid)
        was_open = avoided is not None and avoided.is_open
        if avoided is None or not was_open:
            return self._choose_near(request.inputs, candidates, now_s)
        avoided.is_open = False
        chosen = self._choose_near(request.inputs, candidates, now_s)
        avoided.is_open = True
        # Its entry may have been dropped from this heap meanwhile.
        self._changed(avoided)
        return chosen

    # ---- inputs

    def _choose_near(
        self, inputs: Sequence[TaskInput], candidates: Candidates, now_s: float
    ) -> tuple[NodeView, float] | None:
        """The node with the shortest queue and transfer together, and that wait."""
        limits, shape = self.limits, candidates.shape
        best: NodeView | None = None
        best_rank = (math.inf, 0, b"")
        present: dict[NodeView, int] = {}
        if len(inputs) == 1 and len(inputs[0].node_ids) == 1:
            # By far the most: one input, on one node.
            total = inputs[0].size_bytes
            holder = self.nodes.get(inputs[0].node_ids[0])
            if holder is not None and holder.is_open and holder in candidates.members:
                start_s = holder.start_s(shape, now_s)
                if start_s <= now_s:
                    return holder, 0.0
                present[holder] = total
                best, best_rank = holder, (start_s - now_s, -total, holder.node_id)
        else:
            total = 0
            for one in inputs:
                total += one.size_bytes
            present = self._present(inputs, candidates)
            for node, there in present.items():
                queue_s = max(0.0, node.start_s(shape, now_s) - now_s)
                rank = (queue_s + (total - there) / node.bandwidth, -there, node.node_id)
                if rank < best_rank:
                    best, best_rank = node, rank
        least_s = total / self._bandwidth_max
        seen: dict[NodeView, Entry] = {}
        while (entry := candidates.best(now_s)) is not None:
            start_s, _, _, node = entry
            if node in seen:
                # Each report brings a new entry; an old one that still is right is one too many.
                heapq.heappop(candidates.heap)
                continue
            queue_s = max(0.0, start_s - now_s)
            # All further nodes have at least this queue, and every byte to fetch.
            if (queue_s + least_s) * (1.0 + limits.better_by) >= best_rank[0]:
                break
            there = present.get(node, 0)
            rank = (queue_s + (total - there) / node.bandwidth, -there, node.node_id)
            if rank < best_rank:
                best, best_rank = node, rank
            if len(seen) >= limits.walk_max:
                break
            seen[node] = heapq.heappop(candidates.heap)
        for entry in seen.values():
            heapq.heappush(candidates.heap, entry)
        return None if best is None else (best, best_rank[0])

    def _present(self, inputs: Sequence[TaskInput], candidates: Candidates) -> dict[NodeView, int]:
        """How many bytes of the inputs each node has that may run the task, of so many nodes."""
        present: dict[NodeView, int] = {}
        sampled = False
        for one in inputs:
            holders: Sequence[bytes] = one.node_ids
            if len(holders) > self.limits.holders_max:
                sampled = True
                holders = holders[:: -(-len(holders) // self.limits.holders_max)]
            for node_id in holders:
                node = self.nodes.get(node_id)
                if node is None or not node.is_open or node not in candidates.members:
                    continue
                present[node] = present.get(node, 0) + one.size_bytes
        if sampled and len(inputs) > 1:
            # Of a sample of holders, each may have more than what it was drawn for.
            for node in present:
                present[node] = sum(i.size_bytes for i in inputs if node.node_id in i.node_ids)
        return present

    # ---- which nodes

    def _resolve(self, constraints: Constraints, now_s: float) -> Candidates | Answer | None:
        """The nodes among which to choose; None where the strategy names them."""
        if not isinstance(constraints.strategy, str):
            return None
        return self._candidates(constraints, now_s, spread=constraints.strategy == "SPREAD")

    def _candidates(
        self, constraints: Constraints, now_s: float, *, spread: bool
    ) -> Candidates | Answer:
        if not self.nodes:
            return self._later("no node is known yet")
        shape = constraints.shape
        for selector in constraints.selectors or (None,):
            # Of tasks that need nothing any number start at once, wherever they are.
            kind = (shape, selector, spread or not shape)
            found = self._kinds.get(kind)
            if found is None:
                found = Candidates(shape, selector, spread=kind[2], salt=self._salt)
                self._kinds[kind] = found
            self._entries -= len(found.members)
            found.refresh(self.nodes.values(), len(self.nodes), self._log, now_s)
            self._entries += len(found.members)
            self._kinds.move_to_end(kind)
            self._forget_kinds()
            if found.members:
                return found
        return self._infeasible(constraints)

    def _forget_kinds(self) -> None:
        while self._entries > self.limits.entries_max and len(self._kinds) > 1:
            _, forgotten = self._kinds.popitem(last=False)
            self._entries -= len(forgotten.members)

    def _place_by_name(self, request: TaskRequest, now_s: float) -> Answer:
        strategy, shape = request.constraints.strategy, request.constraints.shape
        if isinstance(strategy, InBundle):
            return self._place_in_group(request, strategy, now_s)
        assert isinstance(strategy, Affinity)
        node = self.nodes.get(strategy.node_id)
        if node is not None and node.has(shape):
            if node.is_open:
                wait_s = max(0.0, node.start_s(shape, now_s) - now_s)
                return self._send(request, node, wait_s, now_s)
            if not strategy.soft:
                return self._later(f"node {node.node_id.hex()} is draining")
        if strategy.soft:
            anywhere = self._candidates(request.constraints, now_s, spread=False)
            if isinstance(anywhere, Candidates):
                return self._place_one(request, anywhere, now_s)
            return anywhere
        if node is None:
            return Infeasible(
                f"node {strategy.node_id.hex()} is not part of the cluster, and must be the one",
                "take the id of a node that rostral.nodes() lists, or soft=True",
                shape,
                ResourceSet(),
            )
        return Infeasible(
            f"node {node.node_id.hex()} can never have {shape.as_floats()}: it has "
            f"{node.total.as_floats()}",
            "ask for less, or for another node",
            shape,
            node.total,
        )

    def _place_in_group(self, request: TaskRequest, bundle: InBundle, now_s: float) -> Answer:
        group = self._groups.get(bundle.group_id)
        if group is None:
            return self._later(f"placement group {bundle.group_id.hex()} is not placed yet")
        shape = request.constraints.shape
        chosen = group if bundle.index < 0 else group[bundle.index : bundle.index + 1]
        fitting = [
            (self._group_sent.get((bundle.group_id, node_id), 0) / _slots(offered, shape), node_id)
            for node_id, offered in chosen
            if _slots(offered, shape)
        ]
        if not fitting:
            largest = max((offered for _, offered in chosen), key=_size, default=ResourceSet())
            return Infeasible(
                f"{shape.as_floats()} fits into no bundle of placement group "
                f"{bundle.group_id.hex()}, bundle {bundle.index}: the largest is "
                f"{largest.as_floats()}",
                "ask for less, or make the bundles larger",
                shape,
                largest,
            )
        for _, node_id in sorted(fitting):
            node = self.nodes.get(node_id)
            if node is not None:
                sent = bundle.group_id, node_id
                self._group_sent[sent] = self._group_sent.get(sent, 0) + 1
                self._placed[request[0], request[1]] = node
                return Placed(node_id, node.address, 0.0)
        return self._later(f"the nodes of placement group {bundle.group_id.hex()} are gone")

    def _infeasible(self, constraints: Constraints) -> Infeasible:
        shape = constraints.shape
        fit = [node for node in self.nodes.values() if node.has(shape)]
        if fit:
            wanted = " or ".join(str(dict(selector)) for selector in constraints.selectors)
            return Infeasible(
                f"no node that can have {shape.as_floats() or 'nothing'} has labels as in {wanted}",
                "rostral.nodes() lists the labels of nodes; a node has them from its start",
                shape,
                ResourceSet(),
            )
        best = max(self.nodes.values(), key=lambda node: _closeness(node.total, shape))
        return Infeasible(
            f"no node can ever have {shape.as_floats()}: the best, {best.node_id.hex()}, has "
            f"{best.total.as_floats()}",
            "ask for less, or start a node with more",
            shape,
            best.total,
        )

    def _later(self, reason: str) -> Later:
        return Later(self.limits.retry_s, reason)


def _slots(offered: ResourceSet, shape: ResourceSet) -> float:
    """How many tasks of the shape run in the bundle at once; 0: none ever."""
    parts = [offered.get(name) / units for name, units in shape]
    least = min(parts, default=1.0)
    return least if least >= 1 else 0.0


def _size(shape: ResourceSet) -> int:
    return sum(units for _, units in shape)


def _closeness(total: ResourceSet, shape: ResourceSet) -> float:
    """How much of what is asked for there is, resource by resource, none counted over the need."""
    return sum(min(total.get(name) / units, 1.0) for name, units in shape if units) * UNITS
