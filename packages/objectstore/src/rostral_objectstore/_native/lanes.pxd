from libc.stdint cimport uint32_t

from rostral_objectstore._native.layout cimport queue
from rostral_objectstore._native.segment cimport attachment

cdef uint32_t claim_first(attachment *a, queue *base, bint *empty) noexcept nogil
cdef bint looks_idle(queue *base) noexcept nogil
