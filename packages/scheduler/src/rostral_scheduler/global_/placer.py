"""A placement policy kept up to date from the GCS: what a global scheduler is, but for the wire.

This file owns following the node table. A local scheduler that finds no global one uses it too, and
so places by the same policy. Everything in here can be rebuilt from the GCS at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence

from rostral_gcs import NODES, AsyncGcsClient, NodeRow, NodeState, WatchEvent, WatchKind
from rostral_gcs.errors import GcsError
from rostral_scheduler.core.labels import NODE_ID_LABEL
from rostral_scheduler.core.node_view import NodeLoad, QueueLoad
from rostral_scheduler.core.placement import PlacementLimits, PlacementPolicy
from rostral_scheduler.core.placement_request import Answer, Later, TaskRequest
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.errors import RequestError
from rostral_scheduler.global_.placement_times import PlacementTimes

__all__ = ["Placer", "load_of"]

logger = logging.getLogger("rostral.scheduler.global")

_PAUSE_S = 0.5


def load_of(row: NodeRow) -> NodeLoad:
    """A node's row as the policy takes it.

    Raises:
        RequestError: An amount is not one that a scheduler can count.
    """
    report = row.report
    return NodeLoad(
        node_id=row.node_id.binary(),
        address=row.address,
        total=ResourceSet.of(row.resources_total),
        available=ResourceSet.measured(row.resources_available),
        held=ResourceSet.measured(report.resources_held),
        labels={NODE_ID_LABEL: row.node_id.hex(), **row.labels},
        queues=tuple(
            QueueLoad(ResourceSet.of(queue.resources), queue.length, queue.run_time_s)
            for queue in report.queues
        ),
        run_time_s=report.run_time_s,
        run_times_s=report.run_times_s,
        bandwidth_bytes_per_s=report.bandwidth_bytes_per_s,
        is_draining=report.is_draining,
    )


class Placer:
    """Answers placements from the node table as it was last heard. On one event loop.

    Args:
        gcs: A connected client; stays the caller's.
        limits: Of the policy.

    Attributes:
        answers: How many were given since the start, by kind.
        times: Of batches of placements.
    """

    def __init__(self, gcs: AsyncGcsClient, limits: PlacementLimits | None = None) -> None:
        self._gcs = gcs
        self.policy = PlacementPolicy(limits, salt=secrets.token_bytes(16))
        self.synced = asyncio.Event()
        self.answers: Counter[str] = Counter()
        self.times = PlacementTimes()
        self._following: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to follow the GCS; ``synced`` is set when the first snapshot is in."""
        following = self._follow_nodes()
        self._following = [asyncio.get_running_loop().create_task(following)]

    async def stop(self) -> None:
        """Ends it. May be called twice."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        self._following = []

    def place(self, requests: Sequence[TaskRequest]) -> list[Answer]:
        """Answers each request, in order; while no snapshot is in, all of them with Later."""
        if not self.synced.is_set():
            later = Later(self.policy.limits.retry_s, "the node table has not been read yet")
            return [later] * len(requests)
        now_s = time.monotonic()
        answers = self.policy.place(requests, now_s)
        self.times.add(time.monotonic() - now_s)
        self.answers.update(type(answer).__name__.lower() for answer in answers)
        return answers

    async def _follow_nodes(self) -> None:
        while True:
            events = self._gcs.watch(NODES)
            try:
                async with contextlib.aclosing(events):
                    await self._take_in(events)
            except GcsError as error:
                # What is known stays: nodes outlive an absence of the GCS.
                logger.warning("cannot follow the node table; trying again error=%s", error)
            await asyncio.sleep(_PAUSE_S)

    async def _take_in(self, events: AsyncGenerator[WatchEvent[NodeRow], None]) -> None:
        unseen: set[bytes] = set()
        async for event in events:
            match event.kind:
                case WatchKind.RESYNC:
                    unseen = set(self.policy.nodes)
                case WatchKind.PUT if event.row is not None:
                    unseen.discard(event.key)
                    self._take_row(event.row)
                case WatchKind.DELETE:
                    self.policy.remove_node(event.key)
                case WatchKind.SYNCED:
                    for node_id in unseen:
                        self.policy.remove_node(node_id)
                    self.synced.set()

    def _take_row(self, row: NodeRow) -> None:
        node_id = row.node_id.binary()
        if row.state is not NodeState.ALIVE:
            self.policy.remove_node(node_id)
            return
        try:
            self.policy.update_node(load_of(row), time.monotonic())
        except RequestError as error:
            logger.warning("node=%s reports what makes no sense error=%s", row.node_id.hex(), error)
