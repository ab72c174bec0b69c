"""The sweep: how the memory of a dead process comes back, with no doubt about any block of it.

The store daemon's part of a burial that is about blocks and chunks; what the dead one had begun
with objects and tasks is ended before, by repair.pyx. A block that a record names is in use, one
that a living process is just giving back is that process's affair, and every other block of the
dead one's chunks is free.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from rostral_objectstore._native.chunks cimport unclaim
from rostral_objectstore._native.heap cimport (
    ORPHAN_SLOT, class_size, collect_chunks, end_release, free_run, initial_word)
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.records cimport Records
from rostral_objectstore._native.segment cimport at, attachment
from rostral_objectstore._native.table cimport ObjectTable


def finish_release(ObjectTable table not None, uint32_t dead):
    """Ends what the dead one was giving back, exactly. To be called before the slot is DEAD.

    Until then nobody has taken its records over. So if one of them still names the block, whoever
    takes that one over will free it; and if none does, nobody but us knows of the block.
    """
    cdef attachment *a = &table.segment.a
    cdef uint32_t loc = load32(&a.slots[dead].releasing)
    if loc != 0:
        if not is_named(table, loc):
            end_release(a, loc, dead)
        store32(&a.slots[dead].releasing, 0)


cdef bint is_named(ObjectTable table, uint32_t loc):
    """Whether a record names the data block."""
    cdef attachment *a = &table.segment.a
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef uint32_t record = walk.next()
    while record != 0:
        if load32(&(<object_record *>at(a, record)).data) == loc:
            return True
        record = walk.next()
    walk = Records.over(table.segment, CHUNK_TASKS)
    record = walk.next()
    while record != 0:
        if load32(&(<task *>at(a, record)).payload) == loc:
            return True
        record = walk.next()
    return False


cdef void mark(attachment *a, uint64_t *marks, uint32_t loc) noexcept nogil:
    """Marks are one bit per 64 bytes of the chunks."""
    cdef uint64_t offset = <uint64_t>loc << 6, unit
    # What is read here was written by others: it is checked before it is used.
    if offset < a.hdr.chunks_offset or offset >= a.hdr.wide_offset:
        return
    unit = (offset - a.hdr.chunks_offset) >> 6
    marks[unit >> 6] |= <uint64_t>1 << (unit & 63)


cdef bint marked(uint64_t *marks, uint64_t unit) noexcept nogil:
    return marks[unit >> 6] >> (unit & 63) & 1


cdef void mark_named(ObjectTable table, uint64_t *marks, uint32_t dead):
    """Marks every data block that a record names, or that a living process is giving back.

    The slots come last: who gives a block back says so there before it wipes out the name.
    """
    cdef attachment *a = &table.segment.a
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef uint32_t loc, i
    cdef object_record *o
    cdef task *t
    loc = walk.next()
    while loc != 0:
        o = <object_record *>at(a, loc)
        mark(a, marks, load32(&o.data))
        loc = walk.next()
    walk = Records.over(table.segment, CHUNK_TASKS)
    loc = walk.next()
    while loc != 0:
        t = <task *>at(a, loc)
        mark(a, marks, load32(&t.payload))
        if (load64(&t.word) & 0xff) != TASK_FREE or ((load64(&t.word) >> 16) & 0xffff) != dead:
            mark(a, marks, loc)  # a task of more than a slab's block is a run of its own
        loc = walk.next()
    for i in range(MAX_SLOTS):
        if i != dead and load32(&a.slots[i].releasing) != 0:
            mark(a, marks, load32(&a.slots[i].releasing))


def sweep_chunks(ObjectTable table not None, uint32_t dead):
    """Frees the blocks of a dead process that nothing names, and makes its slabs nobody's.

    From the last chunk to the first: the head of a run says whose the bodies are, so it goes last.
    """
    cdef attachment *a = &table.segment.a
    cdef uint64_t count = a.hdr.chunk_count
    cdef uint64_t *marks = <uint64_t *>calloc(count * CHUNK_LOCATORS // 64, 8)
    cdef uint64_t chunk, word, orphans = 0
    cdef uint32_t kind, class_, owner
    if marks == NULL:
        raise MemoryError
    try:
        mark_named(table, marks, dead)
        for chunk in range(count - 1, -1, -1):
            word = load64(&a.chunk_words[chunk])
            kind, class_, owner = word & 0xff, (word >> 8) & 0xff, (word >> 16) & 0xffff
            if owner == ORPHAN_SLOT:
                orphans += kind != CHUNK_SLAB
            elif owner != dead:
                continue
            elif kind == CHUNK_CLAIMED:
                free_bodies(a, chunk, word)
                cas64(&a.chunk_words[chunk], word, 0)
            elif kind == CHUNK_BODY:
                if has_lost_head(a, chunk, word, dead):
                    cas64(&a.chunk_words[chunk], word, 0)
            elif kind == CHUNK_RUN:
                if not marked(marks, chunk * CHUNK_LOCATORS):
                    free_run(a, chunk)
            elif kind in (CHUNK_SLAB, CHUNK_TASKS, CHUNK_OBJECTS):
                if kind == CHUNK_SLAB:
                    free_unmarked(a, marks, chunk, class_)
                store64(&a.chunk_words[chunk], CHUNK_WORD(kind, class_, ORPHAN_SLOT, 1))
                orphans += kind != CHUNK_SLAB
        store64(&a.hdr.orphan_chunks, orphans)
        store64(&a.hdr.first_free_chunk, 0)
        store64(&a.hdr.last_free_chunk[0], count - 1)
        store64(&a.hdr.last_free_chunk[1], count - 1)
    finally:
        free(marks)
    free_empty_orphans(table)


cdef void free_unmarked(
        attachment *a, uint64_t *marks, uint64_t chunk, uint32_t class_) noexcept nogil:
    cdef uint32_t size = class_size(class_), block
    cdef uint64_t bit
    for block in range(CHUNK_SIZE // size):
        if not marked(marks, chunk * CHUNK_LOCATORS + block * (size >> 6)):
            bit = <uint64_t>1 << (block & 63)
            and64(&a.chunk_records[chunk].freed[block >> 6], ~bit)
            and64(&a.chunk_records[chunk].used[block >> 6], ~bit)


cdef void free_bodies(attachment *a, uint64_t chunk, uint64_t word) noexcept nogil:
    """Of a run that the dead one was taking apart: the bodies it had not come to, whosever."""
    cdef uint64_t i, body
    for i in range((word >> 32), 1, -1):
        if chunk + i - 1 >= a.hdr.chunk_count:
            continue
        body = load64(&a.chunk_words[chunk + i - 1])
        # A body of this very run: any other with this distance would have its head here as well.
        if (body & 0xff) == CHUNK_BODY and body >> 32 == i - 1:
            cas64(&a.chunk_words[chunk + i - 1], body, 0)


cdef bint has_lost_head(attachment *a, uint64_t chunk, uint64_t word, uint32_t dead) noexcept nogil:
    """Whether a run was being put together by the dead one: who else takes it apart, ends that."""
    cdef uint64_t distance = word >> 32, head
    if distance > chunk:
        return True
    head = load64(&a.chunk_words[chunk - distance])
    if (head & 0xff) == CHUNK_CLAIMED:
        return ((head >> 16) & 0xffff) == dead
    return (head & 0xff) not in (CHUNK_RUN, CHUNK_QUEUE) or head >> 32 <= distance


def free_empty_orphans(ObjectTable table not None):
    """Gives back the data chunks of dead processes once their last block is free.

    Returns how many still have some.
    """
    cdef attachment *a = &table.segment.a
    cdef uint64_t chunk, word
    cdef uint32_t size, i, orphan
    cdef bint empty
    left = 0
    for chunk in range(a.hdr.chunk_count):
        word = load64(&a.chunk_words[chunk])
        if (word & 0xff) != CHUNK_SLAB or ((word >> 16) & 0xffff) != ORPHAN_SLOT:
            continue
        size = class_size((word >> 8) & 0xff)
        orphan = <uint32_t>chunk
        collect_chunks(a, &orphan, 1)
        empty = True
        for i in range(16):
            if load64(&a.chunk_records[chunk].used[i]) != initial_word(size, i):
                empty = False
                break
        if empty:
            unclaim(a, chunk)
        else:
            left += 1
    return left
