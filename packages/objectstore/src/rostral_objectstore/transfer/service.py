"""A node's part in transfers, as its daemon runs it: gives objects away, and fetches for everybody.

Owns the threads in which the daemon's clients wait, so that its event loop never does, and the
copies that it keeps. The policies are the server's and the fetcher's.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rostral_gcs.errors import ConfigError
from rostral_gcs.ids import ObjectID
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore.control import Body
from rostral_objectstore.errors import ProtocolError, QueueFullError
from rostral_objectstore.handle import ObjectHandle
from rostral_objectstore.transfer.config import FetchConfig, TransferServerConfig
from rostral_objectstore.transfer.copies import Copies
from rostral_objectstore.transfer.fetcher import Fetcher
from rostral_objectstore.transfer.server import TransferServer


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """Settings of a node's part in transfers."""

    server: TransferServerConfig
    fetch: FetchConfig

    askers_max: int = 128
    """Clients that wait for a fetch at the same time; each has a thread. More are refused."""

    copies_share: float = 0.1
    """Of the store's memory, for fetched objects that nobody uses at the moment: the next who asks
    finds them. Small, for what it takes is not there for new objects."""

    def validate(self) -> None:
        """Raises ConfigError with what is wrong."""
        self.server.validate()
        self.fetch.validate()
        if self.askers_max < 1:
            raise ConfigError(f"askers_max is {self.askers_max}: at least 1")
        if not 0 <= self.copies_share <= 1:
            raise ConfigError(f"copies_share is {self.copies_share}: between 0 and 1")


class TransferService:
    """Serves and fetches until `close`. Belongs to the event loop that makes it.

    Raises: ConfigError, TokenFileError, PortInUseError.
    """

    def __init__(self, table: ObjectTable, config: TransferConfig) -> None:
        config.validate()
        self._table, self._config = table, config
        self._copies: Copies[ObjectHandle] = Copies(
            int(table.segment.capacity * config.copies_share)
        )
        self._asking = 0
        self._fetcher = Fetcher(table, config.fetch)
        self._server = TransferServer(table, config.server)
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
        size_bytes = self._table.size(handle)
        self._copies.keep(handle.binary(), handle, size_bytes)
        return {"size_bytes": size_bytes}

    def drop(self, id: bytes) -> None:
        """Keeps no copy of the object any longer."""
        self._copies.drop(id)

    def drop_copies(self, size_bytes: int) -> int:
        """Makes room: drops the longest unused copies until so many bytes are gone, or all are.

        Returns the bytes dropped. What a client uses stays until that one lets go.
        """
        return self._copies.shrink(max(0, self._copies.size_bytes - size_bytes))

    def stats(self) -> Body:
        """Counts of both sides, and what the copies take."""
        return {
            "address": self.address,
            "server": dict(self._server.stats()),
            "fetcher": dict(self._fetcher.stats()),
            "copies": len(self._copies),
            "copies_bytes": self._copies.size_bytes,
        }

    async def close(self) -> None:
        """Ends everything under way; clients that wait get an error. Idempotent."""
        loop = asyncio.get_running_loop()
        self._fetcher.close()
        await loop.run_in_executor(None, self._server.close)
        await loop.run_in_executor(None, self._threads.shutdown)
        self._copies.shrink(0)


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
