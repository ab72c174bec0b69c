"""How a task of this node becomes a message for another.

This file owns what travels with it, and where its host gets the rest. It sends nothing.
"""

from __future__ import annotations

import time

from rostral_scheduler.between.elsewhere import Elsewhere
from rostral_scheduler.between.messages import NO_CODE, Input, Submit
from rostral_scheduler.between.outgoing import Peer, Sent, located
from rostral_scheduler.between.recovery import Recovery
from rostral_scheduler.between.store_address import StoreAddress
from rostral_scheduler.between.transit_memory import ERROR, NotSealedError, TransitMemory
from rostral_scheduler.config import LocalSchedulerConfig

__all__ = ["Packing"]

_MESSAGE_BYTES_MAX = 32 << 20
"""Of inputs that come along with one task, beyond which they are fetched unless they are tiny."""
_TINY_BYTES = 1 << 10


class Packing:
    """Makes messages of tasks, on the event loop; does not block.

    Args:
        config: Of the scheduler.
        transit: The node's memory.
        store: Where others fetch from this node.
        elsewhere: Where inputs are whose bytes are on other nodes.
        recovery: Has inputs made again that are lost.
    """

    def __init__(
        self,
        config: LocalSchedulerConfig,
        transit: TransitMemory,
        store: StoreAddress,
        elsewhere: Elsewhere,
        recovery: Recovery,
    ) -> None:
        self._config, self._transit = config, transit
        self._elsewhere, self._recovery = elsewhere, recovery
        self._store = store
        self._function_ids: dict[int, bytes] = {}

    def message(self, peer: Peer, sent: Sent) -> Submit | None:
        """The task as it travels. None: something of it must be fetched, and nobody knows where.

        Raises NotTransferableError, and NotSealedError for what is yet to be made, or made again.
        """
        claimed = sent.claimed
        code = NO_CODE if sent.to_actor is not None else self._transit.function_of(claimed)
        inputs: list[Input] = []
        room = _MESSAGE_BYTES_MAX
        for index, loc in enumerate(claimed.inputs):
            if index == code:
                inputs.append(self._code(peer, sent, loc))
                continue
            # Of thousands of small inputs, those that would make a message too large are fetched.
            inline_bytes = (
                self._store.inline_bytes if room > 0 else min(self._store.inline_bytes, _TINY_BYTES)
            )
            given = self._transit.input(loc, inline_bytes)
            room -= len(given.data or b"")
            inputs.append(given)
        failed = any(given.flags & ERROR for given in inputs)
        missing = [given.id for given in inputs if given.is_missing]
        if missing and not failed:
            self._recovery.need([one for one in missing if self._transit.is_elsewhere_id(one)])
            raise NotSealedError("an object that the task only refers to is not sealed yet")
        beside = self._transit.beside(inputs, self._store.inline_bytes)
        large = [given for given in (*inputs, *beside) if given.size and given.data is None]
        if large:
            stores = {given.id: self._stores_of(given.id) for given in large}
            if not all(stores.values()):
                return None
            inputs = [located(given, stores.get(given.id, ())) for given in inputs]
            beside = [located(given, stores.get(given.id, ())) for given in beside]
        left_ns = 0
        if claimed.deadline_ns:
            left_ns = max(1, claimed.deadline_ns - time.monotonic_ns())
        return Submit(
            task_id=claimed.task_id,
            parent=claimed.parent,
            job_id=sent.job_id,
            shape=sent.wire,
            function=code,
            payload=claimed.payload,
            inputs=inputs,
            return_count=len(claimed.results),
            retries=claimed.retries,
            flags=claimed.flags,
            deadline_left_ns=left_ns,
            beside=beside,
            watched=sent.watched,
        )

    def _stores_of(self, object_id: bytes) -> tuple[str, ...]:
        """Where others get an object from; this node's store comes last, as it is asked the most.

        Empty: nobody knows yet where that is. Raises NotSealedError for what is lost.
        """
        holders = self._elsewhere.holders(object_id)
        if not self._transit.is_elsewhere_id(object_id):
            return (*holders, self._store.address) if self._store.address else ()
        if not holders:
            self._recovery.need([object_id])
            raise NotSealedError("an input is to be made again")
        return holders

    def _code(self, peer: Peer, sent: Sent, loc: int) -> Input:
        function_id = self._function_ids.get(sent.claimed.function)
        if function_id is None:
            function_id = self._transit.object_id(loc)
            if len(self._function_ids) >= self._config.forwarded_functions_max:
                self._function_ids.clear()
            self._function_ids[sent.claimed.function] = function_id
        if (sent.job_id, function_id) in peer.functions:
            return Input(function_id, known=True)
        return self._transit.input(loc, self._store.inline_bytes)
