"""The living nodes, as the GCS's node table has them: watched, so that nobody has to ask.

This file owns that copy and who is told of a death. While the GCS is away it stays as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

from rostral_gcs import AsyncGcsClient, NodeRow, NodeState
from rostral_gcs.client_watch import WatchKind
from rostral_gcs.errors import ClientClosedError, FencedError, GcsError, NotFoundError
from rostral_gcs.ids import NodeID
from rostral_gcs.tables.nodes import NODES

__all__ = ["LivingNodes"]

logger = logging.getLogger("rostral.scheduler.between")

_PAUSE_S = 0.5


class LivingNodes:
    """The nodes, on the running event loop, from `start` to `stop`.

    Args:
        client: Connected.
        came: Called when a node has come.
        reported: Called with each row of a living node.
        died: Called with the id of a node that is dead, and why.
        confirm: Renews this node's own lease. Raises FencedError, GcsError.
    """

    def __init__(
        self,
        client: AsyncGcsClient,
        *,
        came: Callable[[], None],
        reported: Callable[[NodeRow], None],
        died: Callable[[bytes, str], None],
        confirm: Callable[[], Awaitable[None]],
    ) -> None:
        self._client = client
        self._confirm = confirm
        self._came, self._reported, self._died = came, reported, died
        self.by_id: dict[bytes, NodeRow] = {}
        """The living."""
        self._dead: dict[bytes, str] = {}
        self._epochs: dict[bytes, int] = {}
        self._synced = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._telling: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Watches from here on."""
        self._tasks.append(asyncio.create_task(self._watch(), name="node view"))

    async def stop(self) -> None:
        """Watches no more."""
        running = [*self._tasks, *self._telling]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def synced(self, timeout_s: float) -> None:
        """Waits until the table has been read once; gives up after the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._synced.wait()

    def death_cause(self, node_id: bytes) -> str | None:
        """Why the node is dead; None: it is not, as far as is known here."""
        return self._dead.get(node_id)

    def bury(self, node_id: bytes, cause: str) -> None:
        """Somebody here has seen that the node is dead: so it is for all, once the GCS knows."""
        if node_id in self._dead:
            return
        self._lose(node_id, cause)
        telling = asyncio.create_task(self._tell(node_id, cause))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell(self, node_id: bytes, cause: str) -> None:
        """Once it is known that it is not we who are dead: who was cut off hears of nobody."""
        while True:
            try:
                await self._confirm()
                await self._client.mark_node_dead(NodeID(node_id), cause)
            except (FencedError, ClientClosedError, NotFoundError) as error:
                logger.warning("no word of a death node=%s error=%s", node_id.hex(), error)
                return
            except GcsError as error:
                logger.info("cannot tell of a death yet node=%s error=%s", node_id.hex(), error)
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _watch(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._client.watch(NODES)) as events:
                    async for event in events:
                        if event.kind is WatchKind.SYNCED:
                            self._synced.set()
                        elif event.row is not None:
                            self._see(event.row)
            except ClientClosedError:
                return
            except GcsError as error:
                logger.info("the watch of nodes ended: %s", error)
            await asyncio.sleep(_PAUSE_S)

    def _see(self, row: NodeRow) -> None:
        node_id = row.node_id.binary()
        if row.state is NodeState.DEAD:
            self._lose(node_id, row.death_cause)
            return
        if node_id in self._dead:
            known = self._epochs.get(node_id, 0)
            if row.epoch <= known:
                return  # Written before it died.
            del self._dead[node_id]
        is_new = node_id not in self.by_id
        self.by_id[node_id] = row
        self._reported(row)
        if is_new:
            self._came()

    def _lose(self, node_id: bytes, cause: str) -> None:
        row = self.by_id.pop(node_id, None)
        if row is not None:
            self._epochs[node_id] = row.epoch
        if node_id not in self._dead:
            self._dead[node_id] = cause
            self._died(node_id, cause)

    def __iter__(self) -> Iterator[NodeRow]:
        return iter(list(self.by_id.values()))
