from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.segment cimport Segment, attachment

cdef uint32_t new_object(attachment *a, const uint8_t *id, uint64_t state, uint64_t flags, bint *existed) noexcept nogil
cdef bint hold(attachment *a, uint32_t loc, uint32_t version) noexcept nogil
cdef void drop(attachment *a, uint32_t loc) noexcept nogil
cdef void try_delete(attachment *a, uint32_t loc) noexcept nogil
cdef void finish_delete(attachment *a, object_record *o, uint64_t word) noexcept nogil
cdef bint held_by_none(object_record *o) noexcept nogil
cdef void wake_holders(attachment *a, uint32_t loc, bint everyone) noexcept nogil
cdef void index_remove(attachment *a, object_record *o, uint32_t loc) noexcept nogil

cdef class Handle:
    cdef Segment segment
    cdef readonly uint32_t loc
    cdef readonly uint32_t version
    cdef uint8_t id_bytes[20]
    cdef object __weakref__

cdef Handle new_handle(object cls, Segment segment, uint32_t loc)

cdef class ObjectTable:
    cdef readonly Segment segment
    cdef readonly uint64_t buffer_count

    cdef attachment *_open(self) except NULL
    cdef ObjectBuffer _buffer(self, uint32_t loc, char *data, Py_ssize_t size, bint readonly)
    cdef _fill(self, Handle handle, uint32_t kind, bytes inband, list buffers, list contained, uint32_t flags)
    cdef _undo(self, uint32_t loc)
    cdef bint _sleep(self, attachment *a, list rest, uint32_t target, int64_t deadline) except -1

cdef class ObjectBuffer:
    cdef ObjectTable table
    cdef uint32_t loc
    cdef char *data
    cdef Py_ssize_t size
    cdef bint readonly
