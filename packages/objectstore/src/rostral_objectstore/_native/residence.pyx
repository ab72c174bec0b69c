"""Where the bytes of a sealed object are: taken out of memory, brought back, moved.

The store daemon's half of the protocol in docs/design.md; `pin` in objects.pyx is the readers'.
Only the daemon calls these, one at a time for any object, with a handle that keeps the object held.
What is written to disk and what goes first is decided elsewhere.

Tricky aspects:
 1. The word says SPILLED before the pins are looked at, and a reader pins before it looks at the
    word: one of the two sees the other.
 2. The flag SPILLED is set after that, when the block is about to go. An object in state SPILLED
    without the flag still has its whole block: its state can be put back by whoever survives.
 3. A new block is the daemon's own until it has a name: had it died before, its sweep would free
    the block; from then on the object's deletion does.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from rostral_objectstore._native.buffer cimport ObjectBuffer, room_buffer
from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.handle cimport Handle
from rostral_objectstore._native.heap cimport allocate, allocate_at, release_block, release_named
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport contained as contained_ref, object as object_record
from rostral_objectstore._native.objects cimport holder_bits, is_pinned, wake_holders
from rostral_objectstore._native.pages cimport copy_into
from rostral_objectstore._native.records cimport Records
from rostral_objectstore._native.segment cimport at, attachment
from rostral_objectstore._native.table cimport ObjectTable


def candidates(ObjectTable table not None, uint64_t start, uint64_t limit, uint64_t size_min=0):
    """Sealed objects in memory that lie in a block of their own: whom to evict, spill or move.

    Args:
        start: 0, or what the last call returned, to go on from there.
        limit: look at no more than this many chunks of records (of 512 objects each).
        size_min: bytes; smaller ones are left out.

    Returns:
        (next start, or 0 at the end; list of (loc, version, id, size, last_used, held by others,
        pinned)). A moment's view.
    """
    cdef attachment *a = table._open()
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef uint32_t loc, i
    cdef uint64_t word, bits, chunk = start, chunks = 0
    cdef object_record *o
    walk.chunk = start
    found = []
    loc = walk.next()
    while loc != 0:
        if walk.chunk != chunk:
            chunk = walk.chunk
            chunks += 1
            if chunks > limit:
                return chunk, found
        o = <object_record *>at(a, loc)
        word = load64(&o.word)
        if (word & 0xff) == OBJECT_SEALED and o.data != 0 and o.size >= size_min:
            bits = 0
            for i in range(SLOT_WORDS):
                bits |= holder_bits(a, o, i) & ~own_bit(a, i)
            found.append((
                loc, <uint32_t>(word >> 32), PyBytes_FromStringAndSize(<char *>o.id, 20), o.size,
                o.last_used, bits != 0 or CONTAINERS_COUNT(o.containers) != 0, is_pinned(a, o)))
        loc = walk.next()
    return 0, found


cdef inline uint64_t own_bit(attachment *a, uint32_t i) noexcept nogil:
    return <uint64_t>1 << (a.my_slot & 63) if a.my_slot >> 6 == i else 0


cdef bint leave(attachment *a, object_record *o) noexcept nogil:
    """SEALED to SPILLED, unless somebody has it pinned. Then no reader looks at the block."""
    cdef uint64_t word = load64(&o.word)
    if (word & 0xff) != OBJECT_SEALED or (word >> 8) & OBJECT_FLAG_INLINE or o.data == 0:
        return False
    if is_pinned(a, o):
        return False
    if not cas64(&o.word, word, (word & ~<uint64_t>0xff) | OBJECT_SPILLED):
        return False
    if is_pinned(a, o):
        come_back(o)
        return False
    return True


cdef void come_back(object_record *o) noexcept nogil:
    """SPILLED to SEALED. The flag WIDE may be added by others meanwhile."""
    cdef uint64_t word = load64(&o.word)
    while (word & 0xff) == OBJECT_SPILLED and not cas64(&o.word, word, (
            word & ~(<uint64_t>0xff | <uint64_t>OBJECT_FLAG_SPILLED << 8)) | OBJECT_SEALED):
        word = load64(&o.word)


cdef void set_flags(object_record *o, uint64_t flags) noexcept nogil:
    cdef uint64_t word = load64(&o.word)
    while not cas64(&o.word, word, word | flags << 8):
        word = load64(&o.word)


cdef void rename(attachment *a, object_record *o, uint32_t loc) noexcept nogil:
    """Frees the object's block; `loc`, which has no name yet, takes its place. 0: nothing does."""
    cdef uint32_t old = o.data
    release32(&a.me.releasing, old)
    FAILPOINT(a.plan, RENAME_STEP_SAID)
    store32(&o.data, loc)
    FAILPOINT(a.plan, RENAME_STEP_NAMED)
    if old != 0:
        release_block(a, old)
        FAILPOINT(a.plan, RENAME_STEP_FREED)
    release32(&a.me.releasing, 0)


