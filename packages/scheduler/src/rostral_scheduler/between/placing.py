"""Tasks of this node that others may run, from their queues to the node that gets each.

This file owns the queues that no worker here is granted, and what is claimed from them when. Which
node it is says `choice.py`; how a task gets there is `forwarded.py`'s affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.choice import NodeChoice
from rostral_scheduler.between.outgoing import ForwardQueue
from rostral_scheduler.between.transit_memory import ClaimedTask, TransitMemory
from rostral_scheduler.core.placement_request import TaskInput
from rostral_scheduler.errors import UnschedulableError

__all__ = ["Carrier", "Placing"]

BATCH_MAX = 256
"""Tasks that are placed at a time: the event loop has other things to do as well."""
LARGE_BYTES = 64 << 10
"""Smaller inputs take no longer than the message that names them."""


class Carrier(Protocol):
    """Brings tasks to where they were placed."""

    def forward(self, claimed: ClaimedTask, queue: ForwardQueue, node_id: bytes) -> None:
        """Has another node run it."""

    def run_here(self, claimed: ClaimedTask, queue: ForwardQueue) -> None:
        """Has this node's workers run it."""

    def put_back(self, claimed: ClaimedTask, queue: ForwardQueue) -> None:
        """Puts it into its queue again."""

    def fail(self, claimed: ClaimedTask, queue: ForwardQueue, error: Exception) -> None:
        """Ends it with the error."""

    def refusal_of(self, node_id: bytes) -> RostralError | None:
        """Why the node does not let us in."""


class Placing:
    """The queues of tasks that other nodes may run; on the event loop's thread.

    Args:
        transit: The node's memory.
        choice: Among the nodes.
        carrier: Brings them there.
        own_id: This node's id.
        queue_length: Of a queue.
        death_cause: Why a node is dead; None: it is not.
        nodes_with: The other nodes that have an object's bytes.
        watch: Called with each task that may run twice, and its queue, before it goes to a node.
    """

    def __init__(
        self,
        transit: TransitMemory,
        choice: NodeChoice,
        carrier: Carrier,
        *,
        own_id: bytes,
        queue_length: Callable[[int], int],
        death_cause: Callable[[bytes], str | None],
        nodes_with: Callable[[bytes], tuple[bytes, ...]],
        watch: Callable[[ClaimedTask, ForwardQueue], None],
    ) -> None:
        self._transit, self._choice, self.carrier = transit, choice, carrier
        self._own_id, self._nodes_with, self._watch = own_id, nodes_with, watch
        self._queue_length, self._death_cause = queue_length, death_cause
        self._queues: dict[int, ForwardQueue] = {}

    def add_queue(self, queue: ForwardQueue) -> None:
        """What is pushed there is placed from here on."""
        self._queues[queue.loc] = queue

    def job_ended(self, job_id: bytes) -> None:
        """Its queues go."""
        for queue in [queue for queue in self._queues.values() if queue.job_id == job_id]:
            del self._queues[queue.loc]

    def look(self) -> None:
        """Places what can be placed."""
        for queue in list(self._queues.values()):
            while self._queue_length(queue.loc) and self._place_some(queue):
                pass

    def _place_some(self, queue: ForwardQueue) -> bool:
        """Whether another try may place more."""
        able = self._choice.able(queue)
        count = min(self._choice.room(able), BATCH_MAX)
        if count == 0:
            self._give_up(queue, able)
            return False
        tasks = self._transit.claim(queue.loc, count)
        if not tasks:
            return False
        return self.place(queue, [self._transit.describe(task) for task in tasks])

    def place(self, queue: ForwardQueue, claimed: list[ClaimedTask]) -> bool:
        """Brings claimed tasks of a queue to the best nodes. False: some had to be put back."""
        all_placed = True
        nodes = self._choice.choose(queue, [self.inputs_of(task) for task in claimed])
        for task, node_id in zip(claimed, nodes, strict=True):
            if queue.where.speculate and node_id is not None:
                self._watch(task, queue)
            if node_id is None:
                self.carrier.put_back(task, queue)
                all_placed = False
            elif node_id == self._own_id:
                self.carrier.run_here(task, queue)
            else:
                self.carrier.forward(task, queue, node_id)
        return all_placed

    def inputs_of(self, claimed: ClaimedTask) -> tuple[TaskInput, ...]:
        """What a task needs that is worth moving it for."""
        if len(claimed.inputs) < 2:
            return ()  # No more than its code.
        return tuple(
            TaskInput(object_id, size, self._holders(object_id))
            for object_id, size in self._transit.large_inputs(claimed, LARGE_BYTES)
        )

    def _holders(self, object_id: bytes) -> tuple[bytes, ...]:
        """The nodes that need not fetch the object."""
        others = self._nodes_with(object_id)
        if others and self._transit.is_elsewhere_id(object_id):
            return others
        return (*others, self._own_id)

    def _give_up(self, queue: ForwardQueue, able: list[bytes]) -> None:
        """No node takes these now, and perhaps none ever will: then they fail.

        Where none that lives could have them another may come, unless it must be one that is dead.
        """
        where = queue.where
        error: Exception | None = None
        if able:
            refusals = [self.carrier.refusal_of(node_id) for node_id in able]
            error = refusals[0] if all(refusals) else None
        elif where.node_id and not where.soft:
            cause = self._death_cause(where.node_id)
            if cause is not None:
                error = UnschedulableError(
                    f"node {where.node_id.hex()}, which the task must run on, is gone: {cause}",
                    hint="submit it for another node, or with soft=True",
                )
        if error is not None:
            for task in self._transit.claim(queue.loc, self._queue_length(queue.loc)):
                self.carrier.fail(self._transit.describe(task), queue, error)
