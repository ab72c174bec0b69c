"""Objects of this node whose bytes are on another one: sealed so, brought here, made again.

To everybody but who reads the bytes such an object is SEALED, as one on disk is. It is SPILLED with
the flag SPILLED and without ON_DISK: nothing of it is in memory, and the daemon has no file of it.
Who reads it asks the scheduler, which knows where the bytes are, or how to have them made again.

Tricky aspects:
 1. Only the daemon brings bytes here (as residence.pyx does) and calls an object back to life. Both
    happen under its interpreter's lock: none meets the other half-way.
 2. An object that comes back to life is PENDING again. Tasks that wait for it stack themselves
    before that, once its `dependents` are open: who seals it again starts them. Were they opened
    afterwards, it could be sealed in between, and they would wait for good. A daemon that dies
    between the two leaves a SPILLED object with open dependents, which its successor closes.
 3. Only values without references are elsewhere: there is no stub, and nothing to uncount.
"""
from libc.stdint cimport uint32_t, uint64_t

from rostral_objectstore._native.buffer cimport ObjectBuffer, room_buffer
from rostral_objectstore._native.compound cimport is_well_formed, note_head
from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.handle cimport Handle
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.objects cimport begin_write, publish_value
from rostral_objectstore._native.queue cimport resolve_dependents, resolved_mark
from rostral_objectstore._native.records cimport Records
from rostral_objectstore._native.segment cimport at, attachment, is_object
from rostral_objectstore._native.table cimport ObjectTable

from rostral_objectstore._native import residence

cdef enum:
    VALUE_FLAGS = OBJECT_FLAG_ERROR | OBJECT_FLAG_COMPOUND


cdef bint is_away(uint64_t word) noexcept nogil:
    return (word & 0xff) == OBJECT_SPILLED and (
        (word >> 8) & (OBJECT_FLAG_SPILLED | OBJECT_FLAG_ON_DISK)) == OBJECT_FLAG_SPILLED


def set_recovery(ObjectTable table not None, recover):
    """How this process comes by objects that have no bytes on this node.

    `recover` is called with the handle of an object that is elsewhere or was lost. It returns when
    it is worth to look again: the bytes are here, or the object is to be made once more and is
    PENDING. It raises ObjectLostError when it never will.
    """
    table.recover = recover


def is_elsewhere(ObjectTable table not None, Handle handle not None):
    """Whether the object is sealed, and its bytes are not on this node."""
    return is_away(load64(&(<object_record *>at(table._open(), handle.loc)).word))


def facts(ObjectTable table not None, Handle handle not None):
    """(kind, flags as read_raw has them, size) of a sealed object, wherever its bytes are."""
    cdef object_record *o = <object_record *>at(table._open(), handle.loc)
    return o.kind, (load64(&o.word) >> 8) & VALUE_FLAGS, o.size


def seal_elsewhere(ObjectTable table not None, Handle handle not None, uint32_t kind,
                   uint32_t flags, uint64_t size):
    """Seals an object that is expected, with its bytes on another node.

    Args:
        kind, flags, size: as `facts` gave them there.

    False: it is sealed already, or somebody is about to.
    """
    cdef attachment *a = table._open()
    cdef object_record *o = <object_record *>at(a, handle.loc)
    table._check(handle)
    if not begin_write(a, handle.loc):
        return False
    o.kind, o.size = kind, size
    return publish_value(
        a, handle.loc, OBJECT_SPILLED, (flags & VALUE_FLAGS) | OBJECT_FLAG_SPILLED)


def begin_bringing(ObjectTable table not None, Handle handle not None):
    """The daemon: room for the bytes of an object that is elsewhere, or was lost from the disk.

    Returns a writable buffer; dropping it gives the room back. None: its bytes are here, or it is
    being made again. May wait for room. Raises ObjectStoreFullError.
    """
    cdef attachment *a = table._open()
    cdef object_record *o = <object_record *>at(a, handle.loc)
    cdef uint64_t size = o.size
    cdef uint32_t block = table._allocate(size if size else 1)
    cdef ObjectBuffer buffer = room_buffer(
        table.segment, handle.loc, <char *>at(a, block), size, False)
    buffer.block = block
    _find_again(o)
    return buffer if is_away(load64(&o.word)) else None


