"""What to do about bytes that are not there: no room for them, or they are not in memory.

Knows nothing of what they are.
"""
from libc.stdint cimport uint64_t

from rostral_objectstore._native.handle cimport Handle
from rostral_objectstore._native.heap cimport count_free_chunks
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.segment cimport attachment

from rostral_objectstore.errors import (
    ObjectLostError, ObjectStoreFullError, OutOfMemoryError, StoreUnavailableError)


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


cdef recover_lost(object recover, Handle handle):
    """For a reader of a LOST object: whoever can has it made again, or found. ObjectLostError."""
    if recover is None:
        raise ObjectLostError(
            f"object {handle.hex()} was spilled, and the disk has lost it",
            hint="the store's log says what is wrong", object_ref_hex=handle.hex())
    recover(handle)


cdef bring_back(object restore, object recover, Handle handle, uint64_t word):
    """Has the bytes of a SPILLED object brought into memory, from disk or another node. Blocks."""
    if restore is None:
        raise StoreUnavailableError(f"object {handle.hex()} is on disk")
    if recover is not None and not (word >> 8) & OBJECT_FLAG_ON_DISK and (
            (word >> 8) & OBJECT_FLAG_SPILLED):
        recover(handle)
        return
    try:
        restore(handle)
    except ObjectLostError as lost:
        if recover is None:
            raise
        try:
            recover(handle)
        except ObjectLostError as error:
            # The disk's own error says more, unless its task could not run again.
            if type(error) is ObjectLostError:
                raise lost from None
            raise
