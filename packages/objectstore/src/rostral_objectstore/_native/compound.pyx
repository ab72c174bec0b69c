"""Values of several parts: how references, in-band bytes and buffers lie in one block (layout.h).

Knows nothing of objects and their states: who calls has the block in its hands, and the record of
an object that nobody else reads yet.
"""
from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer, PyBUF_SIMPLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from rostral_objectstore._native.handle cimport Handle
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport contained as contained_ref
from rostral_objectstore._native.pages cimport copy_into
from rostral_objectstore._native.segment cimport attachment

cdef enum:
    # Above this a copy releases the GIL.
    LARGE_COPY = 1 << 20


cdef inline uint64_t aligned(uint64_t size) noexcept nogil:
    return (size + 63) & ~<uint64_t>63


cdef uint64_t *table_of(compound *c) noexcept nogil:
    """Offsets and sizes of the buffers, in pairs."""
    return <uint64_t *>(<char *>c + sizeof(compound) + c.contained_count * sizeof(contained_ref))


cdef uint64_t compound_size(uint64_t inband_size, list sizes, list contained) except 0:
    """Bytes of the block of a value with these parts; `sizes` are those of its buffers."""
    cdef uint64_t total = sizeof(compound) + len(contained) * sizeof(contained_ref), size
    total = aligned(total + len(sizes) * 16 + inband_size)
    for size in sizes:
        total += aligned(size)
    return total


cdef lay_out(attachment *a, compound *c, bytes inband, list sizes, list contained):
    """Writes all of a value but its buffers. It counts in nothing yet (`counted_count` is 0)."""
    cdef uint64_t inband_size = PyBytes_GET_SIZE(inband), start, size
    cdef contained_ref *refs = <contained_ref *>(<char *>c + sizeof(compound))
    cdef uint64_t *table
    cdef Handle inner
    cdef Py_ssize_t i
    c.contained_count, c.buffer_count = len(contained), len(sizes)
    c.inband_size = inband_size
    c.counted_count = c.released_count = 0
    for i, inner in enumerate(contained):
        memcpy(refs[i].id, inner.id_bytes, 20)
        refs[i].loc, refs[i].version = inner.loc, inner.version
    table = table_of(c)
    copy_in(a, <char *>(table + 2 * c.buffer_count), PyBytes_AS_STRING(inband), inband_size)
    start = aligned(<char *>(table + 2 * c.buffer_count) - <char *>c + inband_size)
    for i, size in enumerate(sizes):
        table[2 * i], table[2 * i + 1] = start, size
        start += aligned(size)


cdef copy_buffers(attachment *a, compound *c, Py_ssize_t first, list views):
    """Copies flat memoryviews to where `lay_out` has made room, from buffer number `first` on."""
    cdef uint64_t *entry = table_of(c) + 2 * first
    cdef Py_buffer view
    for item in views:
        if item.nbytes:
            PyObject_GetBuffer(item, &view, PyBUF_SIMPLE)
            try:
                copy_in(a, <char *>c + entry[0], <char *>view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
        entry += 2


cdef char *buffer_start(compound *c, uint32_t index) noexcept nogil:
    return <char *>c + table_of(c)[2 * index]


cdef uint64_t head_size(compound *c) noexcept nogil:
    """Bytes of all that lies before the buffers, but for their alignment."""
    return <char *>(table_of(c) + 2 * <uint64_t>c.buffer_count) - <char *>c + c.inband_size


cdef void note_head(short_head *h, compound *c, uint64_t size) noexcept nogil:
    """Writes the head of a block of `size` bytes into its record too, if it has room there."""
    cdef uint64_t *table = table_of(c)
    h.inband_size = 0
    if c.contained_count != 0 or c.buffer_count != 1 or c.inband_size > SHORT_INBAND_SIZE:
        return
    # A block from elsewhere may be laid out otherwise.
    if table[0] != aligned(head_size(c)) or size - table[0] - table[1] > 63:
        return
    h.padding = size - table[0] - table[1]
    memcpy(h.inband, table + 2, c.inband_size)
    h.inband_size = c.inband_size


cdef uint64_t noted_start(short_head *h) noexcept nogil:
    """Where the buffer of a value lies in its block, by its record."""
    return aligned(sizeof(compound) + 16 + h.inband_size)


cdef bint is_well_formed(compound *c, uint64_t size) noexcept nogil:
    """Whether a compound block from elsewhere has no references and stays within its size."""
    cdef uint64_t *table = <uint64_t *>(<char *>c + sizeof(compound))
    cdef uint64_t offset = sizeof(compound), i
    if size < sizeof(compound) or c.contained_count != 0 or c.counted_count != 0:
        return False
    if c.released_count != 0 or c.buffer_count > (size - offset) // 16:
        return False
    offset += c.buffer_count * <uint64_t>16
    if c.inband_size > size - offset:
        return False
    for i in range(c.buffer_count):
        if table[2 * i] > size or table[2 * i + 1] > size - table[2 * i]:
            return False
    return True


cdef list references_in(compound *c):
    """The ids of the objects that the value refers to."""
    cdef contained_ref *refs = <contained_ref *>(<char *>c + sizeof(compound))
    cdef uint32_t i
    return [PyBytes_FromStringAndSize(<char *>refs[i].id, 20) for i in range(c.contained_count)]


cdef copy_in(attachment *a, char *target, const char *source, uint64_t size):
    if size < LARGE_COPY:
        copy_into(a, target, source, size)
    else:
        with nogil:
            copy_into(a, target, source, size)
