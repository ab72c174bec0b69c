"""The map of the store's chunks, as core/compaction.py wants it: what is free, what may move."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.objects cimport is_pinned
from rostral_objectstore._native.records cimport Records
from rostral_objectstore._native.segment cimport at, attachment
from rostral_objectstore._native.table cimport ObjectTable

cdef enum:
    # core.compaction.ExtentKind
    EXTENT_FREE = 0
    EXTENT_MOVABLE = 1
    EXTENT_FIXED = 2


def chunk_map(ObjectTable table not None):
    """Returns (extents, runs): a moment's view, without a lock.

    extents: (first chunk, length, 0 free or 1 movable or 2 fixed), in order and without holes; free
    ones, and fixed ones, are as long as can be. runs: by first chunk of each movable run, (loc,
    version, id) of the object whose bytes it has: sealed, and pinned by nobody.
    """
    cdef attachment *a = table._open()
    cdef uint64_t count = a.hdr.chunk_count, i = 0, length, word
    cdef uint32_t *movers = <uint32_t *>calloc(count, sizeof(uint32_t))
    cdef object_record *o
    cdef int kind, last_kind = -1
    cdef uint64_t last_first = 0
    cdef list extents = []
    cdef dict runs = {}
    if movers == NULL:
        raise MemoryError
    try:
        find_movers(Records.over(table.segment, CHUNK_OBJECTS), movers)
        while i < count:
            word = load64(&a.chunk_words[i])
            length, kind = 1, EXTENT_FIXED
            if word == 0:
                kind = EXTENT_FREE
            elif (word & 0xff) == CHUNK_RUN and movers[i] != 0:
                o = <object_record *>at(a, movers[i])
                length = word >> 32
                if 0 < length <= count - i and length == (o.size + CHUNK_SIZE - 1) // CHUNK_SIZE:
                    kind = EXTENT_MOVABLE
                    runs[i] = (
                        movers[i], <uint32_t>(load64(&o.word) >> 32),
                        PyBytes_FromStringAndSize(<char *>o.id, 20))
                else:
                    length = 1
            if kind != last_kind or kind == EXTENT_MOVABLE:
                if last_kind >= 0:
                    extents.append((last_first, i - last_first, last_kind))
                last_first, last_kind = i, kind
            i += length
        extents.append((last_first, count - last_first, last_kind))
    finally:
        free(movers)
    return extents, runs


cdef void find_movers(Records walk, uint32_t *movers):
    """By first chunk of a run: the object that may be moved out of it."""
    cdef attachment *a = walk.a
    cdef object_record *o
    cdef uint64_t word, offset
    cdef uint32_t loc
    loc = walk.next()
    while loc != 0:
        o = <object_record *>at(a, loc)
        word = load64(&o.word)
        offset = <uint64_t>load32(&o.data) << 6
        if (word & 0xff) == OBJECT_SEALED and not (word >> 8) & OBJECT_FLAG_INLINE:
            if a.hdr.chunks_offset <= offset < a.hdr.wide_offset and not is_pinned(a, o):
                offset -= a.hdr.chunks_offset
                if offset % CHUNK_SIZE == 0:
                    movers[offset // CHUNK_SIZE] = loc
        loc = walk.next()
