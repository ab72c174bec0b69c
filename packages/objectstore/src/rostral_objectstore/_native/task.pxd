from libc.stdint cimport uint8_t, uint32_t, uint64_t

from rostral_objectstore._native.layout cimport dependency, task
from rostral_objectstore._native.segment cimport attachment

cdef uint32_t *returns_of(task *t) noexcept nogil
cdef dependency *dependencies_of(task *t) noexcept nogil
cdef char *payload_of(attachment *a, task *t) noexcept nogil
cdef void free_task(attachment *a, uint32_t loc) noexcept nogil
cdef bint make_ready(attachment *a, uint32_t loc) noexcept nogil

from rostral_objectstore._native.segment cimport Segment
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.table cimport ObjectTable

cdef class Tasks:
    cdef readonly Segment segment
    cdef ObjectTable table
    cdef uint32_t *unfinished  # ring of locators, oldest first
    cdef size_t first, count, capacity
    cdef size_t since_sweep

    cdef attachment *_open(self) except NULL
    cdef _remember(self, uint32_t loc)
    cdef void _make_producer(self, object_record *o, uint32_t loc)
    cdef void _abandon(self, attachment *a, uint32_t loc, uint32_t made)
    cdef void _take_back(self, attachment *a, uint32_t loc)
    cdef void _unmake_producer(self, attachment *a, uint32_t loc)
    cdef void _sweep_front(self, attachment *a) noexcept
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
