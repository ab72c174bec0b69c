from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from rostral_objectstore._native.handle cimport Handle, new_handle
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.segment cimport Segment, attachment

cdef class ObjectTable:
    cdef readonly Segment segment
    cdef object restore, make_room  # how to ask the daemon; None: this is the daemon's
    cdef object recover  # how to ask for what has no bytes on this node; None: nobody is to be
    cdef object written  # by locator: buffers of objects that this process created, until sealed

    cdef attachment *_open(self) except NULL
    cdef _check(self, Handle handle)
    cdef uint32_t _allocate(self, uint64_t size) except 0
    cdef uint32_t _record(self, bytes id, uint64_t state, uint64_t flags, bint *existed) except 0
    cdef uint32_t _new(
        self, const uint8_t *id, uint64_t state, uint64_t flags, bint *existed) except 0
    cdef Handle _adopt(self, object cls, uint32_t loc, uint32_t version, const char *id)
    cdef uint64_t _pin_sealed(self, Handle handle) except? 0
    cdef _publish(self, Handle handle, uint32_t flags)
    cdef tuple _read_block(self, uint32_t loc, object_record *o, bint error, uint32_t flags)
    cdef _fill(
        self, Handle handle, uint32_t kind, bytes inband, list buffers, list contained,
        uint32_t flags)
    cdef char *_create_compound(
        self, object_record *o, bytes inband, uint64_t size, list beside) except NULL
