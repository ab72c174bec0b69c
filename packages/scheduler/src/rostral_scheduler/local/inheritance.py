"""What a scheduler finds in the node's memory of one before it that died: queues, and their tasks.

The store outlives its scheduler, and all that the dead one had told processes to use: a queue that
nobody serves any more, with tasks that nobody will run. This file owns those queues, from the start
of the next scheduler until every process that may know them is gone. Those end by themselves:
workers with their scheduler, drivers when their connection to it breaks.
"""

from __future__ import annotations

import logging

from rostral_scheduler.local.node_memory import NodeMemory

__all__ = ["Inheritance"]

logger = logging.getLogger("rostral.scheduler.inheritance")


class Inheritance:
    """Made before this scheduler has queues of its own. On the event loop's thread."""

    def __init__(self, memory: NodeMemory) -> None:
        self._memory = memory
        self._queues = memory.inherited_queues()
        self._knowing = memory.attached() if self._queues else {}
        for queue in self._queues:
            memory.close_inherited(queue)

    def tick(self) -> None:
        """Ends the tasks and frees the queues, once the last who knew them is buried."""
        if not self._queues:
            return
        now = self._memory.attached()
        if any(now.get(slot) == generation for slot, generation in self._knowing.items()):
            return
        queues, self._queues = self._queues, []
        dropped = self._memory.end_inherited(queues)
        logger.info("a scheduler before this one left queues=%s tasks=%s", len(queues), dropped)
