from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from rostral_objectstore._native.layout cimport (
    OBJECT_FREED, OBJECT_SEALED, OBJECT_SPILLED, dependency, load64, object as object_record, queue,
    task)
from rostral_objectstore._native.pending cimport PendingCalls
from rostral_objectstore._native.segment cimport Segment, at, attachment
from rostral_objectstore._native.table cimport ObjectTable

cdef enum:
    RETURNS_MAX = 3000

cdef uint32_t *returns_of(task *t) noexcept nogil
cdef dependency *dependencies_of(task *t) noexcept nogil
cdef char *payload_of(attachment *a, task *t) noexcept nogil
cdef bint is_linked(task *t) noexcept nogil
cdef void unlink(attachment *a, task *t) noexcept nogil
cdef void free_task(attachment *a, uint32_t loc) noexcept nogil
cdef void link_rest(attachment *a, uint32_t loc) noexcept nogil
cdef bint make_ready(attachment *a, uint32_t loc) noexcept nogil
cdef void unmake_producer(attachment *a, uint32_t object_loc, uint32_t task_loc) noexcept nogil

cdef inline bint has_all_results(attachment *a, task *t) noexcept nogil:
    """Whether the task has results, and each was sealed."""
    cdef uint32_t i
    cdef object_record *o
    for i in range(t.return_count):
        o = <object_record *>at(a, returns_of(t)[i])
        # An object that has been deleted since, and its record reused, was sealed too.
        if memcmp(o.id, t.id, 16) == 0 and (load64(&o.word) & 0xff) not in (
                OBJECT_SEALED, OBJECT_SPILLED, OBJECT_FREED):
            return False
    return t.return_count > 0

cdef class TaskContext:
    cdef uint8_t id[16]
    cdef uint64_t child_count
    cdef uint32_t put_count

    cdef void _derive(self, uint8_t *child, uint64_t salt=*) noexcept

cdef class Tasks:
    cdef readonly Segment segment
    cdef ObjectTable table
    cdef uint32_t *unfinished  # ring of locators, oldest first
    cdef size_t first, count, capacity
    cdef size_t since_sweep
    cdef public bint tells_done  # finished ones are freed by `take_done` (forwarding.pyx) alone
    # of the task that is being submitted
    cdef uint64_t parent
    cdef int64_t deadline

    cdef attachment *_open(self) except NULL
    cdef _reserve(self)
    cdef void _remember(self, uint32_t loc) noexcept
    cdef list _submit(
        self, object cls, const uint8_t *id, queue *q, uint32_t queue_loc, uint64_t function,
        bytes payload, list dependencies, list nested, uint32_t return_count, uint32_t retries,
        uint32_t flags, bint in_order, PendingCalls pending, uint32_t room=*)
    cdef _submit_stream(
        self, object cls, TaskContext context, queue *q, uint32_t queue_loc, uint64_t function,
        bytes payload, list dependencies, list nested, uint32_t retries, uint32_t flags,
        bint in_order, PendingCalls pending, uint32_t room)
    cdef void _take_back(self, attachment *a, uint32_t loc) noexcept
    cdef void _sweep_front(self, attachment *a) noexcept
    cdef bint _spin(
        self, attachment *a, queue *q, uint32_t queue_loc, uint32_t mailbox,
        list watched) except -1
    cdef int _sleep(
        self, attachment *a, queue *q, uint32_t queue_loc, uint32_t mailbox, int64_t timeout_ns,
        list watched, int64_t seen_before) except -1
    cdef ClaimedTask _claimed(self, attachment *a, uint32_t loc)

cdef class ClaimedTask:
    cdef readonly uint32_t loc
    cdef readonly bytes id
    cdef readonly uint64_t function
    cdef readonly object payload
    cdef readonly tuple returns       # locators
    cdef readonly tuple dependencies  # locators; held by the submitter until the task is finished
    cdef readonly uint32_t flags
    cdef readonly uint32_t attempt
    cdef readonly uint32_t submitter
    cdef readonly uint32_t queue
