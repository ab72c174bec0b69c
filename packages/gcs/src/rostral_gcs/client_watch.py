"""The client's side of a watch: reconnects, resumes, and starts again when it must.

This file owns WatchEvent and the loop that turns broken streams into one unbroken sequence. What
the server promises is in ``watch.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic

from rostral_gcs._proto import gcs_pb2
from rostral_gcs.client_options import ClientOptions
from rostral_gcs.connection import Connection, backoff_s
from rostral_gcs.errors import (
    GcsOverloadedError,
    GcsUnavailableError,
    NotReplicatedError,
    OutOfRangeError,
    ResyncRequiredError,
    StorageUnavailableError,
)
from rostral_gcs.tables.table import RowT, Table

__all__ = ["WatchEvent", "WatchKind", "WatchPosition", "follow"]

logger = logging.getLogger("rostral.gcs.client")


class WatchKind(enum.Enum):
    """What a watch event says."""

    RESYNC = "RESYNC"
    """Forget all rows: a snapshot follows. The first event of a watch that starts afresh."""

    PUT = "PUT"
    """A row was written; within a snapshot: it exists."""

    DELETE = "DELETE"
    """A row was deleted."""

    SYNCED = "SYNCED"
    """The snapshot is complete; changes follow."""


@dataclass(frozen=True, slots=True)
class WatchPosition:
    """Where to resume: give it back unchanged.

    Attributes:
        cluster_id: The store that it is of.
        sequences: The last sequence seen of each shard, by index.
    """

    cluster_id: bytes
    sequences: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent(Generic[RowT]):
    """One event of a watch.

    Attributes:
        kind: What happened.
        key: The row's key; empty for RESYNC and SYNCED.
        row: The row; None but for PUT.
        version: The row's version; for DELETE the sequence of the delete.
        position: Where to resume after this event; None within a snapshot, which cannot be resumed.
    """

    kind: WatchKind
    key: bytes = b""
    row: RowT | None = None
    version: int = 0
    position: WatchPosition | None = None


async def follow(
    connection: Connection,
    options: ClientOptions,
    table: Table[RowT],
    *,
    prefix: bytes,
    position: WatchPosition | None,
    resync: bool,
) -> AsyncGenerator[WatchEvent[RowT], None]:
    """Yields events for ever; see ``AsyncGcsClient.watch``."""
    loop = asyncio.get_running_loop()
    attempt = 0
    silent_since_s = loop.time()
    while True:
        try:
            events = _follow_once(connection, table, prefix, position)
            async with contextlib.aclosing(events):
                async for event in events:
                    attempt, silent_since_s = 0, loop.time()
                    position = event.position
                    yield event
                    # The reader may have taken long; that is not the server's silence.
                    silent_since_s = loop.time()
        except (ResyncRequiredError, OutOfRangeError) as error:
            if not resync:
                raise
            logger.debug("table=%s watch starts again: %s", table.name, error)
            position = None
        except (
            GcsUnavailableError,
            GcsOverloadedError,
            StorageUnavailableError,
            NotReplicatedError,
        ) as error:
            if loop.time() - silent_since_s > options.watch_timeout_s:
                raise
            logger.debug("table=%s watch reconnects: %s", table.name, error)
        await asyncio.sleep(backoff_s(options, attempt))
        attempt += 1


async def _follow_once(
    connection: Connection, table: Table[RowT], prefix: bytes, position: WatchPosition | None
) -> AsyncGenerator[WatchEvent[RowT], None]:
    """The events of one stream, until it breaks or the server ends it."""
    request = gcs_pb2.WatchRequest(table=table.name, prefix=prefix)
    if position is None:
        yield WatchEvent(kind=WatchKind.RESYNC)
    else:
        request.cluster_id = position.cluster_id
        for shard, sequence in enumerate(position.sequences):
            request.cursors.add(shard=shard, sequence=sequence)
    async with contextlib.aclosing(connection.stream(request)) as replies:
        async for reply in replies:
            for event in reply.events:
                if position is not None:
                    sequences = list(position.sequences)
                    sequences[event.shard] = event.version
                    position = WatchPosition(position.cluster_id, tuple(sequences))
                exists = event.HasField("value")
                yield WatchEvent(
                    kind=WatchKind.PUT if exists else WatchKind.DELETE,
                    key=event.key,
                    row=table.decode(event.key, event.value, event.version) if exists else None,
                    version=event.version,
                    position=position,
                )
            if reply.cursors:
                by_shard = {cursor.shard: cursor.sequence for cursor in reply.cursors}
                position = WatchPosition(
                    connection.cluster_id, tuple(by_shard[shard] for shard in sorted(by_shard))
                )
            if reply.synced:
                yield WatchEvent(kind=WatchKind.SYNCED, position=position)
