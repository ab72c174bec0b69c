from libc.stdint cimport int64_t, uint32_t, uint64_t

from rostral_objectstore._native.layout cimport dependency, object as object_record, queue
from rostral_objectstore._native.segment cimport Segment, attachment

cdef bint push(attachment *a, queue *q, uint32_t task_loc) noexcept nogil
cdef uint32_t claim_next(attachment *a, queue *q, bint *empty) noexcept nogil
cdef void wake_worker(attachment *a, queue *q) noexcept nogil
cdef bint looks_empty(queue *q) noexcept nogil
cdef bint may_start(dependency *d, uint32_t count) noexcept nogil
cdef uint32_t resolved_mark(attachment *a, uint32_t object_loc) noexcept nogil
cdef void resolve_dependents(attachment *a, uint64_t head, uint32_t mark) noexcept nogil
cdef uint64_t *cells(queue *q) noexcept nogil
cdef bint enqueue(attachment *a, queue *q, uint32_t task_loc, uint64_t word) noexcept nogil
cdef void mark_queued(attachment *a, queue *q, uint64_t *marks) noexcept nogil
cdef bint restack(attachment *a, uint32_t object_loc, uint64_t sought) noexcept nogil
cdef bint stack(
    attachment *a, object_record *o, dependency *d, uint64_t element) noexcept nogil
cdef queue *queue_at(attachment *a, uint32_t loc) noexcept nogil

cdef class Queue:
    cdef readonly Segment segment
    cdef readonly uint32_t loc
    cdef queue *q
