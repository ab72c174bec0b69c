from libc.stdint cimport uint32_t, uint64_t

from rostral_objectstore._native.segment cimport Segment, attachment

cdef class Records:
    cdef attachment *a
    cdef Segment segment
    cdef uint64_t chunk
    cdef uint32_t kind, block, block_size
    cdef bint used  # of the block that `next` gave last

    @staticmethod
    cdef Records over(Segment segment, uint32_t kind)
    cdef uint32_t next(self) noexcept nogil
    cdef uint32_t next_of_all(self) noexcept nogil
