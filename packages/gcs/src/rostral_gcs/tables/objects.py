"""The object table: each object's size and the nodes that hold it (OSDI'18 §4.2.1, §4.2.3).

This file owns ObjectRow and the form of a location: one row for each object and node, so that
adding and removing a holder are plain writes that need no read before them, may be repeated, and
never conflict. An object's row is put together from its location rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from rostral_gcs.errors import InvalidArgumentError
from rostral_gcs.ids import NodeID, ObjectID

__all__ = ["OBJECTS", "ObjectLocation", "ObjectRow", "ObjectTable", "join_locations"]

_SIZE_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectLocation:
    """One holder of one object, as stored and as watched.

    Attributes:
        object_id: The object.
        node_id: A node that holds it.
        size_bytes: Its size.
        version: The stored row's version; 0 for a row not stored yet.
    """

    object_id: ObjectID
    node_id: NodeID
    size_bytes: int
    version: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRow:
    """One object: its size and all its holders.

    Attributes:
        object_id: The object.
        size_bytes: Its size.
        node_ids: The nodes that hold it; never empty.
    """

    object_id: ObjectID
    size_bytes: int
    node_ids: frozenset[NodeID]


class ObjectTable:
    """Codec of the object table; keys are object id and node id."""

    name = "objects"

    def key_of(self, row: ObjectLocation) -> bytes:
        """Object id, then node id."""
        return row.object_id.binary() + row.node_id.binary()

    def encode(self, row: ObjectLocation) -> bytes:
        """The size, 8 bytes little-endian."""
        if not 0 <= row.size_bytes < 2**48:
            raise InvalidArgumentError(
                f"size of object {row.object_id.hex()} is {row.size_bytes}; allowed: 0 to 2**48",
                hint="correct the size",
            )
        return row.size_bytes.to_bytes(_SIZE_BYTES, "little")

    def decode(self, key: bytes, value: bytes, version: int) -> ObjectLocation:
        """The row again."""
        if len(key) != ObjectID.SIZE + NodeID.SIZE or len(value) != _SIZE_BYTES:
            raise InvalidArgumentError(
                f"not a row of table objects: key of {len(key)}, value of {len(value)} bytes",
                hint="write it with this client",
            )
        return ObjectLocation(
            object_id=ObjectID(key[: ObjectID.SIZE]),
            node_id=NodeID(key[ObjectID.SIZE :]),
            size_bytes=int.from_bytes(value, "little"),
            version=version,
        )


def join_locations(locations: Iterable[ObjectLocation]) -> dict[ObjectID, ObjectRow]:
    """Objects from their locations."""
    holders: dict[ObjectID, set[NodeID]] = {}
    sizes: dict[ObjectID, int] = {}
    for location in locations:
        holders.setdefault(location.object_id, set()).add(location.node_id)
        sizes[location.object_id] = location.size_bytes
    return {
        object_id: ObjectRow(
            object_id=object_id, size_bytes=sizes[object_id], node_ids=frozenset(node_ids)
        )
        for object_id, node_ids in holders.items()
    }


OBJECTS = ObjectTable()
