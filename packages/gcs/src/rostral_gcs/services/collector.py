"""Python's garbage collector, in a process that lives for months and keeps many records.

A full collection looks at every object there is: measured, a tenth of the time of a node that had a
thousand actors. It comes when enough new objects have outlived two smaller ones, which are those
records: so it finds nothing just when there is most to do.
"""

from __future__ import annotations

import asyncio
import gc

__all__ = ["run_collector"]

FULL_EVERY_S = 60.0
# Counts of younger collections before the next older one; so many that none is full.
THRESHOLDS = (1000, 20, 1_000_000)


async def run_collector() -> None:
    """Until it is cancelled, full collections happen once a minute and at no other time.

    What exists at the call is left out of all of them: call it when the process is ready.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    try:
        while True:
            await asyncio.sleep(FULL_EVERY_S)
            gc.collect()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
