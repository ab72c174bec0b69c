"""A global scheduler: the placer, its gRPC face, and the row by which local schedulers find it.

This file owns the order of start and stop, and the row. It keeps nothing that a restart would lose,
and knows nothing of other global schedulers, but how many there are: it removes the rows of the
dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets

import msgspec

from rostral_gcs import AsyncGcsClient, ClientOptions
from rostral_gcs.errors import GcsError
from rostral_scheduler.global_ import rows
from rostral_scheduler.global_.config import GlobalSchedulerConfig
from rostral_scheduler.global_.groups import GroupPlacer
from rostral_scheduler.global_.placer import Placer
from rostral_scheduler.global_.rows import SchedulerRow
from rostral_scheduler.global_.service import PlacementServer

__all__ = ["GlobalScheduler"]

logger = logging.getLogger("rostral.scheduler.global")

_BEATS_PER_LEASE = 4


def _client(config: GlobalSchedulerConfig) -> AsyncGcsClient:
    options = ClientOptions(tls=config.tls)
    return AsyncGcsClient(config.gcs_address, config.token, options=options)


class GlobalScheduler:
    """One global scheduler. ``start`` serves until ``stop``; both belong to the running event loop.

    Args:
        config: Checked here.
        gcs: A connected client to use, which stays the caller's; None: one is made.

    Raises:
        ConfigError: The configuration is wrong.
        InsecureBindError: A bind to more than loopback that was not asked for outright.
    """

    def __init__(self, config: GlobalSchedulerConfig, *, gcs: AsyncGcsClient | None = None) -> None:
        config.validate()
        self._config = config
        self._gcs = _client(config) if gcs is None else gcs
        self._owns_gcs = gcs is None
        self.placer = Placer(self._gcs, config.limits)
        self.groups = GroupPlacer(self._gcs, self.placer.policy)
        self._server = PlacementServer(config, self.placer, self._probe)
        self._row = SchedulerRow(
            key=secrets.token_bytes(16), address="", pid=os.getpid(), lease_s=config.row_lease_s
        )
        self._reaper = rows.Reaper()
        self._exit_stack = contextlib.AsyncExitStack()

    @property
    def address(self) -> str:
        """``host:port``; empty before ``start``."""
        return self._row.address

    async def start(self) -> None:
        """Reads the node table, listens, and announces itself.

        Raises:
            GcsError: The GCS cannot be reached, or refuses.
            ConfigError: The address cannot be bound.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self._owns_gcs:
                await self._gcs.connect()
                stack.push_async_callback(self._gcs.close)
            self.placer.start()
            stack.push_async_callback(self.placer.stop)
            await self.placer.synced.wait()
            self.groups.start()
            stack.push_async_callback(self.groups.stop)
            port = await self._server.start()
            stack.push_async_callback(self._server.stop)
            host = self._config.advertise or self._config.bind
            host = f"[{host}]" if ":" in host else host
            self._row = msgspec.structs.replace(self._row, address=f"{host}:{port}")
            await rows.write(self._gcs, self._row)
            beating = asyncio.get_running_loop().create_task(self._beat())
            stack.push_async_callback(self._withdraw, beating)
            self._exit_stack = stack.pop_all()
        logger.info("serving address=%s", self.address)

    async def stop(self) -> None:
        """Withdraws the row, lets calls under way finish, and closes. May be called twice."""
        await self._exit_stack.aclose()

    async def _probe(self) -> None:
        """Whether the GCS answers: placements from a table that nobody renews go stale."""
        await self._gcs.kv_get(self._row.key, namespace=rows.NAMESPACE)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._config.row_lease_s / _BEATS_PER_LEASE)
            self._row = msgspec.structs.replace(self._row, beat=self._row.beat + 1)
            try:
                await rows.write(self._gcs, self._row)
                found = await rows.list_schedulers(self._gcs)
                dead = self._reaper.dead(found, asyncio.get_running_loop().time())
                dead.pop(self._row.key, None)
                self.placer.policy.scheduler_count = max(1, len(found) - len(dead))
                await rows.reap(self._gcs, dead)
            except GcsError as error:
                logger.warning("cannot renew the row error=%s", error)

    async def _withdraw(self, beating: asyncio.Task[None]) -> None:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
        with contextlib.suppress(GcsError, TimeoutError):
            async with asyncio.timeout(self._config.shutdown_grace_s):
                await self._gcs.kv_delete(self._row.key, namespace=rows.NAMESPACE)