def evict(ObjectTable table not None, Handle handle not None):
    """Takes a sealed object's bytes out of memory; the caller has a copy on disk.

    Returns False when somebody has the bytes pinned, or they are not in memory. A stub stays of a
    value that refers to other objects, for which there must be room.
    """
    cdef attachment *a = table._open()
    cdef object_record *o = <object_record *>at(a, handle.loc)
    cdef uint32_t stub = 0
    cdef uint64_t size
    cdef compound *c
    if not leave(a, o):
        return False
    FAILPOINT(a.plan, EVICT_STEP_LEFT)
    c = <compound *>at(a, o.data)
    if (load64(&o.word) >> 8) & OBJECT_FLAG_COMPOUND and c.contained_count != 0:
        size = sizeof(compound) + c.contained_count * sizeof(contained_ref)
        stub = allocate(a, size)
        if stub == 0:
            come_back(o)
            return False
        memcpy(at(a, stub), c, size)
        FAILPOINT(a.plan, EVICT_STEP_STUB)
    set_flags(o, OBJECT_FLAG_SPILLED | OBJECT_FLAG_ON_DISK)
    FAILPOINT(a.plan, EVICT_STEP_FLAGGED)
    rename(a, o, stub)
    FAILPOINT(a.plan, EVICT_STEP_FREED)
    return True


def block_size(ObjectTable table not None, Handle handle not None):
    """Bytes of the block of a sealed object, spilled or not; 0 when it has none."""
    cdef object_record *o = <object_record *>at(table._open(), handle.loc)
    return 0 if (load64(&o.word) >> 8) & OBJECT_FLAG_INLINE else o.size


def begin_restore(ObjectTable table not None, Handle handle not None):
    """Room for the bytes of a spilled object: a writable buffer; `finish_restore` publishes it.

    Dropping the buffer gives the room back. None: no room.
    """
    cdef attachment *a = table._open()
    cdef object_record *o = <object_record *>at(a, handle.loc)
    cdef uint32_t block = allocate(a, o.size if o.size else 1)
    cdef ObjectBuffer buffer
    if block == 0:
        return None
    buffer = room_buffer(table.segment, handle.loc, <char *>at(a, block), o.size, False)
    buffer.block = block
    return buffer


def finish_restore(
        ObjectTable table not None, Handle handle not None, ObjectBuffer buffer not None):
    """The bytes are back: from here on the object is read from memory. False: it is not spilled."""
    cdef attachment *a = table._open()
    cdef object_record *o = <object_record *>at(a, handle.loc)
    cdef uint32_t block = buffer.block
    if buffer.loc != handle.loc or block == 0:
        raise ValueError("the buffer is not one that begin_restore gave for this object")
    if (load64(&o.word) & 0xff) != OBJECT_SPILLED:
        return False
    buffer.block = 0
    rename(a, o, block)
    FAILPOINT(a.plan, RESTORE_STEP_RENAMED)
    o.last_used = a.hdr.tick
    come_back(o)
    FAILPOINT(a.plan, RESTORE_STEP_BACK)
    return True


def undo_leaving(ObjectTable table not None):
    """A daemon that takes over: what the dead one was about to take out of memory is SEALED again.

    Returns the objects that have a copy on disk, be they in memory or not: a set of (loc, version).
    """
    cdef attachment *a = table._open()
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef uint32_t loc = walk.next()
    cdef uint64_t word
    cdef object_record *o
    on_disk = set()
    while loc != 0:
        o = <object_record *>at(a, loc)
        word = load64(&o.word)
        if (word >> 8) & OBJECT_FLAG_ON_DISK:
            on_disk.add((loc, <uint32_t>(word >> 32)))
        if (word & 0xff) == OBJECT_SPILLED and not (word >> 8) & OBJECT_FLAG_SPILLED:
            come_back(o)
        loc = walk.next()
    return on_disk


