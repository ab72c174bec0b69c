"""What the daemon asks of the segment when memory is short: how much is free, and what is gone.

Only looks, and asks others; who leaves memory is decided in core/, and residence.pyx does it.
"""
from libc.stdint cimport uint32_t, uint64_t

from rostral_objectstore._native.buffer cimport new_buffer
from rostral_objectstore._native.handle cimport Handle
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.objects cimport pin, unpin
from rostral_objectstore._native.segment cimport Segment, at, attachment, is_object, wake_slot
from rostral_objectstore._native.table cimport ObjectTable


def free_chunks(Segment segment not None):
    """(free chunks, the most of them in a row). A moment's view."""
    cdef attachment *a = &segment.a
    cdef uint64_t i, free = 0, run = 0, longest = 0
    for i in range(a.hdr.chunk_count):
        if load64(&a.chunk_words[i]) & 0x7:
            run = 0
            continue
        free += 1
        run += 1
        if run > longest:
            longest = run
    return free, longest


def ask_for_slabs(Segment segment not None):
    """Asks everybody for empty slabs, and wakes those who sleep. Waits for nobody."""
    cdef attachment *a = &segment.a
    cdef uint32_t i
    add32(&a.hdr.trim_wanted, 1)
    for i in range(MAX_SLOTS):
        if i != a.my_slot and load32(&a.slots[i].sleeping) != 0:
            wake_slot(a, i)


def gone(ObjectTable table not None, list keys not None):
    """Those of the (locator, version) pairs whose objects are deleted, lost, or given up."""
    cdef attachment *a = table._open()
    cdef uint32_t loc, version
    cdef uint64_t word
    missing = []
    for key in keys:
        loc, version = key
        if is_object(a, loc):
            word = load64(&(<object_record *>at(a, loc)).word)
            if <uint32_t>(word >> 32) == version and (
                    (word & 0xff) not in (OBJECT_FREE, OBJECT_LOST, OBJECT_FREED)):
                continue
        missing.append(key)
    return missing


def peek(ObjectTable table not None, Handle handle not None):
    """(kind, flags, ObjectBuffer) of a sealed object's block, pinned; it counts as no use of it.

    None when its bytes are not in memory, or not in a block.
    """
    cdef attachment *a = table._open()
    cdef object_record *o = <object_record *>at(a, handle.loc)
    cdef uint64_t word
    if not pin(a, handle.loc):
        return None
    try:
        word = load64(&o.word)
        if (word >> 8) & OBJECT_FLAG_INLINE or o.data == 0:
            return None
        return o.kind, (word >> 8) & (OBJECT_FLAG_ERROR | OBJECT_FLAG_COMPOUND), new_buffer(
            table.segment, handle.loc, <char *>at(a, load32(&o.data)), o.size, True)
    finally:
        unpin(a, handle.loc)
