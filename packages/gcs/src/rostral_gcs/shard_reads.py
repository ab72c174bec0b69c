"""What can be asked of a shard that changes nothing of its rows.

This file owns the bounds of what is asked. The questions are put to the backend where it may be
used: that is ``shard.py``'s, which these are the face of.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

from rostral_gcs.archive.schema import Filter
from rostral_gcs.backends.base import Backend, Mover, Row, SharedLeases, SharedShards
from rostral_gcs.config import GcsConfig
from rostral_gcs.errors import TooLargeError
from rostral_gcs.tables.registry import TableSpec

__all__ = ["ShardReads"]

_T = TypeVar("_T")


class ShardReads(ABC):
    """The questions.

    Args:
        backend: Asked.
        config: Bounds.
    """

    def __init__(self, backend: Backend, config: GcsConfig) -> None:
        self._backend = backend
        self._config = config

    @abstractmethod
    async def _query(self, query: Callable[[Backend], _T]) -> _T:
        """Asks the backend, in turn with all else that is asked of it."""

    async def read(self, spec: TableSpec, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that exist among the keys."""
        return await self._query(lambda backend: backend.read(spec.number, keys))

    async def read_prefixes(
        self, spec: TableSpec, prefixes: Sequence[bytes]
    ) -> dict[bytes, list[Row]]:
        """All rows that begin with each prefix.

        Raises:
            TooLargeError: They would not fit in one message.
        """
        limit, size_max = self._config.scan_limit_max, self._config.page_size_max

        def query(backend: Backend) -> dict[bytes, list[Row]]:
            found: dict[bytes, list[Row]] = {}
            room = limit
            for prefix in prefixes:
                rows, more = backend.scan(spec.number, prefix, b"", room, size_max)
                if more:
                    raise TooLargeError(
                        f"more than {limit} rows of table {spec.name} have these "
                        f"{len(prefixes)} prefixes",
                        hint="read fewer at once, or scan",
                    )
                found[prefix] = rows
                room -= len(rows)
            return found

        return await self._query(query)

    async def scan(
        self, spec: TableSpec, *, prefix: bytes, after_key: bytes, limit: int
    ) -> tuple[list[Row], bool]:
        """A page of rows in key order, and whether more may follow."""
        size_max = self._config.page_size_max
        return await self._query(
            lambda backend: backend.scan(spec.number, prefix, after_key, limit, size_max)
        )

    async def query(
        self, spec: TableSpec, filters: Sequence[Filter], limit: int, token: bytes
    ) -> tuple[list[Row], bytes]:
        """A page of rows that meet all filters, read beside the shard's thread."""
        return await asyncio.to_thread(
            self._backend.query, spec.number, filters, limit=limit, token=token
        )

    @property
    def shares_leases(self) -> bool:
        """Whether other services may serve the same shard."""
        return isinstance(self._backend, SharedLeases)

    async def share_leases(self, leases_s: Mapping[bytes, float]) -> None:
        """Tells other services of renewed leases; nothing, where there are none."""
        if isinstance(backend := self._backend, SharedLeases):
            await self._query(lambda _: backend.share_leases(leases_s))

    async def remaining_leases(self, ids: Sequence[bytes]) -> dict[bytes, float]:
        """Those leases that still run, as other services know them, in seconds."""
        if isinstance(backend := self._backend, SharedLeases):
            return await self._query(lambda _: backend.remaining_leases(ids))
        return {}

    # --- Shards that several services add to ----------------------------------------------------

    @property
    def layout(self) -> str:
        """By which table of shards it may be used, as was last heard; empty: by the first."""
        backend = self._backend
        return backend.layout if isinstance(backend, SharedShards) else ""

    def expect(self, layout: str) -> None:
        """Has it be used by this table of shards from now on."""
        cast(SharedShards, self._backend).expect(layout)

    async def move(self, step: Callable[[Mover], _T]) -> _T:
        """Takes a step of a growth."""
        return await self._query(lambda backend: step(cast(SharedShards, backend).mover))
