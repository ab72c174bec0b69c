from libc.stdint cimport uint32_t

from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.segment cimport attachment

cdef uint32_t count_reference(
    attachment *a, object_record *o, uint32_t index, bint up) noexcept nogil
cdef void settle_count(attachment *a, uint32_t dead) noexcept nogil
