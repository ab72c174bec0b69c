"""Objects of this node whose bytes are on others: who has them, and how they come here.

This file owns that list, from the message that a result stays where it was made until the object is
gone from this node, and the fetches of what somebody here reads. To the node's processes such an
object is sealed; `recovery.py` makes it again when nobody has its bytes any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rostral_scheduler.between.transit_memory import (
    Handle,
    Key,
    ObjectFetchError,
    TransitMemory,
)

__all__ = ["Elsewhere", "Remote"]

logger = logging.getLogger("rostral.scheduler.elsewhere")

_FETCHES_MAX = 16
_LOOK_INTERVAL_S = 0.05
_LOOKED_AT_MAX = 20_000
"""Objects in one look for those that are gone: a few milliseconds."""


@dataclass(slots=True, eq=False)
class Remote:
    """One object.

    Attributes:
        key: Its record here; None: it is not sealed yet.
        holders: By node, the address of the store that has it.
    """

    object_id: bytes
    job_id: bytes
    size_bytes: int
    holders: dict[bytes, str]
    key: Key | None = None


class Elsewhere:
    """The objects whose bytes are on other nodes, or were; on the running event loop.

    Args:
        transit: The node's memory.
        patience_s: How long a holder that cannot give an object may live on before what it had is
            taken for lost.
        release: Tells a node that it need not keep these objects any longer.
        lost: Called with objects that nobody has any more; those that are needed it has made again.
        recover: Has one object made again; returns when it is expected, or sealed as an error.
        gone: Called with an object that nobody here holds any more; returns what was kept for it.
    """

    def __init__(
        self,
        transit: TransitMemory,
        *,
        patience_s: float,
        release: Callable[[bytes, list[bytes]], None],
        lost: Callable[[list[bytes]], None],
        recover: Callable[[bytes], Awaitable[None]],
        gone: Callable[[bytes], Iterable[bytes]],
    ) -> None:
        self._transit, self._patience_s = transit, patience_s
        self._release, self._lost = release, lost
        self._recover, self._gone = recover, gone
        self.by_id: dict[bytes, Remote] = {}
        self._to_look_at: list[bytes] = []
        self._bringing: dict[bytes, asyncio.Task[None]] = {}
        self._leaving: set[bytes] = set()
        self._fetchers = ThreadPoolExecutor(_FETCHES_MAX, "rostral-bring")

    async def stop(self) -> None:
        """Brings nothing any more."""
        tasks = list(self._bringing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fetchers.shutdown(wait=False, cancel_futures=True)

    # ---- what is elsewhere

    def expect(
        self, object_id: bytes, job_id: bytes, size_bytes: int, node_id: bytes, store: str
    ) -> None:
        """A result is about to be sealed as one that is at a node; `settle` ends this.

        From here on it is known where it is: it can be wanted as soon as it is sealed.
        """
        if object_id not in self.by_id:
            self.by_id[object_id] = Remote(object_id, job_id, size_bytes, {node_id: store})

    def settle(self, object_id: bytes, key: Key | None, node_id: bytes, store: str) -> bool:
        """It was sealed, with its bytes at a node; or (None) not. Whether they are to be kept."""
        remote = self.by_id.get(object_id)
        if remote is None:
            return False
        if key is not None:
            remote.key = key
            remote.holders[node_id] = store
        elif remote.key is None:
            del self.by_id[object_id]
            return False
        return node_id in remote.holders

    def holders(self, object_id: bytes) -> tuple[str, ...]:
        """The stores that have the object's bytes, beside this node's perhaps."""
        remote = self.by_id.get(object_id)
        return () if remote is None else tuple(remote.holders.values())

    def nodes(self, object_id: bytes) -> tuple[bytes, ...]:
        """The nodes whose stores those are."""
        remote = self.by_id.get(object_id)
        return () if remote is None else tuple(remote.holders)

    def kept_by(self, node_id: bytes) -> list[bytes]:
        """What the node is to keep for us."""
        return [one.object_id for one in self.by_id.values() if node_id in one.holders]

    def is_lost(self, object_id: bytes) -> bool:
        """Whether the object is known here, and its bytes are nowhere."""
        return not self.holders(object_id) and self._transit.is_elsewhere_id(object_id)

    # ---- what is not elsewhere any more

    def tick(self) -> None:
        """Lets go of what is gone from this node, and of what was kept for that alone."""
        if not self._to_look_at:
            self._to_look_at = list(self.by_id)
        some = self._to_look_at[:_LOOKED_AT_MAX]
        del self._to_look_at[:_LOOKED_AT_MAX]
        while some:
            # A chain goes in as many rounds as it is long, all of them now.
            some = [kept for gone in self._take_gone(some) for kept in self._gone(gone)]

    def _take_gone(self, object_ids: Iterable[bytes]) -> list[bytes]:
        known = (self.by_id.get(object_id) for object_id in object_ids)
        keys = {one.key: one.object_id for one in known if one is not None and one.key is not None}
        gone = [keys[key] for key in self._transit.gone(list(keys))]
        self.forget(gone)
        return gone

    def forget(self, object_ids: Iterable[bytes]) -> None:
        """These are gone from this node, or about to be made again: nobody need keep them."""
        released: dict[bytes, list[bytes]] = {}
        for object_id in object_ids:
            remote = self.by_id.pop(object_id, None)
            for node_id in () if remote is None else remote.holders:
                released.setdefault(node_id, []).append(object_id)
        for node_id, ids in released.items():
            self._release(node_id, ids)

    def let_go(self, object_id: bytes) -> None:
        """Its bytes are not worth keeping: should somebody want them, they are made again."""
        remote = self.by_id.get(object_id)
        for node_id in () if remote is None else list(remote.holders):
            self._let_go_at(object_id, node_id)

    def not_there(self, node_id: bytes, object_ids: Iterable[bytes]) -> None:
        """The node does not have these, whatever we believed."""
        lost = []
        for object_id in object_ids:
            remote = self.by_id.get(object_id)
            if remote is not None and remote.holders.pop(node_id, None) is not None:
                lost.append(object_id)
        lost = [object_id for object_id in lost if self.is_lost(object_id)]
        if lost:
            self._lost(lost)

    def host_died(self, node_id: bytes) -> None:
        """Its bytes are gone with it."""
        self._leaving.discard(node_id)
        self.not_there(node_id, self.kept_by(node_id))

    def host_leaves(self, node_id: bytes) -> None:
        """What it keeps for somebody here comes here, while it is there. May be said again."""
        self._leaving.add(node_id)
        for object_id in self.kept_by(node_id):
            handle = self._transit.find(object_id)
            if handle is None or not self._transit.held_elsewhere(handle):
                self._let_go_at(object_id, node_id)
            elif object_id not in self._bringing:
                self.bring(handle)

    def _let_go_at(self, object_id: bytes, node_id: bytes) -> None:
        """One of those that have its bytes need not keep them."""
        remote = self.by_id.get(object_id)
        if remote is not None and remote.holders.pop(node_id, None) is not None:
            self._release(node_id, [object_id])

    def job_ended(self, job_id: bytes) -> None:
        """The hosts hear of it too, and keep nothing of the job."""
        for remote in [one for one in self.by_id.values() if one.job_id == job_id]:
            del self.by_id[remote.object_id]
            if (task := self._bringing.get(remote.object_id)) is not None:
                task.cancel()

    # ---- bringing

    def bring(self, handle: Handle) -> asyncio.Task[None]:
        """Has the bytes of an object brought here, or the object made again if they are nowhere.

        The task is done when it is worth to look at the object again, or fails if it never will be.
        """
        object_id = handle.binary()
        task = self._bringing.get(object_id)
        if task is None:
            task = asyncio.create_task(self._bring(handle))
            self._bringing[object_id] = task
            task.add_done_callback(lambda done: self._brought(object_id, done))
        return task

    def _brought(self, object_id: bytes, done: asyncio.Task[None]) -> None:
        self._bringing.pop(object_id, None)
        if done.cancelled():
            return
        if (error := done.exception()) is not None:
            logger.info("cannot bring object=%s: %s", object_id.hex(), error)
            return
        remote = self.by_id.get(object_id)
        if remote is not None and not self._transit.is_elsewhere_id(object_id):
            for node_id in self._leaving & remote.holders.keys():
                self._let_go_at(object_id, node_id)

    async def _bring(self, handle: Handle) -> None:
        """Asks the holders until it is here, or none is left and it is to be made again.

        Raises ObjectStoreFullError, ConfigError.
        """
        loop = asyncio.get_running_loop()
        object_id = handle.binary()
        given_up_at_s = loop.time() + self._patience_s
        while self._transit.is_away(handle):
            remote = self.by_id.get(object_id)
            if remote is None or not remote.holders:
                await self._recover(object_id)
                return
            try:
                await loop.run_in_executor(
                    self._fetchers,
                    self._transit.fetch,
                    object_id,
                    tuple(remote.holders.values()),
                    remote.size_bytes,
                )
            except ObjectFetchError as error:
                logger.debug("a fetch failed object=%s: %s", object_id.hex(), error)
                await asyncio.sleep(_LOOK_INTERVAL_S)
                # One that is dead is soon known to be. One that lives, and does not give it for so
                # long, does not have it, or cannot be reached.
                if loop.time() > given_up_at_s:
                    self.let_go(object_id)
