"""Tasks that wait in this node's own queues and go to other nodes after all.

They leave a queue whose expected wait, its length times how long such tasks take, has passed the
threshold (OSDI'18 §4.2.2: bottom-up); one whose tasks wait for what placement groups and actors
hold, which no end of a task frees; and every queue of a node that drains. Which node gets them is
`choice.py`'s affair, which may well say that they are best off here.

A task leaves from the front of its queue and not from its back: a ring of many producers has no
back to take from. As no more leave than other nodes begin at once, those behind them gain the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rostral_scheduler.between.choice import NodeChoice
from rostral_scheduler.between.messages import Shape
from rostral_scheduler.between.outgoing import ForwardQueue
from rostral_scheduler.between.placing import BATCH_MAX, Placing
from rostral_scheduler.between.transit_memory import ClaimedTask, TransitMemory
from rostral_scheduler.core.resources import CPU, UNITS, ResourceSet
from rostral_scheduler.core.where import ANYWHERE

__all__ = ["Leaving", "excess"]


_STARVED_LOOK_S = 1.0


class Guests(Protocol):
    """The tasks of other nodes that run here."""

    def is_guest(self, task_id: bytes) -> bool:
        """Whether a task is another node's."""

    def give_back(self, claimed: ClaimedTask) -> None:
        """Has its origin find another node for one that has not begun here."""


def excess(length: int, run_time_s: float, at_once: float, threshold_s: float) -> int:
    """How many tasks of a queue would wait longer than the threshold.

    Args:
        length: How many wait.
        run_time_s: How long one takes; 0: not known, and so none is said to wait long.
        at_once: How many run at the same time.
        threshold_s: The longest wait that is well.
    """
    if run_time_s <= 0:
        return 0
    return max(0, length - int(threshold_s * at_once / run_time_s))


def slots(total: ResourceSet, shape: ResourceSet) -> float:
    """How many tasks of the shape an idle node runs at once; of one that takes nothing, as CPUs."""
    return min((total.get(name) / units for name, units in shape), default=total.get(CPU) / UNITS)


class Leaving:
    """This node's queues that tasks may leave; on the event loop's thread.

    Args:
        transit: The node's memory.
        choice: Among the nodes.
        placing: Brings tasks there.
        guests: Tasks that are other nodes'.
        own_id: This node's id.
        total: What the node has.
        threshold_s: Expected waits beyond this are too long.
        lanes: All of this node's queues, and whose job each is of.
        starved_lanes: Those of them whose tasks wait for what actors and placement groups hold.
        has_actors: Whether tasks may know actors of this node, which they could not call elsewhere.
        queue_length: Of a queue.
        run_time_s: Of the tasks of a queue, by its first lane.
    """

    def __init__(
        self,
        transit: TransitMemory,
        choice: NodeChoice,
        placing: Placing,
        guests: Guests,
        *,
        own_id: bytes,
        total: ResourceSet,
        threshold_s: float,
        lanes: Callable[[], list[tuple[int, bytes]]],
        starved_lanes: Callable[[], list[tuple[int, bytes]]],
        has_actors: Callable[[], bool],
        queue_length: Callable[[int], int],
        run_time_s: Callable[[int], float],
    ) -> None:
        self._transit, self._choice, self._placing = transit, choice, placing
        self._guests, self._own_id, self._total = guests, own_id, total
        self._threshold_s, self._lanes, self._has_actors = threshold_s, lanes, has_actors
        self._queue_length, self._run_time_s = queue_length, run_time_s
        self._queues: dict[int, tuple[ForwardQueue, int]] = {}
        self._starved_lanes = starved_lanes
        self._next_look_s = 0.0
        self.is_draining = False

    def may_leave(self, queue: ForwardQueue, first_lane: int) -> None:
        """What waits in the queue of this node may run elsewhere just as well."""
        self._queues[queue.loc] = queue, first_lane

    def job_ended(self, job_id: bytes) -> None:
        """Its queues go."""
        self._queues = {
            loc: known for loc, known in self._queues.items() if known[0].job_id != job_id
        }

    def tick(self, now_s: float) -> None:
        """Sees which tasks would wait too long, and which for what they cannot get here."""
        if self.is_draining:
            for loc, job_id in self._lanes():
                self._empty(loc, job_id, ours_too=True)
            return
        may_move = not self._has_actors()
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + _STARVED_LOOK_S
            for loc, job_id in self._starved_lanes():
                self._empty(loc, job_id, ours_too=may_move)
        if not may_move:
            return
        for queue, first_lane in list(self._queues.values()):
            length = self._queue_length(queue.loc)
            if length:
                at_once = slots(self._total, queue.shape)
                run_time_s = self._run_time_s(first_lane)
                count = excess(length, run_time_s, at_once, self._threshold_s)
                if count:
                    self._send_off(queue, count)

    def _send_off(self, queue: ForwardQueue, count: int) -> None:
        """Has up to so many tasks leave that are better off elsewhere."""
        others = [node_id for node_id in self._choice.able(queue) if node_id != self._own_id]
        count = min(count, self._choice.room(others), BATCH_MAX)
        # No others are claimed, since each that stays after all loses its place in line.
        nodes = self._choice.choose(queue, [()] * count)
        count = sum(node_id not in (None, self._own_id) for node_id in nodes)
        tasks = [self._transit.describe(task) for task in self._transit.claim(queue.loc, count)]
        movable = []
        for task in tasks:
            if task.is_stream or self._guests.is_guest(task.task_id):
                self._placing.carrier.put_back(task, queue)
            else:
                movable.append(task)
        self._placing.place(queue, movable)

    def _empty(self, loc: int, job_id: bytes, *, ours_too: bool) -> None:
        """All that may leave a queue does: guests to their origins, ours to other nodes."""
        if not self._queue_length(loc):
            return
        known = self._queues.get(loc)
        queue = _bare(loc, job_id) if known is None else known[0]
        movable = []
        for locator in self._transit.claim(loc, BATCH_MAX):
            task = self._transit.describe(locator)
            if self._guests.is_guest(task.task_id):
                self._guests.give_back(task)
            elif known is None or task.is_stream or not ours_too:
                self._placing.carrier.put_back(task, queue)
            else:
                movable.append(task)
        self._placing.place(queue, movable)


def _bare(loc: int, job_id: bytes) -> ForwardQueue:
    """A queue whose tasks go nowhere but back into it."""
    return ForwardQueue(loc, job_id, ResourceSet(), Shape({}, "", 0, 0), ANYWHERE, lambda: loc)
