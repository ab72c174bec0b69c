"""Waiting for objects to be sealed: a short spin where a core is free for it, then a futex.

The other half is `wake_holders` in objects.pyx; layout.h says what the words in the slot mean.
Waiting for tasks is in task.pyx.
"""
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t

from rostral_objectstore._native.handle cimport Handle
from rostral_objectstore._native.heap cimport trim
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.segment cimport (
    Segment, at, attachment, clear_awake, may_spin, poke_scheduler, set_awake)

from rostral_objectstore.errors import StoreClosedError

cdef extern from "<errno.h>" nogil:
    enum: EINTR

cdef extern from "Python.h":
    # Borrowed, and so without a count up and down for each of thousands of handles.
    PyObject *PyList_GET_ITEM(object items, Py_ssize_t i)
    void *Py_TYPE(object item)

cdef enum:
    # How long a waiter spins before it sleeps, if it has a core: a little longer than it takes to
    # wake a sleeper on an idle virtual core (25 us or more, measured), so that a steady ping-pong
    # never sleeps.
    SPIN_NS = 60000
    SPINS_PER_CLOCK = 64
    # The longest that a Ctrl-C can go unnoticed.
    SIGNAL_SLICE_NS = 100_000_000
    # No process has two billion handles of one object.
    MARK = 0x40000000


cdef inline bint is_sealed(attachment *a, uint32_t loc) noexcept nogil:
    return IS_READY(load64(&(<object_record *>at(a, loc)).word))


cdef bint all_of_segment(Segment segment, list handles) except -1:
    """Whether every item is a handle of the segment's objects."""
    cdef Py_ssize_t i
    for i in range(len(handles)):
        if not isinstance(<object>PyList_GET_ITEM(handles, i), Handle):
            return False
        if (<Handle>PyList_GET_ITEM(handles, i)).segment is not segment:
            return False
    return True


cdef Py_ssize_t count_sealed(attachment *a, list handles, Py_ssize_t enough):
    """How many are sealed; stops counting at `enough`."""
    cdef Py_ssize_t i, count = 0
    for i in range(len(handles)):
        if count >= enough:
            break
        count += is_sealed(a, (<Handle>PyList_GET_ITEM(handles, i)).loc)
    return count


cdef Py_ssize_t wait_sealed(Segment segment, list handles, Py_ssize_t ready_count,
                            int64_t timeout_ns, bint stop_at_error) except -1:
    """`ObjectTable.wait`: all handles are of this segment."""
    cdef attachment *a = &segment.a
    cdef Py_ssize_t n = len(handles), ready = 0
    cdef int64_t deadline = -1
    cdef uint64_t word
    cdef list pending = handles
    cdef list rest
    cdef Py_ssize_t i
    cdef uint32_t target
    cdef Handle handle
    if ready_count > n:
        raise ValueError(f"cannot wait for {ready_count} of {n} objects")
    if timeout_ns >= 0:
        deadline = monotonic_ns()
        deadline = deadline + timeout_ns if timeout_ns < INT64_MAX - deadline else -1
    while True:
        # Objects mostly come in order, so look from the front and, in the end, wait for the
        # last one needed.
        rest = []
        if not stop_at_error:
            # Enough of them, and the others need not be looked at.
            i = count_sealed(a, pending, ready_count - ready)
            if i >= ready_count - ready:
                return ready + i
        for handle in pending:
            word = load64(&(<object_record *>at(a, handle.loc)).word)
            if IS_READY(word):
                ready += 1
                if stop_at_error and (word >> 8) & OBJECT_FLAG_ERROR:
                    return ready
            else:
                rest.append(handle)
        if ready >= ready_count or timeout_ns == 0:
            return ready
        if deadline >= 0 and monotonic_ns() >= deadline:
            return ready
        pending = rest
        target = WAIT_ANY
        if len(rest) == 1 or n == ready_count:
            target = (<Handle>rest[len(rest) - 1]).loc
        sleep_until(a, rest, target, deadline, stop_at_error)
        if a.closed:
            raise StoreClosedError("another thread closed the store during the wait")


