from libc.stdint cimport uint32_t, uint64_t

from rostral_objectstore._native.segment cimport Segment

cdef class PendingCalls:
    cdef readonly Segment segment
    cdef readonly uint32_t limit
    cdef uint64_t *calls  # locator of the task << 32 | its version
    cdef uint32_t count, capacity

    cdef int check(self) except -1
    cdef void add(self, uint32_t loc, uint64_t version) noexcept
    cdef void _drop_done(self) noexcept
