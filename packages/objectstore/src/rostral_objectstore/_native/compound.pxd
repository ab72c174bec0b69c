from libc.stdint cimport uint32_t, uint64_t

from rostral_objectstore._native.layout cimport compound, short_head
from rostral_objectstore._native.segment cimport attachment

cdef uint64_t compound_size(uint64_t inband_size, list sizes, list contained) except 0
cdef lay_out(attachment *a, compound *c, bytes inband, list sizes, list contained)
cdef copy_buffers(attachment *a, compound *c, Py_ssize_t first, list views)
cdef uint64_t *table_of(compound *c) noexcept nogil
cdef uint64_t head_size(compound *c) noexcept nogil
cdef void note_head(short_head *h, compound *c, uint64_t size) noexcept nogil
cdef uint64_t noted_start(short_head *h) noexcept nogil
cdef char *buffer_start(compound *c, uint32_t index) noexcept nogil
cdef bint is_well_formed(compound *c, uint64_t size) noexcept nogil
cdef list references_in(compound *c)
cdef copy_in(attachment *a, char *target, const char *source, uint64_t size)
