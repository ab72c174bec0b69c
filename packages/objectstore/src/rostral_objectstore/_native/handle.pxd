from libc.stdint cimport uint8_t, uint32_t

from rostral_objectstore._native.segment cimport Segment

cdef class Handle:
    cdef Segment segment
    cdef readonly uint32_t loc
    cdef readonly uint32_t version
    cdef uint8_t id_bytes[20]
    cdef object __weakref__

cdef Handle new_handle(object cls, Segment segment, uint32_t loc)
