"""Streams: tasks that yield items while they run, to the one process that submitted them.

An item is an object like any other, with an id that its task's id and its place give. layout.h
(struct stream) says who writes what. No daemon takes part, and nobody waits for a dead process:

 1. An item that was sealed and not taken is kept by a flag of its own, because nobody holds it: its
    maker may be dead, and its consumer has not come to it.
 2. A consumer that has nothing to take expects the next item, an object that its producer will find
    and write. It sleeps for that object and for the task's result, which tells of the end.
 3. A producer that has no room says so in `waiting` and looks again; the consumer counts what it
    has taken and then looks at `waiting`. One of the two sees the other.
 4. A claimer may die between sealing an item and counting it. The next run makes that item again or
    finds it, and the consumer may have taken it already: then it is withdrawn at once.
"""
cimport cython
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from cpython.exc cimport PyErr_CheckSignals

from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.handle cimport Handle, new_handle
from rostral_objectstore._native.index cimport hash_id, index_find
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.objects cimport (
    add_flag, begin_write, drop, hold, undo_created)
from rostral_objectstore._native.segment cimport (
    at, attachment, clear_awake, may_spin, poke_scheduler, set_awake, wake_slot)
from rostral_objectstore._native.table cimport ObjectTable
from rostral_objectstore._native.waiting cimport sleep_until

from rostral_objectstore.errors import ObjectLostError, StoreClosedError

cdef extern from "<errno.h>" nogil:
    enum: EINTR

cdef enum:
    # As in waiting.pyx.
    SPIN_NS = 60000
    SPINS_PER_CLOCK = 64
    SIGNAL_SLICE_NS = 100_000_000
    # A sleeping producer is woken when one part in so many of its room is free, so that it makes
    # several items for each time that it is woken.
    WAKE_SHARE = 64


cdef stream *stream_of(attachment *a, task *t) noexcept nogil:
    cdef char *dependencies
    if t.payload != 0:
        return <stream *>at(a, t.payload)
    dependencies = <char *>t + sizeof(task) + (t.return_count * 4 + 15) // 16 * 16
    return <stream *>(dependencies + t.dependency_count * sizeof(dependency))


cdef void name_item(task *t, uint64_t index, uint8_t *id) noexcept nogil:
    cdef uint32_t number = <uint32_t>index + 1
    memcpy(id, t.id, 16)
    memcpy(id + 16, &number, 4)


cdef uint32_t hold_item(attachment *a, task *t, uint64_t index) noexcept nogil:
    """Takes hold of an item's object. 0: there is none."""
    cdef uint8_t id[20]
    cdef uint32_t loc
    cdef object_record *o
    name_item(t, index, id)
    while True:
        loc = index_find(a, id, hash_id(id))
        if loc == 0:
            return 0
        o = <object_record *>at(a, loc)
        if hold(a, loc, load64(&o.word) >> 32):
            if memcmp(o.id, id, 20) == 0:
                return loc
            drop(a, loc)


cdef void accept(object_record *o) noexcept nogil:
    """From here on a sealed item is kept by its holders alone. The caller is one of them."""
    cdef uint64_t word = load64(&o.word)
    while IS_READY(word) and not cas64(
            &o.word, word, word & ~(<uint64_t>OBJECT_FLAG_PRODUCER << 8)):
        word = load64(&o.word)


cdef void withdraw(attachment *a, task *t, uint64_t index) noexcept nogil:
    """An item that nobody will take goes, unless somebody else holds it."""
    cdef uint32_t loc = hold_item(a, t, index)
    if loc != 0:
        accept(<object_record *>at(a, loc))
        FAILPOINT(a.plan, STREAM_STEP_WITHDRAWN)
        drop(a, loc)


cdef void withdraw_rest(attachment *a, task *t) noexcept nogil:
    """What was yielded and not taken, and one more, which may be sealed and not counted."""
    cdef stream *s = stream_of(a, t)
    cdef uint64_t end = load64(&s.yielded), index = load64(&s.taken)
    if end > STREAM_ITEMS_MAX:
        end = STREAM_ITEMS_MAX
    if index > end:
        index = end
    while index <= end:
        withdraw(a, t, index)
        index += 1


