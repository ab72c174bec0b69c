from libc.stdint cimport int64_t, uint32_t

from rostral_objectstore._native.segment cimport Segment, attachment

cdef Py_ssize_t wait_sealed(
    Segment segment, list handles, Py_ssize_t ready_count, int64_t timeout_ns,
    bint stop_at_error) except -1
cdef int sleep_until(
    attachment *a, list rest, uint32_t target, int64_t deadline, bint stop_at_error) except -1
cdef tuple split_sealed(Segment segment, list handles, Py_ssize_t ready_max)
cdef Py_ssize_t find_misfit(Segment segment, object cls, list handles) except -2
cdef bint all_of_segment(Segment segment, list handles) except -1
