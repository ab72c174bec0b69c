"""The closed set of tables that the server knows, and each one's rules.

This file owns names, durability classes and routing to shards. It knows no row types, so that the
server treats values as opaque bytes; the few that it must understand are decoded by their own file.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from rostral_gcs.errors import NoSuchTableError

__all__ = ["TABLES", "Durability", "TableSpec", "table_spec"]


class Durability(enum.Enum):
    """When a write is acknowledged."""

    CRITICAL = "critical"
    """When it is safe on disk: survives a power cut."""

    LINEAGE = "lineage"
    """When the operating system has it: survives the death of the process, not of the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """One table's rules.

    Attributes:
        name: As it appears in requests.
        number: As it is stored; never reused.
        durability: When its writes are acknowledged.
        immutable: A row, once written, can only be written again with the same bytes.
        watchable: Its changes are kept in the history. Not for large blobs.
        route_size: How many leading bytes of the key choose the shard; 0 for all. Rows of one
            entity share them and so lie together.
        key_size: Bytes of every key; 0 when they differ. Only such tables can be written by
            columns.
        appended: Its rows go into the lineage log: written in bulk, overwritten but never deleted,
            and moved to files when they are old. Not watchable.
        pinned: All its rows lie in shard 0, however many shards there are.
    """

    name: str
    number: int
    durability: Durability
    immutable: bool = False
    watchable: bool = True
    route_size: int = 0
    key_size: int = 0
    appended: bool = False
    pinned: bool = False


_CRITICAL: Final = Durability.CRITICAL
_LINEAGE: Final = Durability.LINEAGE

TABLES: Final[dict[str, TableSpec]] = {
    spec.name: spec
    for spec in (
        TableSpec(name="nodes", number=1, durability=_CRITICAL),
        TableSpec(name="jobs", number=2, durability=_CRITICAL),
        TableSpec(
            name="functions", number=3, durability=_CRITICAL, immutable=True, watchable=False
        ),
        TableSpec(
            name="function_chunks", number=4, durability=_CRITICAL, immutable=True, watchable=False
        ),
        TableSpec(name="actors", number=5, durability=_CRITICAL),
        TableSpec(name="actor_names", number=6, durability=_CRITICAL),
        # 16 bytes of task id: all objects of a task, and their holders, in one shard.
        TableSpec(name="objects", number=7, durability=_LINEAGE, route_size=16, key_size=36),
        TableSpec(name="kv", number=8, durability=_CRITICAL),
        TableSpec(name="placement_groups", number=9, durability=_CRITICAL),
        TableSpec(name="placement_group_names", number=10, durability=_CRITICAL),
        # 16 bytes of actor id: all checkpoints of an actor in one shard.
        TableSpec(name="checkpoints", number=11, durability=_CRITICAL, route_size=16, key_size=24),
        # One row, in shard 0: the table of shards of a store that has grown.
        TableSpec(name="shards", number=14, durability=_CRITICAL, pinned=True),
        TableSpec(
            name="tasks",
            number=12,
            durability=_LINEAGE,
            watchable=False,
            key_size=16,
            appended=True,
        ),
        TableSpec(
            name="events",
            number=13,
            durability=_LINEAGE,
            watchable=False,
            key_size=16,
            appended=True,
        ),
    )
}


def table_spec(name: str) -> TableSpec:
    """The table of that name.

    Raises:
        NoSuchTableError: There is none; the message lists the names.
    """
    spec = TABLES.get(name)
    if spec is None:
        raise NoSuchTableError(
            f"no table {name[:80]!r}; tables are {', '.join(TABLES)}", hint="check the spelling"
        )
    return spec
