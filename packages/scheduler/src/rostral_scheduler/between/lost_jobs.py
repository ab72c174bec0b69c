"""Rows of jobs whose node died before it could say that they are over.

This file owns who says it instead. A job ends with the node that its driver is on; its row goes on
saying that it runs, until a node that lives, or one that begins, comes upon it. Saying it twice
does no harm, so nobody is chosen: the nodes look one after the other, and the first has said all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from rostral_gcs import AsyncGcsClient, JobState
from rostral_gcs.errors import ClientClosedError, GcsError, NotFoundError
from rostral_scheduler.between.living_nodes import LivingNodes

__all__ = ["LostJobs"]

logger = logging.getLogger("rostral.scheduler.lost_jobs")

_TURN_S = 1.0
"""How long each node waits for the one before it in line."""
_TURNS_MAX = 30
_PAUSE_S = 1.0


class LostJobs:
    """One node's part, on the running event loop.

    Args:
        own_id: This node's.
        client: Of the GCS.
        view: The living nodes.
        is_running: Whether a job runs here, by its id.
    """

    def __init__(
        self,
        own_id: bytes,
        client: AsyncGcsClient,
        view: LivingNodes,
        is_running: Callable[[bytes], bool],
    ) -> None:
        self._own_id, self._client, self._view = own_id, client, view
        self._is_running = is_running
        self._again = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Says no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def look(self) -> None:
        """A node is dead, or this one begins, and may be another's next life."""
        self._again.set()
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            await self._again.wait()
            self._again.clear()
            before = sum(1 for node_id in self._view.by_id if node_id < self._own_id)
            await asyncio.sleep(_TURN_S * min(before, _TURNS_MAX))
            try:
                await self._finish()
            except ClientClosedError:
                return
            except GcsError as error:
                logger.info("cannot look for jobs of dead nodes: %s", error)
                self._again.set()
                await asyncio.sleep(_PAUSE_S)

    async def _finish(self) -> None:
        """Finishes what runs no more. Raises GcsError."""
        for row in await self._client.list_jobs():
            if row.state is JobState.FINISHED or row.node_id is None:
                continue
            node_id, job_id = row.node_id.binary(), row.job_id.binary()
            is_former_self = node_id == self._own_id and not self._is_running(job_id)
            if is_former_self or self._view.death_cause(node_id) is not None:
                logger.info("job=%s ended with node=%s", job_id.hex(), node_id.hex())
                try:
                    await self._client.finish_job(row.job_id)
                except NotFoundError:
                    continue
