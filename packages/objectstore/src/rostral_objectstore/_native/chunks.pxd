from libc.stdint cimport int64_t, uint64_t

from rostral_objectstore._native.segment cimport attachment

cdef bint claim_run(
    attachment *a, uint64_t first, uint64_t count, uint64_t paged) noexcept nogil
cdef int64_t claim_chunks(attachment *a, uint64_t count, uint64_t paged) noexcept nogil
cdef int64_t claim_highest(attachment *a, int kind) noexcept nogil
cdef void unclaim(attachment *a, uint64_t chunk) noexcept nogil