cdef void begin_stream(attachment *a, task *t, uint32_t room) noexcept nogil:
    """Of a task that is about to be published, its payload allocated."""
    cdef stream *s = stream_of(a, t)
    s.yielded = s.taken = 0
    s.room, s.closed, s.waiting = room, 0, 0


cdef void close_stream(attachment *a, task *t) noexcept nogil:
    """Nobody will take any more: the producer stops at its next item. Idempotent."""
    cdef stream *s = stream_of(a, t)
    cdef uint32_t waiting
    store32(&s.closed, 1)
    FAILPOINT(a.plan, STREAM_STEP_CLOSED)
    waiting = load32(&s.waiting)
    if waiting != 0 and waiting <= MAX_SLOTS:
        wake_slot(a, waiting - 1)


cdef bint end_stream(attachment *a, task *t) noexcept nogil:
    """Whether a task that is DONE can be freed: of a stream, what nobody will take goes first."""
    if not (load64(&t.word) >> 8) & TASK_FLAG_STREAM:
        return True
    if load32(&stream_of(a, t).closed) == 0:
        return False
    withdraw_rest(a, t)
    return True


cdef void undo_item(attachment *a, task *t, uint32_t dead) noexcept nogil:
    """The item that a dead claimer had begun to write can be written by another."""
    cdef uint64_t index = load64(&stream_of(a, t).yielded)
    cdef uint32_t loc = hold_item(a, t, index)
    if loc != 0:
        undo_created(a, loc, dead)
        drop(a, loc)


cdef inline bint is_ready(attachment *a, Handle handle) noexcept:
    return IS_READY(load64(&(<object_record *>at(a, handle.loc)).word))


# ---- the consumer ------------------------------------------------------------------------------

cdef StreamReader new_reader(ObjectTable table, object cls, Handle completion, uint32_t loc):
    cdef StreamReader reader = StreamReader.__new__(StreamReader)
    reader.table, reader.cls, reader.completion, reader.loc = table, cls, completion, loc
    reader.segment = table.segment
    return reader


