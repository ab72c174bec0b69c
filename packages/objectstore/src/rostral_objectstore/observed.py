"""What a store says about itself and its objects: a moment's view, typed.

The daemon builds these as plain messages; this file owns how they look to users.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from rostral_gcs.ids import ObjectID

StateName = Literal["pending", "created", "sealed", "spilled", "deleting", "lost", "freed"]


class StoreStats(msgspec.Struct, frozen=True, kw_only=True):
    """How full a store is. Sizes in bytes."""

    capacity_bytes: int
    """What objects can take, the store's own bookkeeping included."""
    used_bytes: int
    """Taken, counted in chunks of 64 KiB."""
    free_bytes: int
    largest_free_bytes: int = 0
    """The most of them in one piece."""
    fragmentation: float = 0.0
    """The share of the free bytes outside of that piece: 0 when all lie together."""
    moved_bytes: int = 0
    """Moved since the start, to bring free bytes together."""
    pinned_bytes: int = 0
    """Values of the objects that `pin` keeps."""
    pinned: int = 0
    """How many objects `pin` keeps."""
    objects: int = 0
    """In any state, those that are only waited for included."""
    clients: int
    """Attached processes, the daemon itself not counted."""
    spilled_bytes: int = 0
    """Values that have a copy on disk, in memory or not."""
    spilled_objects: int = 0
    spill_file_bytes: int = 0
    """What the spill files take, dead objects in them included."""
    spill_dirs: tuple[str, ...] = ()
    spill_writes: int = 0
    """Objects written to disk since the start."""
    evicted: int = 0
    """How often an object left memory for the disk, since the start."""
    restored: int = 0
    """How often one came back."""
    dropped_copies: int = 0
    """Copies of other nodes' objects that were dropped for room."""
    lost: int = 0
    """Spilled objects that the disk lost."""
    chunks: dict[str, int] = msgspec.field(default_factory=dict)
    """Chunks of 64 KiB by what they are used for."""


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One object of the store."""

    id: ObjectID
    state: StateName
    """`pending`: somebody waits for it, nobody has written it. `created`: being written."""
    size_bytes: int
    holders: tuple[int, ...]
    """Pids of the processes that hold it, the store itself not counted."""
    pinned: bool
    """The store itself keeps it, by `pin`."""
    containers: int
    """How many values of other objects refer to it."""
    is_error: bool
    """Its value is an exception."""


def _decode_id(kind: type, value: Any) -> Any:
    if kind is ObjectID:
        return ObjectID(value)
    raise NotImplementedError(f"{kind.__name__} is no part of what a store says")


def stats_of(message: dict[str, Any]) -> StoreStats:
    """The daemon's answer as users see it."""
    return msgspec.convert(message, StoreStats)


def objects_of(messages: list[dict[str, Any]]) -> list[ObjectInfo]:
    """The daemon's list of objects as users see it."""
    return msgspec.convert(messages, list[ObjectInfo], dec_hook=_decode_id)
