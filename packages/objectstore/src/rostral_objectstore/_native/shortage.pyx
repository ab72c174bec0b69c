"""What to say when a block found no room: whether the store is full, or the machine.

Knows nothing of what the room was for.
"""
from libc.stdint cimport uint64_t

from rostral_objectstore._native.heap cimport count_free_chunks
from rostral_objectstore._native.layout cimport CHUNK_SIZE
from rostral_objectstore._native.segment cimport attachment

from rostral_objectstore.errors import ObjectStoreFullError, OutOfMemoryError


cdef no_room(attachment *a, uint64_t size):
    """The error of an allocation of `size` bytes that failed just now."""
    capacity = a.hdr.chunk_count * CHUNK_SIZE
    if size > capacity:
        return ObjectStoreFullError(
            f"an object of {size} bytes cannot fit: the whole store has {capacity} bytes",
            hint="start the store with more memory (--memory, object_store_memory)")
    used = capacity - count_free_chunks(a) * CHUNK_SIZE
    if a.machine_full:
        a.machine_full = False
        return OutOfMemoryError(
            f"the machine has no memory left for {size} bytes: the store has {used} of the "
            f"{capacity} bytes that it may take",
            hint="free memory on the machine, or start the store with less")
    return ObjectStoreFullError(
        f"no room in the store for {size} bytes in one piece: {used} of {capacity} bytes are "
        "in use",
        hint="drop references no longer needed, or start the store with more memory")