def keep(ObjectTable table not None, Handle handle not None, bint kept):
    """Marks an object that the store itself holds, for a daemon that takes over; or unmarks it."""
    cdef object_record *o = <object_record *>at(table._open(), handle.loc)
    cdef uint64_t word = load64(&o.word), flag = <uint64_t>OBJECT_FLAG_KEPT << 8
    while not cas64(&o.word, word, word | flag if kept else word & ~flag):
        word = load64(&o.word)


def kept(ObjectTable table not None):
    """The objects that a former daemon held for its clients: list of (loc, version, id)."""
    cdef attachment *a = table._open()
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef uint32_t loc = walk.next()
    cdef object_record *o
    found = []
    while loc != 0:
        o = <object_record *>at(a, loc)
        if (load64(&o.word) >> 8) & OBJECT_FLAG_KEPT:
            found.append((loc, <uint32_t>(load64(&o.word) >> 32),
                          PyBytes_FromStringAndSize(<char *>o.id, 20)))
        loc = walk.next()
    return found


def forget_copy(ObjectTable table not None, Handle handle not None):
    """The copy on disk of an object that is in memory is gone."""
    cdef object_record *o = <object_record *>at(table._open(), handle.loc)
    cdef uint64_t word = load64(&o.word)
    while not cas64(&o.word, word, word & ~(<uint64_t>OBJECT_FLAG_ON_DISK << 8)):
        word = load64(&o.word)


def lose(ObjectTable table not None, Handle handle not None):
    """A spilled object whose copy on disk is gone or wrong: reading it is an error from here on."""
    cdef attachment *a = table._open()
    cdef object_record *o = <object_record *>at(a, handle.loc)
    cdef uint64_t word = load64(&o.word), lost
    while (word & 0xff) == OBJECT_SPILLED:
        lost = (word & ~(<uint64_t>0xff | <uint64_t>OBJECT_FLAG_ON_DISK << 8)) | OBJECT_LOST
        if cas64(&o.word, word, lost):
            FAILPOINT(a.plan, LOSE_STEP_MARKED)
            wake_holders(a, handle.loc, True)
            return True
        word = load64(&o.word)
    return False


def move(ObjectTable table not None, Handle handle not None, uint64_t target):
    """Moves a sealed object's block, one of whole chunks, to chunk `target` and those after it.

    Returns False when there is no room, or somebody has the bytes pinned.
    """
    cdef attachment *a = table._open()
    cdef object_record *o = <object_record *>at(a, handle.loc)
    cdef uint32_t old = o.data, new
    if (load64(&o.word) & 0xff) != OBJECT_SEALED or old == 0 or is_pinned(a, o):
        return False
    new = allocate_at(a, o.size, target)
    if new == 0:
        return False
    with nogil:
        copy_into(a, <char *>at(a, new), <char *>at(a, old), o.size)
    FAILPOINT(a.plan, MOVE_STEP_COPIED)
    if not leave(a, o):
        release_named(a, &new)
        return False
    FAILPOINT(a.plan, MOVE_STEP_LEFT)
    rename(a, o, new)
    FAILPOINT(a.plan, MOVE_STEP_RENAMED)
    come_back(o)
    return True


def holdings(ObjectTable table not None):
    """By slot: (objects, bytes of their values) that the process holds, itself included."""
    cdef attachment *a = table._open()
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef uint64_t[MAX_SLOTS] counts, sizes
    cdef uint32_t loc, i, index
    cdef uint64_t bits
    cdef object_record *o
    for i in range(MAX_SLOTS):
        counts[i] = sizes[i] = 0
    loc = walk.next()
    while loc != 0:
        o = <object_record *>at(a, loc)
        for i in range(SLOT_WORDS):
            bits = holder_bits(a, o, i)
            while bits != 0:
                index = i * 64 + lowest_bit(bits)
                counts[index] += 1
                sizes[index] += o.size
                bits &= bits - 1
        loc = walk.next()
    return {i: (counts[i], sizes[i]) for i in range(MAX_SLOTS) if counts[i]}
