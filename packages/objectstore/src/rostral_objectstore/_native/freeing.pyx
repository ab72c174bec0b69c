"""Giving values up by hand, though somebody holds them: from then on, reading them is an error.

Tricky aspects:
 1. What is FREED stays so: whoever comes to the object later, its producer included, finds it
    sealed. So nothing is run again to make it.
 2. Only the daemon takes values out of memory and back. It does that under its interpreter's lock,
    so one that is SPILLED is for the daemon to give up, and it never meets itself half-way.
 3. What is not sealed yet is marked, in any state, and becomes FREED when it is sealed (`seal`):
    its record must stay as it is for the task that will write it.
 4. A view pins its object's block: the block goes with the last pin (`give_back`).
"""
from libc.stdint cimport uint32_t, uint64_t

from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.handle cimport Handle
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.objects cimport give_back, meet_deleter
from rostral_objectstore._native.segment cimport at, attachment
from rostral_objectstore._native.table cimport ObjectTable


cdef bint give_up(attachment *a, uint32_t loc) noexcept nogil:
    """Gives up the value of an object that this process holds. False: the daemon must do it."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t word, freed
    cdef uint32_t state, spins = 0
    while True:
        word = load64(&o.word)
        state = word & 0xff
        if state == OBJECT_FREED:
            return True
        if state == OBJECT_PENDING or state == OBJECT_CREATED:
            if cas64(&o.word, word, word | <uint64_t>OBJECT_FLAGS_FREED << 8):
                FAILPOINT(a.plan, FREE_STEP_PROMISED)
                return True
        elif state == OBJECT_DELETING:
            spins = meet_deleter(a, loc, word, spins)  # he will see that we hold it
        elif state == OBJECT_SPILLED and a.me.kind != KIND_STORE:
            return False
        else:
            freed = word | OBJECT_FREED | <uint64_t>(
                OBJECT_FLAGS_FREED | OBJECT_FLAG_ERROR) << 8
            if cas64(&o.word, word, freed):
                FAILPOINT(a.plan, FREE_STEP_MARKED)
                give_back(a, loc)
                return True


def free(ObjectTable table not None, Handle handle not None):
    """Gives up an object's value, whoever holds the object. Does not block. Safe to repeat.

    An object that is not sealed yet becomes FREED when it is. False: its bytes are on disk, and
    only the daemon can.
    """
    cdef attachment *a = table._open()
    if handle.segment is not table.segment:
        raise ValueError(f"object {handle.hex()} belongs to another store")
    return give_up(a, handle.loc)


cdef void settle_freeing(attachment *a, uint32_t loc, uint32_t dead) noexcept nogil:
    """The daemon: gives back the block of a FREED object that a dead process pinned or was at."""
    cdef object_record *o = <object_record *>at(a, loc)
    cas32(&o.next, dead + 1, 0)
    give_back(a, loc)
