from libc.stdint cimport uint64_t

from rostral_objectstore._native.segment cimport attachment

cdef bint has_pages(attachment *a, uint64_t chunk) noexcept nogil
cdef int reserve_chunks(attachment *a, uint64_t first, uint64_t count) noexcept nogil
cdef void drop_pages(attachment *a, uint64_t chunk) noexcept nogil
cdef void map_chunks(attachment *a, uint64_t first, uint64_t count) noexcept nogil
cdef void copy_into(attachment *a, char *target, const char *source, uint64_t size) noexcept nogil
cdef bint peek(attachment *a, const char *start, char *copy, uint64_t size) noexcept nogil
