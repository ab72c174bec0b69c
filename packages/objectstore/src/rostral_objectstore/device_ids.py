"""Ids of host objects, which say of a device array where it is and about how large.

A value that has device arrays in it refers to their host objects (`gpu/buffers.py`). So whoever
sees what a value refers to, and knows no devices, a scheduler above all, sees by the ids on which
of the node's devices it is best read. These are hints: an id that means nothing of the kind, or a
device by another spelling of its name, costs a copy and no more.

An id is the mark, a digest of the device's name, the bits of the array's size, and random bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

__all__ = ["digest_of", "host_object_id", "is_host_object", "name_of", "size_of", "sizes_by_device"]

_MARK = b"\xfeHO"
_DIGEST_BYTES = 4
_RANDOM_BYTES = 12
_SIZE_AT = len(_MARK) + _DIGEST_BYTES


def name_of(visible: str | None, index: int) -> str:
    """What CUDA calls the device that has this number among those that it shows.

    Args:
        visible: what `CUDA_VISIBLE_DEVICES` says; None: nothing.
        index: of the device.
    """
    named = [name.strip() for name in (visible or "").split(",") if name.strip()]
    return named[index] if index < len(named) else str(index)


def digest_of(device_name: str) -> bytes:
    """What ids have of a device's name."""
    return hashlib.blake2b(device_name.encode(), digest_size=_DIGEST_BYTES).digest()


def host_object_id(device_name: str, size_bytes: int) -> bytes:
    """A new id for the host object of an array of that size, in bytes."""
    return b"".join(
        (
            _MARK,
            digest_of(device_name),
            size_bytes.bit_length().to_bytes(1, "little"),
            os.urandom(_RANDOM_BYTES),
        )
    )


def is_host_object(object_id: bytes) -> bool:
    """Whether the id is of a host object."""
    return object_id.startswith(_MARK)


def size_of(object_id: bytes) -> int:
    """About how many bytes the array has: more than half of it. 0: it is no host object's id."""
    return (1 << object_id[_SIZE_AT]) - 1 if is_host_object(object_id) else 0


def sizes_by_device(object_ids: Iterable[bytes]) -> dict[bytes, int]:
    """About how many bytes of device arrays there are on each device, by its name's digest."""
    sizes: dict[bytes, int] = {}
    for object_id in object_ids:
        if is_host_object(object_id):
            digest = object_id[len(_MARK) : _SIZE_AT]
            sizes[digest] = sizes.get(digest, 0) + size_of(object_id)
    return sizes
