"""A call that an actor of this node has run and keeps, as it is written down for other nodes.

This file owns what of it is written, and when that can be believed.
"""

from __future__ import annotations

from rostral_scheduler.between.messages import NO_CODE, SHAPELESS, Call, Submit
from rostral_scheduler.between.transit_memory import (
    RETRY_FOREVER,
    NotTransferableError,
    TransitMemory,
)
from rostral_scheduler.local.actor_record import ActorRecord
from rostral_scheduler.local.node_memory import NodeMemory

__all__ = ["logged_call"]


def logged_call(
    memory: NodeMemory, transit: TransitMemory, actor: ActorRecord, task: int, inline_max: int
) -> tuple[int, Call] | None:
    """A call that is kept for replay, with its place; None: it is not, or not any more.

    Raises NotSealedError, and NotTransferableError when a value that it needs has more bytes than
    that, or is not in memory.
    """
    told = memory.kept_call(task)
    if told is None:
        return None
    place, task_id, parent, word, payload, flags, locs, return_count = told
    held = transit.hold_inputs(locs)
    # What it keeps is held here now, if it has not ended meanwhile; then these may be others.
    if len(held) < len(locs) or memory.kept_call(task) != told:
        return None
    inputs = [transit.input(loc, inline_max) for loc in locs]
    beside = transit.beside(inputs, inline_max)
    for given in (*inputs, *beside):
        if given.size and given.data is None:
            raise NotTransferableError(
                f"object {given.id.hex()}, of call {task_id.hex()}, has {given.size} bytes: with "
                f"more than {inline_max}, or outside of memory, it is not kept for replay on "
                "another node",
                hint="pass less at once",
            )
    submit = Submit(
        task_id=task_id,
        parent=parent,
        job_id=actor.job_id,
        shape=SHAPELESS,
        function=NO_CODE,
        payload=payload,
        inputs=inputs,
        return_count=return_count,
        retries=RETRY_FOREVER,
        flags=flags,
        beside=beside,
    )
    return place, Call(actor.actor_id, word, submit)
