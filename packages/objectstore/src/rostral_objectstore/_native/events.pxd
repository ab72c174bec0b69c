from libc.stdint cimport uint32_t

from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.segment cimport attachment

cdef void publish(attachment *a, uint32_t kind, object_record *o) noexcept nogil
