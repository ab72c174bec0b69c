"""Inputs of a task that its host could not get, brought to its origin.

This file owns how often that is tried. So where two nodes cannot reach each other, what they would
exchange comes by the third.
"""

from __future__ import annotations

import asyncio

from rostral_scheduler.between.elsewhere import Elsewhere
from rostral_scheduler.between.outgoing import Sent
from rostral_scheduler.between.transit_memory import ObjectFetchError, TransitMemory

__all__ = ["bring_inputs"]

_PAUSE_S = 0.1
_TIMES_MAX = 8
"""That hosts may fail to get a task's inputs, though those are there."""


async def bring_inputs(
    transit: TransitMemory, elsewhere: Elsewhere, sent: Sent, object_ids: list[bytes]
) -> None:
    """Returns once they are here, or expected: then the task may go again.

    Raises RostralError when it may not.
    """
    sent.given_back += 1
    for object_id in object_ids:
        handle = transit.find(object_id)
        if handle is not None and transit.is_away(handle):
            await elsewhere.bring(handle)
    if sent.given_back > _TIMES_MAX:
        names = ", ".join(object_id.hex() for object_id in object_ids)
        raise ObjectFetchError(
            f"no host could get inputs of task {sent.claimed.task_id.hex()}: {names}",
            hint="look at the network between the nodes",
        )
    await asyncio.sleep(_PAUSE_S * (sent.given_back - 1))
