from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from rostral_objectstore._native.handle cimport Handle, new_handle
from rostral_objectstore._native.segment cimport Segment, attachment

cdef class ObjectTable:
    cdef readonly Segment segment
    cdef readonly uint64_t buffer_count
    cdef object written  # by locator: buffers of objects that this process created, until sealed

    cdef attachment *_open(self) except NULL
    cdef ObjectBuffer _buffer(self, uint32_t loc, char *data, Py_ssize_t size, bint readonly)
    cdef _check(self, Handle handle)
    cdef uint32_t _allocate(self, uint64_t size) except 0
    cdef _fill(
        self, Handle handle, uint32_t kind, bytes inband, list buffers, list contained,
        uint32_t flags)
    cdef _write_compound(self, Handle handle, bytes inband, list buffers, list contained)

cdef class ObjectBuffer:
    cdef ObjectTable table
    cdef uint32_t loc
    cdef uint32_t block  # of an aborted object: this buffer frees it
    cdef char *data
    cdef Py_ssize_t size
    cdef bint readonly
    cdef object __weakref__
