from libc.stdint cimport uint32_t, uint64_t

from rostral_objectstore._native.handle cimport Handle
from rostral_objectstore._native.layout cimport stream, task
from rostral_objectstore._native.segment cimport Segment, attachment
from rostral_objectstore._native.table cimport ObjectTable

# the submitter of the task, or its heir
cdef void begin_stream(attachment *a, task *t, uint32_t room) noexcept nogil
cdef void close_stream(attachment *a, task *t) noexcept nogil
cdef bint end_stream(attachment *a, task *t) noexcept nogil
cdef StreamReader new_reader(ObjectTable table, object cls, Handle completion, uint32_t loc)

# who settles the task of a dead claimer
cdef void undo_item(attachment *a, task *t, uint32_t dead) noexcept nogil

cdef class StreamReader:
    cdef ObjectTable table
    cdef Segment segment  # the table's
    cdef object cls
    cdef readonly Handle completion
    cdef Handle expected  # of the next item, once somebody waited for it
    cdef uint32_t loc     # the task's record, which stays until the stream is closed
    cdef bint is_closed
    cdef task *_task(self) except NULL
    cdef bint _has_next(self, attachment *a, stream *s) except -1
    cdef Handle _hold_next(self, attachment *a, task *t, uint64_t index)
    cdef _expect(self)
    cdef _close(self)

cdef class StreamWriter:
    cdef ObjectTable table
    cdef uint32_t loc
    cdef readonly uint64_t index
    cdef stream *_stream(self) except NULL
    cdef bint _pass_over(self, stream *s) noexcept
