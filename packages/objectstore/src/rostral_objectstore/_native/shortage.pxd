from libc.stdint cimport uint64_t

from rostral_objectstore._native.segment cimport attachment

cdef no_room(attachment *a, uint64_t size)
