"""Results that have come in: sealed here, or noted as being elsewhere.

This file owns the step from a host's word that a task is done to the sealed results of the task, in
the thread that may wait for room, and what is noted of them before and after.
"""

from __future__ import annotations

import logging

from rostral_gcs.errors import RostralError
from rostral_scheduler.between.elsewhere import Elsewhere
from rostral_scheduler.between.living_nodes import LivingNodes
from rostral_scheduler.between.messages import Done
from rostral_scheduler.between.outgoing import Sealed, Sent, fail_for_sure, staying
from rostral_scheduler.between.recovery import Recovery
from rostral_scheduler.between.transit_memory import (
    CANCELLED,
    LATE,
    TransitMemory,
)
from rostral_scheduler.errors import SchedulerError, TaskCancelledError

__all__ = ["Arrivals", "Arrived"]

logger = logging.getLogger("rostral.scheduler.forwarded")

Arrived = tuple[Sent | None, Done, bytes]
"""A task that has ended (None: it was taken in before), how, and at which node."""


class Arrivals:
    """Takes results in. `seal_all` runs in a thread, the rest on the event loop.

    Args:
        transit: The node's memory.
        view: The living nodes.
        elsewhere: Where results are that stay where they were made.
        recovery: Remembers their tasks.
    """

    def __init__(
        self, transit: TransitMemory, view: LivingNodes, elsewhere: Elsewhere, recovery: Recovery
    ) -> None:
        self._transit, self._view = transit, view
        self._elsewhere, self._recovery = elsewhere, recovery

    def expect(self, sent: Sent, message: Done) -> None:
        """Before they are sealed: who reads one at once must find where it is."""
        if sent.to_actor is not None:
            return  # All of it was fetched: it could not be made again.
        for index, result in staying(message, len(sent.claimed.results)):
            object_id = sent.claimed.result_id(index)
            self._elsewhere.expect(object_id, sent.job_id, result.size, sent.host, message.store)

    def settle(self, arrived: Arrived, sealed: Sealed) -> list[bytes]:
        """Notes where the results are; returns those that their host is to keep."""
        sent, message, node_id = arrived
        kept = []
        for index, _ in staying(message, len(message.results)):
            object_id = message.task_id + index.to_bytes(4, "little")
            key = sealed.stayed.get(object_id)
            if self._elsewhere.settle(object_id, key, node_id, message.store):
                kept.append(object_id)
        if sent is not None and kept and sealed.inputs:
            self._recovery.remember(sent.claimed, sent.job_id, sent.queue, sealed.inputs)
        elif sent is not None and not kept:
            self._recovery.forget(message.task_id)
        if node_id not in self._view.by_id:
            self._elsewhere.not_there(node_id, kept)  # It died while they were sealed.
        return kept

    def seal_all(self, batch: list[Arrived]) -> list[Sealed]:
        """Seals what has come. May wait for room."""
        outcomes = []
        for sent, message, _ in batch:
            sealed = Sealed()
            outcomes.append(sealed)
            if sent is None:
                continue  # Taken before: the host has not heard so.
            try:
                self._seal(sent, message, sealed)
            except RostralError as error:
                fail_for_sure(self._transit, sent.claimed, error)
            except Exception as error:
                logger.exception("cannot take in results task=%s", sent.claimed.task_id.hex())
                refusal = SchedulerError(f"results cannot be taken in: {error}")
                fail_for_sure(self._transit, sent.claimed, refusal)
        return outcomes

    def _seal(self, sent: Sent, message: Done, sealed: Sealed) -> None:
        claimed = sent.claimed
        flags = self._transit.flags_of(claimed)
        if flags is None and not sent.is_copy:
            return
        if flags is not None and flags & CANCELLED:
            error = TaskCancelledError.of(claimed.task_id, is_late=bool(flags & LATE))
            self._transit.fail(claimed, error)
            return
        # Held until the results that refer to them are sealed.
        held = [self._transit.hold(given) for given in message.beside]
        for index, result in enumerate(message.results[: len(claimed.results)]):
            if result.data is not None:
                self._transit.seal(claimed, index, result)
                continue
            if sent.to_actor is not None:
                continue
            if not sealed.inputs:
                sealed.inputs = sent.held or self._transit.hold_inputs(claimed.inputs)
            key = self._transit.seal_elsewhere(claimed, index, result)
            sealed.stayed[claimed.result_id(index)] = key
        self._transit.finish(claimed)
        del held