cdef int sleep_until(attachment *a, list rest, uint32_t target, int64_t deadline,
                     bint stop_at_error) except -1:
    """Spins, then sleeps, until `target` (or any of `rest`) may be sealed, or a signal came."""
    cdef slot *me = a.me
    cdef uint32_t seen
    cdef int64_t now, spin_end, timeout
    cdef int error = 0, spins
    cdef bint found = False
    cdef Handle handle
    if target != WAIT_ANY:
        with nogil:
            now = monotonic_ns()
            spin_end = now + SPIN_NS
            while not found and now < spin_end and may_spin(a):
                for spins in range(SPINS_PER_CLOCK):
                    cpu_pause()
                    if is_sealed(a, target):
                        found = True
                        break
                now = monotonic_ns()
        if found:
            return 0
    # One that came while we spun would not interrupt the sleep.
    PyErr_CheckSignals()
    add32(&me.sleeping, 1)
    # Two threads that wait for different objects share one word: then any object wakes both.
    store32(&me.wait_loc, target if load32(&me.sleeping) == 1 else WAIT_ANY)
    seen = load32(&me.futex)
    if target != WAIT_ANY:
        found = is_sealed(a, target)
    if target == WAIT_ANY or (stop_at_error and not found):
        # An error may be any of them, whichever we wait for.
        for handle in rest:
            if is_sealed(a, handle.loc):
                found = True
                break
    if not found:
        if load32(&me.running) != 0:
            store32(&me.blocked, 1)
            poke_scheduler(a)
        with nogil:
            # A signal that came after the last look and before the sleep interrupts neither.
            timeout = SIGNAL_SLICE_NS
            if deadline >= 0:
                timeout = min(timeout, deadline - monotonic_ns())
                if timeout < 0:
                    timeout = 0
            clear_awake(a)
            error = futex_wait(&me.futex, seen, timeout)
            set_awake(a)
        if load32(&me.running) != 0:
            store32(&me.blocked, 0)
        if load32(&a.hdr.trim_wanted) != a.trim_seen:
            trim(a)
    if sub32(&me.sleeping, 1) == 1:
        store32(&me.wait_loc, WAIT_NOTHING)
    if error == EINTR:
        PyErr_CheckSignals()
    return 0


cdef tuple split_sealed(Segment segment, list handles, Py_ssize_t ready_max):
    """`ObjectTable.split`: all handles are of this segment."""
    cdef attachment *a = &segment.a
    cdef list ready = [], others = []
    cdef Py_ssize_t i, n = len(handles), first = 0
    if ready_max <= 0:
        return ready, handles[:]
    for i in range(n):
        if is_sealed(a, (<Handle>PyList_GET_ITEM(handles, i)).loc):
            others += handles[first:i]
            ready.append(handles[i])
            first = i + 1
            if len(ready) == ready_max:
                break
    others += handles[first:]
    return ready, others


cdef Py_ssize_t find_misfit(Segment segment, object cls, list handles) except -2:
    """`ObjectTable.first_misfit`.

    Marks each object's counter of holds for a moment, which nobody else can see: the counters are
    this process's own, and the GIL is held throughout.
    """
    cdef attachment *a = &segment.a
    cdef Py_ssize_t n = len(handles), i, found = -1, marked = n
    cdef uint32_t *held
    for i in range(n):
        if Py_TYPE(<object>PyList_GET_ITEM(handles, i)) != <void *>cls:
            found = i
        elif (<Handle>PyList_GET_ITEM(handles, i)).segment is not segment:
            found = i
        else:
            held = &a.held[(<Handle>PyList_GET_ITEM(handles, i)).loc]
            if held[0] & MARK == 0:
                held[0] |= MARK
                continue
            found = i
        marked = i
        break
    for i in range(marked):
        a.held[(<Handle>PyList_GET_ITEM(handles, i)).loc] &= ~<uint32_t>MARK
    return found
