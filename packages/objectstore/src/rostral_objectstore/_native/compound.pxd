from libc.stdint cimport uint64_t

from rostral_objectstore._native.layout cimport compound

cdef uint64_t compound_size(uint64_t inband_size, list views, list contained) except 0
cdef write_compound(compound *c, bytes inband, list views, list contained)
cdef bint is_well_formed(compound *c, uint64_t size) noexcept nogil
cdef list references_in(compound *c)
cdef copy_in(char *target, const char *source, uint64_t size)
