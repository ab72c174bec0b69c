from libc.stdint cimport uint32_t

from rostral_objectstore._native.segment cimport Segment

cdef class ObjectBuffer:
    cdef Segment segment
    cdef uint32_t loc
    cdef uint32_t block  # of an aborted object: this buffer frees it
    cdef char *data
    cdef Py_ssize_t size
    cdef bint readonly
    cdef bint pinned     # or it is room for an object that is not in memory
    cdef object __weakref__

cdef ObjectBuffer new_buffer(
    Segment segment, uint32_t loc, char *data, Py_ssize_t size, bint readonly)
cdef ObjectBuffer room_buffer(
    Segment segment, uint32_t loc, char *data, Py_ssize_t size, bint readonly)
