"""One node as a global scheduler sees it: what it reported, and what was sent there since.

This file owns the estimate of when a task could start on a node (OSDI'18 §4.2.2). It knows nothing
of other nodes, and reads no clock: times come in, on one monotonic clock of the caller.

The model. What is queued for a resource is served by all of that resource: ten queued seconds of
one CPU are done on four CPUs in 2.5 s. So a node keeps for each resource the time at which its
queue will have been served (``_free_at_s``), which needs no counting down. A task that fits into
what is free starts at once. One that does not waits for the queue before it, and then for one more
end of a task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from rostral_scheduler.core.resources import ResourceSet

__all__ = ["NodeLoad", "NodeView", "QueueLoad"]

_PLACED_ENTRIES_MAX = 256


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """Tasks of one shape that wait on a node, all jobs together.

    Attributes:
        shape: What each needs.
        length: How many wait.
        run_time_s: How long such tasks have taken of late, smoothed; 0: not known.
    """

    shape: ResourceSet
    length: int
    run_time_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLoad:
    """What a node says of itself.

    Attributes:
        node_id: Its id.
        address: The host at which others reach it.
        total: All it has.
        available: What a new task would find free.
        held: What actors and placement groups hold of it: no end of a task frees that.
        labels: Its labels.
        queues: What waits there.
        run_time_s: How long its tasks have taken of late, smoothed; 0: not known.
        run_times_s: The same by function id.
        bandwidth_bytes_per_s: At which it has fetched objects of late; 0: not known.
        is_draining: It takes no new work.
    """

    node_id: bytes
    address: str = ""
    total: ResourceSet
    available: ResourceSet
    held: ResourceSet = field(default_factory=ResourceSet)
    labels: Mapping[str, str] = field(default_factory=dict)
    queues: tuple[QueueLoad, ...] = ()
    run_time_s: float = 0.0
    run_times_s: Mapping[bytes, float] = field(default_factory=dict)
    bandwidth_bytes_per_s: float = 0.0
    is_draining: bool = False


@dataclass(slots=True)
class _Sent:
    """Tasks of one shape that were sent to the node at one time."""

    at_s: float
    shape: ResourceSet
    run_time_s: float
    count: int


class NodeView:
    """A node's report and what was placed there since it was made.

    Attributes:
        bandwidth: At which it fetches objects, bytes per second.
        is_open: Takes new work: alive and not draining.
        queued: Tasks that wait there, own placements included.
    """

    __slots__ = (
        "_as_of_s",
        "_available",
        "_capacity",
        "_free_at_s",
        "_run_time_s",
        "_sent",
        "_total",
        "address",
        "bandwidth",
        "is_gone",
        "is_open",
        "labels",
        "node_id",
        "queued",
        "total",
    )

    def __init__(self, load: NodeLoad) -> None:
        self.node_id = load.node_id
        self.total = load.total
        self.labels = dict(load.labels)
        self._total = dict(load.total)
        self._sent: list[_Sent] = []
        self.is_gone = False

    def __lt__(self, other: NodeView) -> bool:
        return self.node_id < other.node_id

    def room(self) -> dict[str, int]:
        """What is free of each resource, in units, less what was sent there since the report."""
        return dict(self._available)

    def has(self, shape: ResourceSet) -> bool:
        """Whether an idle node of this kind has room for the shape."""
        total = self._total
        return all(total.get(name, 0) >= units for name, units in shape.items)

    def report(
        self,
        load: NodeLoad,
        now_s: float,
        *,
        settle_s: float,
        run_time_s: float,
        bandwidth: float,
    ) -> None:
        """Takes in what the node says now.

        Args:
            load: The report; totals and labels as before.
            now_s: When it came.
            settle_s: What was placed less than this before is not in the report yet.
            run_time_s: For what is not known.
            bandwidth: The same, bytes per second.
        """
        self.address = load.address
        self.bandwidth = load.bandwidth_bytes_per_s or bandwidth
        self.is_open = not load.is_draining
        self._as_of_s = now_s
        self._run_time_s = load.run_time_s or run_time_s
        self._available = dict.fromkeys(self._total, 0) | dict(load.available)
        held = dict(load.held)
        self._capacity = {name: units - held.get(name, 0) for name, units in load.total.items}
        self._free_at_s = dict.fromkeys(self._total, 0.0)
        self.queued = 0
        for queue in load.queues:
            self.queued += queue.length
            if queue.length and self._can_free(queue.shape):
                self._enqueue(queue.shape, queue.length, queue.run_time_s or run_time_s, now_s)
        self._sent = [sent for sent in self._sent if sent.at_s > now_s - settle_s]
        for sent in self._sent:
            for _ in range(sent.count):
                self._take(sent.shape, sent.run_time_s, sent.at_s)

    def _can_free(self, shape: ResourceSet) -> bool:
        """Whether ends of tasks can make room for the shape."""
        capacity = self._capacity
        return all(capacity.get(name, 0) >= units for name, units in shape.items)

    def start_s(self, shape: ResourceSet, now_s: float) -> float:
        """When a task of the shape could start; 0 when it could start now, at once.

        Infinite while actors and placement groups hold too much of the node.

        Of what is not free, this does not change as time goes on.
        """
        latest_s = 0.0
        fits = True
        for name, units in shape.items:
            at_s = self._free_at_s[name]
            if self._available[name] < units:
                fits = False
                # Somebody has to end: on many CPUs somebody soon does.
                if at_s < self._as_of_s:
                    at_s = self._as_of_s
                capacity = self._capacity[name]
                if capacity < units:
                    return math.inf
                at_s += self._run_time_s * units / capacity
            if at_s > latest_s:
                latest_s = at_s
        return 0.0 if fits and latest_s <= now_s else latest_s

    def place(self, shape: ResourceSet, run_time_s: float, now_s: float, count: int) -> None:
        """Counts so many tasks that were sent there."""
        sent = self._sent
        if sent and sent[-1].at_s == now_s and sent[-1].shape is shape:
            last = sent[-1]
            last.count += count
            last.run_time_s += (run_time_s - last.run_time_s) * count / last.count
        else:
            if len(sent) >= _PLACED_ENTRIES_MAX:
                del sent[: _PLACED_ENTRIES_MAX // 2]
            sent.append(_Sent(now_s, shape, run_time_s, count))
        self._take(shape, run_time_s, now_s)
        while count > 1:
            self._take(shape, run_time_s, now_s)
            count -= 1

    def _take(self, shape: ResourceSet, run_time_s: float, now_s: float) -> None:
        available, free_at_s = self._available, self._free_at_s
        for name, units in shape.items:
            if available[name] < units or free_at_s[name] > now_s:
                break
        else:
            for name, units in shape.items:
                available[name] -= units
            return
        self.queued += 1
        self._enqueue(shape, 1, run_time_s, now_s)

    def _enqueue(self, shape: ResourceSet, count: int, run_time_s: float, now_s: float) -> None:
        """Adds to the queues of the resources that the tasks wait for; all of them, if none."""
        available, free_at_s = self._available, self._free_at_s
        short = [
            (name, units)
            for name, units in shape.items
            if available[name] < units or free_at_s[name] > now_s
        ]
        for name, units in short or shape.items:
            at_s = free_at_s[name]
            if at_s < now_s:
                at_s = now_s
            capacity = max(self._capacity[name], units)
            free_at_s[name] = at_s + count * run_time_s * units / capacity
