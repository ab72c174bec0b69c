"""The rows by which global schedulers are found: who serves where, in the GCS's key-value table.

This file owns the rows' namespace and form. A scheduler rewrites its row a few times in its lease;
one whose row has not changed for a lease, on the clock of who looks, is dead. A row says nothing
about loads: the schedulers have no state that would be worth telling.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

import msgspec

from rostral_gcs import AsyncGcsClient
from rostral_gcs.errors import ConflictError

__all__ = ["NAMESPACE", "SchedulerRow", "list_schedulers", "reap"]

NAMESPACE: Final = "rostral.global_schedulers"


class SchedulerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One global scheduler.

    Attributes:
        key: Its id: random, new at each start.
        address: ``host:port``.
        pid: Its process, for people.
        beat: Counts the rewrites.
        lease_s: After which without one it is dead.
    """

    key: bytes
    address: str
    pid: int = 0
    beat: int = 0
    lease_s: float = 5.0


async def write(gcs: AsyncGcsClient, row: SchedulerRow) -> None:
    """Writes the row. Raises GcsError."""
    await gcs.kv_put(row.key, msgspec.msgpack.encode(row), namespace=NAMESPACE)


async def list_schedulers(gcs: AsyncGcsClient) -> dict[SchedulerRow, int]:
    """All rows, with their versions; those of dead schedulers included.

    Raises:
        GcsError: The GCS does not answer.
    """
    rows: dict[SchedulerRow, int] = {}
    for key in await gcs.kv_keys(namespace=NAMESPACE):
        found = await gcs.kv_get(key, namespace=NAMESPACE)
        if found is not None:
            with contextlib.suppress(msgspec.DecodeError):
                rows[msgspec.msgpack.decode(found.value, type=SchedulerRow)] = found.version
    return rows


@dataclass(slots=True)
class _Seen:
    version: int
    since_s: float


class Reaper:
    """Notices rows that nobody rewrites any more."""

    def __init__(self) -> None:
        self._seen: dict[bytes, _Seen] = {}

    def dead(self, rows: dict[SchedulerRow, int], now_s: float) -> dict[bytes, int]:
        """Keys and versions of rows that have not changed for their lease."""
        self._seen = {
            row.key: seen
            for row, version in rows.items()
            for seen in [self._seen.get(row.key)]
            if seen is not None and seen.version == version
        } | {
            row.key: _Seen(version, now_s)
            for row, version in rows.items()
            if (known := self._seen.get(row.key)) is None or known.version != version
        }
        return {
            row.key: version
            for row, version in rows.items()
            if now_s - self._seen[row.key].since_s > row.lease_s
        }


async def reap(gcs: AsyncGcsClient, dead: dict[bytes, int]) -> None:
    """Deletes rows of the dead, unless one has been written meanwhile. Raises GcsError."""
    for key, version in dead.items():
        with contextlib.suppress(ConflictError):
            await gcs.kv_delete(key, namespace=NAMESPACE, expected_version=version)
