from libc.stdint cimport uint32_t

from rostral_objectstore._native.segment cimport attachment

cdef void settle_freeing(attachment *a, uint32_t loc, uint32_t dead) noexcept nogil
