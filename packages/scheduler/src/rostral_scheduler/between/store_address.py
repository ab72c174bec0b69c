"""Where other nodes fetch from this one's store, found out when something large is to travel.

This file owns what is known of that, and what follows where nobody can fetch: all travels in
messages, up to a bound.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from rostral_scheduler.between.transit_memory import MissingExtraError, TransitMemory
from rostral_scheduler.config import LocalSchedulerConfig

__all__ = ["StoreAddress"]


class StoreAddress:
    """The address, on the running event loop.

    Attributes:
        address: Empty while nobody knows.
        inline_bytes: Values up to this size travel in messages.
    """

    def __init__(
        self, config: LocalSchedulerConfig, transit: TransitMemory, threads: Executor
    ) -> None:
        self._transit, self._threads = transit, threads
        self._inline_bytes_max = config.forward_inline_bytes_max
        self.address = ""
        self.inline_bytes = config.forward_inline_bytes

    async def find(self) -> None:
        """Finds out. Raises RostralError if nobody can ever fetch, and it does not help."""
        loop = asyncio.get_running_loop()
        try:
            found = loop.run_in_executor(self._threads, self._transit.transfer_address)
            self.address = await found
        except MissingExtraError:
            if self.inline_bytes == self._inline_bytes_max:
                raise
            self.inline_bytes = self._inline_bytes_max
