"""A node's part in transfers, as its daemon runs it: gives objects away, and fetches for everybody.

Owns the threads in which the daemon's clients wait, so that its event loop never does. What has
come stays as a cached copy, which the daemon drops when room is wanted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rostral_gcs.errors import ConfigError
from rostral_gcs.ids import ObjectID
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore.control import Body
from rostral_objectstore.errors import ProtocolError, QueueFullError
from rostral_objectstore.transfer.config import FetchConfig, TransferServerConfig
from rostral_objectstore.transfer.fetcher import Fetcher
from rostral_objectstore.transfer.server import TransferServer

if TYPE_CHECKING:
    from rostral_objectstore.room import Room


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """Settings of a node's part in transfers."""

    server: TransferServerConfig
    fetch: FetchConfig

    askers_max: int = 128
    """Clients that wait for a fetch at the same time; each has a thread. More are refused."""

    def validate(self) -> None:
        """Raises ConfigError with what is wrong."""
        self.server.validate()
        self.fetch.validate()
        if self.askers_max < 1:
            raise ConfigError(f"askers_max is {self.askers_max}: at least 1")


class _RoomFromThreads:
    """The daemon's room, for threads that may wait for it as clients do."""

    def __init__(self, room: Room) -> None:
        self._room, self._loop = room, asyncio.get_running_loop()

    def make_room(self, size_bytes: int) -> None:
        """Returns when it is worth to try again. Raises ObjectStoreFullError, OutOfDiskError."""
        began_s = time.monotonic()
        while not self._wait(self._room.make(size_bytes, waited_s=time.monotonic() - began_s)):
            pass

    def restore(self, handle: Handle) -> None:
        """Returns when the object's bytes are back in memory. Raises what Room.restore does."""
        while not self._wait(self._room.restore(handle)):
            pass

    def _wait(self, answer: Coroutine[None, None, bool]) -> bool:
        return asyncio.run_coroutine_threadsafe(answer, self._loop).result()


class TransferService:
    """Serves and fetches until `close`. Belongs to the event loop that makes it.

    Args:
        segment: the store's, with the daemon's slot.
        room: makes room for what comes, and brings back what others ask for.
        keep: called with what has come: the daemon's cache.

    Raises: ConfigError, TokenFileError, PortInUseError.
    """

    def __init__(
        self,
        segment: Segment,
        config: TransferConfig,
        *,
        room: Room,
        keep: Callable[[Handle], None],
    ) -> None:
        config.validate()
        self._config, self._keep = config, keep
        # Not the daemon's own table: this one may wait for the event loop.
        self._table = ObjectTable(segment)
        calls = _RoomFromThreads(room)
        self._table.set_daemon(restore=calls.restore, make_room=calls.make_room)
        self._asking = 0
        self._fetcher = Fetcher(self._table, config.fetch)
        self._server = TransferServer(self._table, config.server)
        self._threads = ThreadPoolExecutor(config.askers_max, thread_name_prefix="rostral-asker")

    @property
    def address(self) -> str:
        """Where other nodes fetch from."""
        return self._server.address

    async def fetch(self, body: Body) -> Body:
        """The control method: answers when the object is here. Raises what Fetcher.fetch does.

        However many clients ask for one object, one transfer runs.
        """
        ask = _checked(body)
        if self._asking >= self._config.askers_max:
            raise QueueFullError(
                f"{self._asking} processes of this node wait for fetches already",
                hint="ask again when some of them are over",
            )
        self._asking += 1
        try:
            loop = asyncio.get_running_loop()
            handle = await loop.run_in_executor(self._threads, lambda: self._fetcher.fetch(**ask))
        finally:
            self._asking -= 1
        if body.get("cached", True):
            self._keep(handle)
        return {"size_bytes": self._table.size(handle)}

    def stats(self) -> Body:
        """Where it listens, and the counts of both sides."""
        return {
            "address": self.address,
            "server": dict(self._server.stats()),
            "fetcher": dict(self._fetcher.stats()),
        }

    async def close(self) -> None:
        """Ends everything under way; clients that wait get an error. Idempotent."""
        loop = asyncio.get_running_loop()
        self._fetcher.close()
        await loop.run_in_executor(None, self._server.close)
        await loop.run_in_executor(None, self._threads.shutdown)


def _checked(body: Body) -> dict[str, Any]:
    """What a client asked for, as arguments of Fetcher.fetch. Raises ProtocolError."""
    id, holders = body.get("id"), body.get("holders")
    size_bytes, timeout_s = body.get("size_bytes"), body.get("timeout_s")
    if not isinstance(id, bytes) or len(id) != ObjectID.SIZE:
        raise ProtocolError(f"an object id is {ObjectID.SIZE} bytes")
    if not isinstance(holders, list) or not all(isinstance(item, str) for item in holders):
        raise ProtocolError("holders is a list of addresses")
    if not isinstance(size_bytes, int | None) or not isinstance(timeout_s, int | float | None):
        raise ProtocolError("size_bytes and timeout_s are numbers")
    return {
        "id": ObjectID(id),
        "holders": holders,
        "size_bytes": size_bytes,
        "timeout_s": timeout_s,
    }
