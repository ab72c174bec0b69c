"""What the node tells the cluster of its load: queue lengths by shape, and smoothed run times.

This file owns gathering it, at each tick and without asking anybody. The GCS link writes it with
the renewals of the lease; global schedulers read it there.
"""

from __future__ import annotations

from collections import Counter

from rostral_scheduler.core.amounts import add
from rostral_scheduler.core.local import LocalPolicy
from rostral_scheduler.core.node_view import QueueLoad
from rostral_scheduler.core.resources import GROUP_MARK, UNITS, ResourceSet
from rostral_scheduler.core.run_times import QueueUse, RunTimes
from rostral_scheduler.local.node_memory import NodeMemory

__all__ = ["Load"]

_SHAPES_MAX = 100


class Load:
    """The node's load, on the event loop's thread.

    Args:
        policy: Of the node.
        memory: Of the node.

    Attributes:
        run_times: Of each queue.
    """

    def __init__(self, policy: LocalPolicy, memory: NodeMemory) -> None:
        self._policy = policy
        self._memory = memory
        self.run_times = RunTimes()

    def tick(self, now_s: float) -> None:
        """Sees how far the queues are; call it regularly, after the policy has looked."""
        running = Counter(
            worker.queue
            for worker in self._policy.active.values()
            if worker.running and worker.queue
        )
        self.run_times.see(
            (
                QueueUse(queue, self._memory.taken_from(queue), running[queue])
                for queue in self._policy.queues
            ),
            now_s,
        )

    def queues(self) -> tuple[QueueLoad, ...]:
        """What waits, by shape, the longest first; of so many shapes.

        What waits for a placement group waits for nothing that others could have.
        """
        lengths: Counter[ResourceSet] = Counter()
        busy_s: dict[ResourceSet, float] = {}
        for queue in self._policy.queues.values():
            if queue.length and not any(GROUP_MARK in name for name, _ in queue.shape):
                lengths[queue.shape] += queue.length
                busy_s.setdefault(queue.shape, 0.0)
                busy_s[queue.shape] += queue.length * self.run_times.of(queue.loc)
        return tuple(
            QueueLoad(shape, length, _rounded(busy_s[shape] / length))
            for shape, length in lengths.most_common(_SHAPES_MAX)
        )

    def held(self) -> dict[str, float]:
        """What actors and placement groups hold, by name."""
        policy = self._policy
        held: dict[str, int] = {}
        for reservation in policy.reservations.by_group.values():
            for allocation in reservation.taken:
                add(held, allocation.resources)
        for worker in policy.active.values():
            if worker.actor_id is not None:
                add(held, worker.allocation.resources)
        total = policy.resources.total
        return {name: units / UNITS for name, units in held.items() if total.get(name)}

    def run_time_s(self) -> float:
        """Of all tasks that run here now, the mean of what such tasks take; 0: nothing is known."""
        times = [
            time_s
            for worker in self._policy.active.values()
            if worker.running and (time_s := self.run_times.of(worker.queue)) > 0
        ]
        return _rounded(sum(times) / len(times)) if times else 0.0


def _rounded(time_s: float) -> float:
    # A report that differs from the one before is a write: estimates have no third digit.
    return float(f"{time_s:.2g}")