cdef void _find_again(object_record *o) noexcept nogil:
    """What the disk has lost is as good as elsewhere, if it has no references."""
    cdef uint64_t word = load64(&o.word)
    while (word & 0xff) == OBJECT_LOST and o.data == 0 and not cas64(
            &o.word, word, (word & ~<uint64_t>0xff) | OBJECT_SPILLED):
        word = load64(&o.word)


def finish_bringing(ObjectTable table not None, Handle handle not None,
                    ObjectBuffer buffer not None, uint32_t kind, uint32_t flags):
    """The daemon: the bytes are here, and the object is read from memory from here on.

    False: it is not elsewhere any more. Raises ValueError when they are not what the object is.
    """
    cdef object_record *o = <object_record *>at(table._open(), handle.loc)
    cdef uint64_t word = load64(&o.word)
    if not is_away(word):
        return False
    if kind != o.kind or flags != ((word >> 8) & VALUE_FLAGS):
        raise ValueError(f"object {handle.hex()} is of another kind there than it was")
    if flags & OBJECT_FLAG_COMPOUND:
        if not is_well_formed(<compound *>buffer.data, o.size):
            raise ValueError(f"the bytes of object {handle.hex()} are not what they should be")
        note_head(<short_head *>o.value, <compound *>buffer.data, o.size)
    return residence.finish_restore(table, handle, buffer)


def revive(ObjectTable table not None, Handle handle not None):
    """The daemon: an object whose bytes are nowhere is PENDING again, for who makes it anew.

    False: it is not elsewhere, nor lost; or its value refers to others.
    """
    cdef attachment *a = table._open()
    cdef object_record *o = <object_record *>at(a, handle.loc)
    cdef uint64_t word
    _find_again(o)
    if not is_away(load64(&o.word)) or o.data != 0:
        return False
    cas64(&o.dependents, DEPENDENTS_CLOSED, 0)
    FAILPOINT(a.plan, REVIVE_STEP_OPENED)
    while True:
        # We hold it: a deleter who is at it steps back, and the flag WIDE may be added.
        word = load64(&o.word)
        if (word & 0xff) == OBJECT_SPILLED and cas64(&o.word, word, OBJECT_WORD(
                OBJECT_PENDING, (word >> 8) & (OBJECT_FLAG_WIDE | OBJECT_FLAG_KEPT),
                a.my_slot, word >> 32)):
            FAILPOINT(a.plan, REVIVE_STEP_PENDING)
            return True


def gone(ObjectTable table not None, list keys not None):
    """Those of the (locator, version) pairs whose objects are deleted, or given up by hand."""
    cdef attachment *a = table._open()
    cdef uint32_t loc, version
    cdef uint64_t word
    missing = []
    for key in keys:
        loc, version = key
        word = load64(&(<object_record *>at(a, loc)).word) if is_object(a, loc) else 0
        if <uint32_t>(word >> 32) != version or (word & 0xff) in (OBJECT_FREE, OBJECT_FREED):
            missing.append(key)
    return missing


def undo_reviving(ObjectTable table not None):
    """A daemon that takes over: closes what the dead one had opened and not called back."""
    cdef attachment *a = table._open()
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef uint32_t loc = walk.next()
    cdef uint64_t dependents
    cdef object_record *o
    while loc != 0:
        o = <object_record *>at(a, loc)
        if is_away(load64(&o.word)) and load64(&o.dependents) != DEPENDENTS_CLOSED:
            dependents = exchange64(&o.dependents, DEPENDENTS_CLOSED)
            if dependents > DEPENDENTS_CLOSED:
                resolve_dependents(a, dependents, resolved_mark(a, loc))
        loc = walk.next()