# As with Handle: the cycle collector must not clear `segment` before `__dealloc__` has used it. The
# `table` may have been cleared by then.
@cython.no_gc_clear
cdef class StreamReader:
    """The consumer's end of a stream: takes its items, in order. Made by `Tasks.submit`.

    Any thread may call: each item is taken once. Dropping the reader closes the stream.
    """

    def __init__(self):
        raise TypeError("a StreamReader is made by submitting a stream, not by hand")

    def __dealloc__(self):
        if self.segment is not None and not self.segment.a.closed:
            self._close()

    cdef task *_task(self) except NULL:
        cdef attachment *a = self.table._open()
        if self.is_closed:
            raise ValueError("the stream was closed")
        return <task *>at(a, self.loc)

    cdef bint _has_next(self, attachment *a, stream *s) except -1:
        if load64(&s.taken) < load64(&s.yielded):
            return True
        # Sealed and not counted yet: its maker is between the two, or died there.
        return self.expected is not None and is_ready(a, self.expected)

    cdef Handle _hold_next(self, attachment *a, task *t, uint64_t index):
        cdef Handle handle = self.expected
        cdef uint32_t loc
        self.expected = None
        if handle is None:
            loc = hold_item(a, t, index)
            if loc == 0:
                raise ObjectLostError(f"item {index} of the stream is gone from this node")
            handle = new_handle(self.cls, self.segment, loc)
        return handle

    def take(self):
        """The handle of the next item, if it was yielded by now; else None. Does not block."""
        cdef task *t = self._task()
        cdef attachment *a = &self.segment.a
        cdef stream *s = stream_of(a, t)
        cdef uint64_t index = load64(&s.taken)
        cdef uint32_t waiting, room = s.room
        cdef Handle handle
        if not self._has_next(a, s):
            return None
        handle = self._hold_next(a, t, index)
        FAILPOINT(a.plan, STREAM_STEP_HELD)
        accept(<object_record *>at(a, handle.loc))
        FAILPOINT(a.plan, STREAM_STEP_ACCEPTED)
        store64(&s.taken, index + 1)
        FAILPOINT(a.plan, STREAM_STEP_TAKEN)
        waiting = load32(&s.waiting)
        if waiting != 0 and waiting <= MAX_SLOTS:
            if load64(&s.yielded) - index - 1 <= room - max(room // WAKE_SHARE, <uint32_t>1):
                wake_slot(a, waiting - 1)
        return handle

    def wait(self, int64_t timeout_ns):
        """Blocks until `take` gives an item or the task has ended; `timeout_ns` < 0: for ever.

        Releases the GIL meanwhile. Returns whether it is so. Signals are handled; what a handler
        raises comes out of here. Raises StoreClosedError.
        """
        cdef task *t = self._task()
        cdef attachment *a = &self.segment.a
        cdef stream *s = stream_of(a, t)
        cdef int64_t deadline = -1
        if timeout_ns > 0:
            deadline = monotonic_ns()
            deadline = deadline + timeout_ns if timeout_ns < INT64_MAX - deadline else -1
        while True:
            if self._has_next(a, s) or is_ready(a, self.completion):
                return True
            if timeout_ns == 0 or (deadline >= 0 and monotonic_ns() >= deadline):
                return False
            if spin_for_item(a, s, self.completion.loc):
                continue
            self._expect()
            sleep_until(a, [self.expected, self.completion], WAIT_ANY, deadline, False)
            self._task()

    def expect(self):
        """The next item's handle, which is sealed when it is yielded; never, if there is none."""
        self._task()
        self._expect()
        return self.table.share(self.cls, self.expected)

    cdef _expect(self):
        cdef attachment *a = &self.segment.a
        cdef task *t = <task *>at(a, self.loc)
        cdef uint8_t id[20]
        if self.expected is None:
            name_item(t, load64(&stream_of(a, t).taken), id)
            self.expected = self.table.expect(self.cls, id[:20])

    @property
    def is_over(self):
        """Whether the task has ended and all that it yielded was taken."""
        cdef stream *s = stream_of(&self.segment.a, self._task())
        # In this order: a task yields nothing any more once its result is sealed.
        return is_ready(&self.segment.a, self.completion) and (
            load64(&s.taken) >= load64(&s.yielded))

    @property
    def taken_count(self):
        """How many items were taken."""
        return load64(&stream_of(&self.segment.a, self._task()).taken)

    @property
    def yielded_count(self):
        """How many items were yielded, in all runs together."""
        return load64(&stream_of(&self.segment.a, self._task()).yielded)

    def close(self):
        """Gives up what was not taken; the task stops at its next item. Idempotent."""
        self.table._open()
        self._close()

    cdef _close(self):
        cdef attachment *a = &self.segment.a
        cdef task *t = <task *>at(a, self.loc)
        if self.is_closed:
            return
        self.is_closed = True
        self.expected = None
        # Items yielded from now on go when the task has ended: see end_stream.
        withdraw_rest(a, t)
        close_stream(a, t)


cdef bint spin_for_item(attachment *a, stream *s, uint32_t completion):
    """A short spin, where there is a core for it. True: an item was yielded, or the task ended."""
    cdef uint64_t taken = load64(&s.taken)
    cdef object_record *o = <object_record *>at(a, completion)
    cdef int64_t now = monotonic_ns(), spin_end
    cdef int spins
    spin_end = now + SPIN_NS
    with nogil:
        while now < spin_end and may_spin(a):
            for spins in range(SPINS_PER_CLOCK):
                cpu_pause()
                if load64(&s.yielded) > taken or IS_READY(load64(&o.word)):
                    return True
            now = monotonic_ns()
    return False


# ---- the producer ------------------------------------------------------------------------------

cdef class StreamWriter:
    """The producer's end: of a claimed task with TASK_FLAG_STREAM, until it is finished.

    Items are numbered from 0 in each run. Those that an earlier run has yielded are passed over.
    """

    def __init__(self, ObjectTable table not None, uint32_t task_loc):
        self.table = table
        self.loc = task_loc

    cdef stream *_stream(self) except NULL:
        cdef attachment *a = self.table._open()
        return stream_of(a, <task *>at(a, self.loc))

    @property
    def is_closed(self):
        """Whether nobody will take any more."""
        return load32(&self._stream().closed) != 0

    @property
    def yielded_count(self):
        """How many items were yielded, in all runs together."""
        return load64(&self._stream().yielded)

    cdef bint _pass_over(self, stream *s) noexcept:
        """The next item, if an earlier run has yielded it, or the consumer has it already."""
        if self.index < load64(&s.yielded):
            self.index += 1
            return True
        if self.index < load64(&s.taken):
            self.index += 1
            store64(&s.yielded, self.index)
            return True
        return False

    def write(self, uint32_t kind, bytes inband not None, list buffers not None,
              list contained not None):
        """Yields the next item; arguments as of ObjectTable.put. False: it is there already.

        Does not look whether there is room. Raises ObjectStoreFullError, StoreClosedError, and
        ValueError for more than STREAM_ITEMS_MAX items.
        """
        cdef stream *s = self._stream()
        cdef attachment *a = &self.table.segment.a
        cdef task *t = <task *>at(a, self.loc)
        cdef bint existed = False, made = True
        cdef uint8_t id[20]
        cdef uint32_t loc
        cdef Handle handle
        if self._pass_over(s):
            return False
        if self.index >= STREAM_ITEMS_MAX:
            raise ValueError(f"a stream has {STREAM_ITEMS_MAX} items at most")
        name_item(t, self.index, id)
        loc = self.table._new(id, OBJECT_CREATED, 0, &existed)
        handle = new_handle(Handle, self.table.segment, loc)
        if not existed or begin_write(a, loc):
            self.table._fill(handle, kind, inband, buffers, contained, OBJECT_FLAG_PRODUCER)
        elif is_ready(a, handle):
            # An earlier run died before it counted it.
            add_flag(<object_record *>at(a, loc), OBJECT_FLAG_PRODUCER)
            made = False
        else:
            raise self.table._exists(id[:20])
        FAILPOINT(a.plan, STREAM_STEP_SEALED)
        self.index += 1
        store64(&s.yielded, self.index)
        FAILPOINT(a.plan, STREAM_STEP_YIELDED)
        if load64(&s.taken) >= self.index and not made:
            withdraw(a, t, self.index - 1)
        return made

    def skip(self):
        """Passes over the next item if it is there already. False: it must be written."""
        return self._pass_over(self._stream())

    def has_room(self):
        """Whether the next item may be made: there is room, it is there, or all is at its end."""
        return has_room(self._stream(), self.index)

    def wait_room(self, int64_t timeout_ns):
        """Blocks until `has_room`, or for `timeout_ns`, at most a tenth of a second.

        So late an exception that another thread sets comes through. Releases the GIL; returns
        whether there is room. The scheduler sees that this process is blocked.
        """
        cdef stream *s = self._stream()
        cdef attachment *a = &self.table.segment.a
        cdef slot *me = a.me
        cdef uint32_t seen
        cdef uint64_t index = self.index
        cdef int error = 0
        if has_room(s, index) or timeout_ns == 0:
            return has_room(s, index)
        if spin_for_room(a, s, index):
            return True
        PyErr_CheckSignals()
        add32(&me.sleeping, 1)
        seen = load32(&me.futex)
        store32(&s.waiting, a.my_slot + 1)
        FAILPOINT(a.plan, STREAM_STEP_WAITING)
        if not has_room(s, index):
            if load32(&me.running) != 0:
                store32(&me.blocked, 1)
                poke_scheduler(a)
            with nogil:
                clear_awake(a)
                error = futex_wait(&me.futex, seen, min(timeout_ns, <int64_t>SIGNAL_SLICE_NS))
                set_awake(a)
            if load32(&me.running) != 0:
                store32(&me.blocked, 0)
        store32(&s.waiting, 0)
        if sub32(&me.sleeping, 1) == 1:
            store32(&me.wait_loc, WAIT_NOTHING)
        if error == EINTR:
            PyErr_CheckSignals()
        return has_room(self._stream(), index)

    def announce(self):
        """Has the consumer wake this process when there is room: for who sleeps by himself.

        Look at `has_room` afterwards, and again after each poke.
        """
        store32(&self._stream().waiting, self.table.segment.a.my_slot + 1)


cdef bint has_room(stream *s, uint64_t index) noexcept nogil:
    return (
        index < load64(&s.taken) + s.room or index < load64(&s.yielded) or load32(&s.closed) != 0)


cdef bint spin_for_room(attachment *a, stream *s, uint64_t index):
    cdef int64_t now = monotonic_ns(), spin_end
    cdef int spins
    spin_end = now + SPIN_NS
    with nogil:
        while now < spin_end and may_spin(a):
            for spins in range(SPINS_PER_CLOCK):
                cpu_pause()
                if has_room(s, index):
                    return True
            now = monotonic_ns()
    return False
