"""The calls that one handle of an actor has submitted and that are not done: counted up to a limit.

Nobody is told when a call is done; who wants to add one to a full count looks at those it has. A
task's record is type-stable and its word has a version, so a look at one that was freed long ago
does no harm, and tells that it was.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp

from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.segment cimport Segment, at, attachment

from rostral_objectstore.errors import PendingCallsLimitError


cdef bint is_pending(attachment *a, uint32_t loc, uint64_t version) noexcept nogil:
    """Whether the call is neither done nor has given its results: who has them may call again."""
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word)
    cdef uint32_t count = t.return_count, last
    cdef object_record *o
    if word >> 32 != version or (word & 0xff) in (TASK_FREE, TASK_DONE):
        return False
    if count == 0:
        return True
    # Results are sealed in their order.
    last = (<uint32_t *>(<char *>t + sizeof(task)))[count - 1]
    if load64(&t.word) >> 32 != version:
        return False
    o = <object_record *>at(a, last)
    # One that was deleted since, and its record used anew, was sealed too.
    return not IS_READY(load64(&o.word)) and memcmp(o.id, t.id, 16) == 0


cdef class PendingCalls:
    """Up to `limit` calls that are not done. Given to `Tasks.submit`, which adds to it.

    Any thread may use it: nothing releases the GIL between two steps that belong together.
    """

    def __init__(self, Segment segment not None, uint32_t limit):
        if limit == 0:
            raise ValueError("a limit of pending calls is at least 1")
        self.segment = segment
        self.limit = limit

    def __dealloc__(self):
        free(self.calls)

    def __len__(self):
        """How many are not done."""
        self._drop_done()
        return self.count

    cdef int check(self) except -1:
        """Makes room to add one. Raises PendingCallsLimitError, MemoryError."""
        cdef uint32_t capacity
        cdef void *grown
        if self.count == self.capacity:
            self._drop_done()
        if self.count >= self.limit:
            raise PendingCallsLimitError(
                f"{self.count} calls of this handle are pending, as many as may be "
                f"(max_pending_calls={self.limit})",
                hint="wait for some of them first",
            )
        if self.count == self.capacity:
            capacity = min(self.limit, max(16, self.capacity * 2))
            grown = realloc(self.calls, capacity * sizeof(uint64_t))
            if grown == NULL:
                raise MemoryError
            self.calls = <uint64_t *>grown
            self.capacity = capacity
        return 0

    cdef void add(self, uint32_t loc, uint64_t version) noexcept:
        """Counts a call; `check` was called just before."""
        self.calls[self.count] = <uint64_t>loc << 32 | (version & 0xffffffffu)
        self.count += 1

    cdef void _drop_done(self) noexcept:
        cdef uint32_t i, kept = 0
        if self.segment.a.closed:
            return
        for i in range(self.count):
            if is_pending(&self.segment.a, <uint32_t>(self.calls[i] >> 32),
                          self.calls[i] & 0xffffffffu):
                self.calls[kept] = self.calls[i]
                kept += 1
        self.count = kept
