"""Tasks: records of the objects they need and make, submitted, claimed, run and finished.

The store knows of a task only what it must to start it when its inputs are sealed and to hold them
until it is done: what `function` and `payload` mean is the client's affair. A task is written once,
by its submitter; it is read in place by whoever claims it; and its submitter frees it after it is
done. So all bookkeeping of a task, the hold on its inputs included, belongs to one process, and the
daemon can take it over as a whole when that process dies.

A task's id is derived from its parent's and a counter: a parent that runs again names its children
the same, and what they have computed already is found by its id.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from rostral_objectstore._native.handle cimport Handle, new_handle
from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.heap cimport (
    allocate_record, allocate_run, release_block, release_named, trim)
from rostral_objectstore._native.lanes cimport claim_first, looks_idle
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.objects cimport drop, new_object, try_delete
from rostral_objectstore._native.pending cimport PendingCalls
from rostral_objectstore._native.queue cimport (
    enqueue, may_start, push, queue_at, resolved_mark, restack, stack, wake_worker)
from rostral_objectstore._native.segment cimport (
    ARENA_TASKS, Segment, at, attachment, clear_awake, may_spin, poke_scheduler, set_awake)
from rostral_objectstore._native.stream cimport begin_stream, end_stream, new_reader
from rostral_objectstore._native.table cimport ObjectTable

from rostral_objectstore.errors import QueueClosedError, QueueFullError, StoreClosedError

cdef extern from "<errno.h>" nogil:
    enum: EINTR

cdef enum:
    # A payload up to this size lies in the task's record: one block less to allocate, write and
    # free.
    INLINE_PAYLOAD = 512
    TASK_SIZE_MIN = 256
    DEPENDENCIES_MAX = 100000
    # As in waiting.pyx.
    SPIN_NS = 60000
    SPINS_PER_CLOCK = 64
    # Between two looks for finished tasks in the middle of the list, when the oldest is a long one.
    SWEEP_INTERVAL = 4096


cdef uint32_t *returns_of(task *t) noexcept nogil:
    return <uint32_t *>(<char *>t + sizeof(task))


cdef dependency *dependencies_of(task *t) noexcept nogil:
    return <dependency *>(<char *>t + sizeof(task) + (t.return_count * 4 + 15) // 16 * 16)


cdef char *payload_of(attachment *a, task *t) noexcept nogil:
    if t.payload != 0:
        return <char *>at(a, t.payload)
    return <char *>(dependencies_of(t) + t.dependency_count)


cdef void link(attachment *a, uint32_t loc, dependency *d) noexcept nogil:
    """Puts a task that waits on the stack of one object, unless that was sealed by now.

    As long as one dependency is not marked, the task cannot start, so its record stays.
    """
    cdef uint64_t element = <uint64_t>loc << 32 | <uint64_t>(<char *>d - <char *>at(a, loc))
    if stack(a, <object_record *>at(a, d.loc), d, element):
        FAILPOINT(a.plan, SUBMIT_STEP_STACKED)
        cas32(&d.resolved, 0, DEPENDENCY_LINKED)
    else:
        store32(&d.resolved, resolved_mark(a, d.loc))


cdef void link_rest(attachment *a, uint32_t loc) noexcept nogil:
    """For a submitter that died: links what it had not come to, and starts what can start."""
    cdef task *t = <task *>at(a, loc)
    cdef dependency *d = dependencies_of(t)
    cdef uint64_t element
    cdef uint32_t i
    for i in range(t.dependency_count):
        if load32(&d[i].resolved) != 0:
            continue
        # It may have died between linking and saying so.
        element = <uint64_t>loc << 32 | <uint64_t>(<char *>&d[i] - <char *>t)
        if d[i].loc == 0:
            store32(&d[i].resolved, DEPENDENCY_RESOLVED)
        elif restack(a, d[i].loc, element):
            cas32(&d[i].resolved, 0, DEPENDENCY_LINKED)
        else:
            link(a, loc, &d[i])
    make_ready(a, loc)


cdef bint is_linked(task *t) noexcept nogil:
    """Whether an object's `dependents` may still name it: then its record must stay."""
    cdef dependency *d = dependencies_of(t)
    cdef uint32_t i
    for i in range(t.dependency_count):
        if not load32(&d[i].resolved) & DEPENDENCY_RESOLVED:
            return True
    return False


cdef void unlink(attachment *a, task *t) noexcept nogil:
    """A task that was ended before its inputs were sealed: nobody needs to tell it any more."""
    cdef dependency *d = dependencies_of(t)
    cdef uint32_t i
    for i in range(t.dependency_count):
        if not load32(&d[i].resolved) & DEPENDENCY_RESOLVED:
            restack(a, d[i].loc, 0)


cdef void free_task(attachment *a, uint32_t loc) noexcept nogil:
    """The submitter, or who took its tasks over: gives up a DONE task's inputs and its memory."""
    cdef task *t = <task *>at(a, loc)
    cdef dependency *d = dependencies_of(t)
    cdef uint32_t i
    for i in range(t.dependency_count):
        if d[i].loc != 0:
            drop(a, d[i].loc)
            FAILPOINT(a.plan, TASK_STEP_DROPPED)
    if t.payload != 0:
        release_named(a, &t.payload)
    store64(&t.word, TASK_WORD(TASK_FREE, 0, a.my_slot, NEXT_VERSION(load64(&t.word))))
    FAILPOINT(a.plan, TASK_STEP_FREE)
    release_block(a, loc)


cdef bint make_ready(attachment *a, uint32_t loc) noexcept nogil:
    """WAITING to READY and into its queue, if it waits for nothing. True if this call did it.

    Of a task of another process, which may end and use the record anew while we look: what was
    read holds together if the word, which has the version, is the same after it.
    """
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word)
    cdef uint32_t queue_loc = t.queue, count = t.dependency_count
    cdef dependency *d = dependencies_of(t)
    if (word & 0xff) != TASK_WAITING or load64(&t.word) != word:
        return False
    return may_start(d, count) and enqueue(a, <queue *>at(a, queue_loc), loc, word)


# SipHash-2-4 (Aumasson and Bernstein, 2012) with the parent's id as its key: nobody can aim at
# another task's id.
cdef inline uint64_t rotate(uint64_t x, int b) noexcept nogil:
    return x << b | x >> (64 - b)


cdef uint64_t siphash(const uint8_t *key, uint64_t m0, uint64_t m1) noexcept nogil:
    cdef uint64_t k[2]
    cdef uint64_t m[3]
    cdef uint64_t v0, v1, v2, v3
    cdef int i, r
    memcpy(k, key, 16)
    m[0], m[1], m[2] = m0, m1, <uint64_t>16 << 56
    v0 = k[0] ^ <uint64_t>0x736f6d6570736575
    v1 = k[1] ^ <uint64_t>0x646f72616e646f6d
    v2 = k[0] ^ <uint64_t>0x6c7967656e657261
    v3 = k[1] ^ <uint64_t>0x7465646279746573
    for i in range(4):
        if i < 3:
            v3 ^= m[i]
        else:
            v2 ^= 0xff
        for r in range(2 if i < 3 else 4):
            v0 += v1
            v1 = rotate(v1, 13) ^ v0
            v0 = rotate(v0, 32)
            v2 += v3
            v3 = rotate(v3, 16) ^ v2
            v0 += v3
            v3 = rotate(v3, 21) ^ v0
            v2 += v1
            v1 = rotate(v1, 17) ^ v2
            v2 = rotate(v2, 32)
        if i < 3:
            v0 ^= m[i]
    return v0 ^ v1 ^ v2 ^ v3


cdef bint is_closed(attachment *a, uint32_t object_loc) noexcept nogil:
    """Whether the object is sealed, its consequences for dependents included."""
    return load64(&(<object_record *>at(a, object_loc)).dependents) == DEPENDENTS_CLOSED


cdef bint make_producer(attachment *a, uint32_t object_loc, uint32_t task_loc) noexcept nogil:
    """The task will make an object that is expected. False: another task will, or it is made."""
    cdef object_record *o = <object_record *>at(a, object_loc)
    cdef uint64_t word
    while True:
        word = load64(&o.word)
        if (word & 0xff) != OBJECT_PENDING or (word >> 8) & OBJECT_FLAG_PRODUCER:
            return False
        if cas64(&o.word, word, OBJECT_WORD(
                OBJECT_PENDING, (word >> 8) & 0xff | OBJECT_FLAG_PRODUCER, a.my_slot, word >> 32)):
            o.task = task_loc
            return True


cdef void unmake_producer(attachment *a, uint32_t object_loc, uint32_t task_loc) noexcept nogil:
    """The task will not make the object: it may go as soon as nobody holds it."""
    cdef object_record *o = <object_record *>at(a, object_loc)
    cdef uint64_t word = load64(&o.word)
    while (word & 0xff) == OBJECT_PENDING and o.task == task_loc:
        if cas64(&o.word, word, word & ~(<uint64_t>OBJECT_FLAG_PRODUCER << 8)):
            o.task = 0
            try_delete(a, object_loc)
            return
        word = load64(&o.word)


cdef class TaskContext:
    """What the ids of a task's children and `put` objects are derived from. One per task."""

    def __init__(self, bytes task_id not None):
        if len(task_id) != 16:
            raise ValueError(f"a task id has 16 bytes, not {len(task_id)}")
        memcpy(self.id, <char *>task_id, 16)

    def task_id(self):
        return PyBytes_FromStringAndSize(<char *>self.id, 16)

    def next_put_id(self):
        """The 20-byte id of the task's next `put` object."""
        cdef uint32_t index = 0x80000000u | self.put_count
        self.put_count += 1
        cdef uint8_t made[20]
        memcpy(made, self.id, 16)
        memcpy(made + 16, &index, 4)
        return PyBytes_FromStringAndSize(<char *>made, 20)

    def next_child_id(self):
        """The 16-byte id of the task's next child (a task or an actor)."""
        cdef uint8_t child[16]
        self._derive(child)
        return PyBytes_FromStringAndSize(<char *>child, 16)

    cdef void _derive(self, uint8_t *child, uint64_t salt=0) noexcept:
        cdef uint64_t low = siphash(self.id, self.child_count, 2 * salt)
        cdef uint64_t high = siphash(self.id, self.child_count, 2 * salt + 1)
        self.child_count += 1
        memcpy(child, &low, 8)
        memcpy(child + 8, &high, 8)


cdef class ClaimedTask:
    """A task that this process has claimed and must `finish`."""


cdef uint32_t allocate_task(attachment *a, uint32_t size) noexcept nogil:
    """A task's record: in a slab, or a run of chunks of its own. 0: no room."""
    if size <= LARGEST_BLOCK:
        return allocate_record(a, ARENA_TASKS, size)
    return allocate_run(a, size, CHUNK_RUN, RUN_TASK)


cdef class Tasks:
    """This process's tasks: those it submits, and those it claims.

    Any thread may call: nothing releases the GIL between two steps that belong together.
    """

    def __cinit__(self, ObjectTable table not None):
        self.table = table
        self.segment = table.segment
        self.capacity = 1024
        self.unfinished = <uint32_t *>malloc(self.capacity * sizeof(uint32_t))
        if self.unfinished == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.unfinished)

    cdef attachment *_open(self) except NULL:
        if self.segment.a.closed:
            raise StoreClosedError(
                "this process is no longer attached to the store",
                hint="it was closed, or this is a forked child: attach again")
        return &self.segment.a

    cdef _reserve(self):
        """Room to remember one more task: before it is published, because this may fail."""
        cdef uint32_t *grown
        cdef size_t i
        if self.count == self.capacity:
            grown = <uint32_t *>malloc(self.capacity * 2 * sizeof(uint32_t))
            if grown == NULL:
                raise MemoryError
            for i in range(self.count):
                grown[i] = self.unfinished[(self.first + i) % self.capacity]
            free(self.unfinished)
            self.unfinished, self.first, self.capacity = grown, 0, self.capacity * 2

    cdef void _remember(self, uint32_t loc) noexcept:
        self.unfinished[(self.first + self.count) % self.capacity] = loc
        self.count += 1

    # ---- submitting

    def submit(self, object cls, TaskContext context not None, uint32_t queue_loc,
               uint64_t function, bytes payload not None, list dependencies not None,
               list nested not None, uint32_t return_count, uint32_t retries, uint32_t flags,
               bint in_order, bytes task_id=None, PendingCalls pending=None,
               int64_t deadline_ns=0, uint32_t room=0):
        """Submits one task. Returns the handles, of class `cls`, of its results.

        With `room` it is a stream, which yields items as it runs: returned is its StreamReader.

        Args:
            context: whose child it is; names it, unless `task_id` does.
            queue_loc: the ready queue or mailbox for it.
            function, payload: opaque to the store; the payload has less than 4 GiB.
            dependencies: handles of the objects that it needs sealed before it runs; with `nested`
                at most 100,000.
            nested: handles of further objects to keep for it.
            return_count: how many objects it makes; at most 3,000.
            retries: how often it may run again after its process died; RETRY_FOREVER: no limit.
            flags: TASK_FLAG_*.
            in_order: enqueue it at once, whether its inputs are there or not: a mailbox keeps its
                callers' order.
            task_id: its id, if not the context's next.
            pending: counts the task until it is done.
            deadline_ns: on the monotonic clock, when it shall not run any more; 0: at no time. The
                store remembers it, and what is claimed later is flagged as cancelled; `late` in
                cancelling.pyx finds who is over it.
            room: of a stream, how many items may be yielded and not taken; 0: no stream.

        Returns at once what is there already if a task with that id was submitted before and all
        its results are made, or will be. Raises QueueClosedError, QueueFullError (try again:
        nothing is left behind, and the id is the same), PendingCallsLimitError,
        ObjectStoreFullError, StoreClosedError.
        """
        cdef attachment *a = self._open()
        cdef queue *q = queue_at(a, queue_loc)
        cdef uint64_t derived
        cdef uint8_t id[16]
        cdef Handle handle
        if q == NULL or load32(&q.closed):
            raise QueueClosedError("the queue is closed")
        if return_count > RETURNS_MAX:
            raise ValueError(f"a task makes {RETURNS_MAX} objects at most, not {return_count}")
        if len(dependencies) + len(nested) > DEPENDENCIES_MAX:
            raise ValueError(
                f"a task refers to {DEPENDENCIES_MAX} objects at most, "
                f"not {len(dependencies) + len(nested)}")
        if PyBytes_GET_SIZE(payload) > 0xffffffff - <Py_ssize_t>sizeof(stream):
            raise ValueError(f"a payload has less than 4 GiB, not {len(payload)} bytes")
        for handle in dependencies:
            self.table._check(handle)
        for handle in nested:
            self.table._check(handle)
        if self.count and not self.tells_done:
            self._sweep_front(a)
            self.since_sweep += 1
            if self.since_sweep >= SWEEP_INTERVAL and self.since_sweep >= self.count:
                self.sweep()
        self._reserve()
        if pending is not None:
            pending.check()
        memcpy(&self.parent, context.id, 8)
        self.deadline = deadline_ns
        if room:
            return self._submit_stream(
                cls, context, q, queue_loc, function, payload, dependencies, nested, retries,
                flags, in_order, pending, room)
        if task_id is not None:
            if len(task_id) != 16:
                raise ValueError(f"a task id has 16 bytes, not {len(task_id)}")
            memcpy(id, <char *>task_id, 16)
            return self._submit(cls, id, q, queue_loc, function, payload, dependencies, nested,
                                return_count, retries, flags, in_order, pending)
        context._derive(id)
        derived = context.child_count
        try:
            return self._submit(cls, id, q, queue_loc, function, payload, dependencies, nested,
                                return_count, retries, flags, in_order, pending)
        except BaseException:
            # Who tries again submits the same child, and so does a parent that runs again.
            if context.child_count == derived:
                context.child_count -= 1
            raise

    cdef _submit_stream(
            self, object cls, TaskContext context, queue *q, uint32_t queue_loc, uint64_t function,
            bytes payload, list dependencies, list nested, uint32_t retries, uint32_t flags,
            bint in_order, PendingCalls pending, uint32_t room):
        """A stream has one consumer, its submitter. So a parent that runs again does not find the
        stream of its first run, which has lost its consumer: it gets another, under another id."""
        cdef uint8_t id[16]
        cdef uint64_t salt = 0, derived = context.child_count
        cdef list results = []
        while not results:
            context.child_count = derived
            context._derive(id, salt)
            salt += 1
            try:
                results = self._submit(
                    cls, id, q, queue_loc, function, payload, dependencies, nested, 1, retries,
                    flags | TASK_FLAG_STREAM, in_order, pending, room)
            except BaseException:
                context.child_count = derived
                raise
        return new_reader(
            self.table, cls, results[0],
            self.unfinished[(self.first + self.count - 1) % self.capacity])

    cdef list _submit(self, object cls, const uint8_t *id, queue *q, uint32_t queue_loc,
                      uint64_t function, bytes payload, list dependencies, list nested,
                      uint32_t return_count, uint32_t retries, uint32_t flags, bint in_order,
                      PendingCalls pending, uint32_t room=0):
        cdef attachment *a = &self.segment.a
        cdef uint32_t head = sizeof(stream) if room else 0
        cdef uint32_t payload_size = PyBytes_GET_SIZE(payload) + head, i, loc, size, inner
        cdef uint32_t dependency_count = len(dependencies) + len(nested)
        cdef uint32_t waited = 0 if in_order else len(dependencies)
        cdef uint8_t object_id[20]
        cdef bint existed = False, anew = return_count == 0, failed = False
        cdef task *t
        cdef dependency *d
        cdef Handle handle
        cdef list results = []
        cdef uint64_t version

        size = sizeof(task) + (return_count * 4 + 15) // 16 * 16
        size += dependency_count * sizeof(dependency)
        size += payload_size if payload_size <= INLINE_PAYLOAD else 0
        if size < TASK_SIZE_MIN:
            size = TASK_SIZE_MIN
        loc = allocate_task(a, size)
        if loc == 0 and self.table.make_room is not None:
            self.table.make_room(max(size, CHUNK_SIZE))
            loc = allocate_task(self.table._open(), size)
        if loc == 0:
            raise self.table._full(size)
        t = <task *>at(a, loc)
        FAILPOINT(a.plan, SUBMIT_STEP_RECORDED)
        version = load64(&t.word) >> 32
        memcpy(t.id, id, 16)
        t.queue, t.submitter = queue_loc, a.my_slot
        t.return_count, t.dependency_count = 0, 0
        t.attempt, t.retries_left, t.function = 0, retries, function
        t.parent, t.deadline = self.parent, self.deadline
        t.payload, t.payload_size = 0, payload_size
        if payload_size > INLINE_PAYLOAD:
            try:
                store32(&t.payload, self.table._allocate(payload_size))
            except BaseException:
                self._take_back(a, loc)
                raise

        memcpy(object_id, id, 16)
        for i in range(return_count):
            memcpy(object_id + 16, &i, 4)
            try:
                inner = self.table._new(
                    object_id, OBJECT_PENDING, OBJECT_FLAG_PRODUCER, &existed)
            except BaseException:
                self._take_back(a, loc)
                raise
            returns_of(t)[i] = inner
            t.return_count = i + 1
            if not existed:
                (<object_record *>at(a, inner)).task = loc
                anew = True
            elif make_producer(a, inner, loc):
                anew = True
            results.append(new_handle(cls, self.segment, inner))
            FAILPOINT(a.plan, SUBMIT_STEP_PROMISED)
        if not anew:
            # A parent that runs again: the child is done, or on its way under this very id.
            self._take_back(a, loc)
            return [] if room else results

        d = dependencies_of(t)
        t.dependency_count = dependency_count
        i = 0
        for handle in dependencies:
            d[i].loc, d[i].next = handle.loc, 0
            d[i].resolved = 0
            if in_order or is_closed(a, handle.loc):
                d[i].resolved = DEPENDENCY_RESOLVED
                waited -= not in_order
                failed = failed or resolved_mark(a, handle.loc) == DEPENDENCY_FAILED
            a.held[handle.loc] += 1
            i += 1
        if failed and waited:
            # It waits for nothing, so nothing need know of it.
            for i in range(len(dependencies)):
                d[i].resolved = DEPENDENCY_RESOLVED
            waited, i = 0, len(dependencies)
        for handle in nested:
            d[i].loc, d[i].resolved, d[i].next = handle.loc, DEPENDENCY_RESOLVED, 0
            a.held[handle.loc] += 1
            i += 1
        if room:
            begin_stream(a, t, room)
        memcpy(payload_of(a, t) + head, PyBytes_AS_STRING(payload), payload_size - head)
        FAILPOINT(a.plan, SUBMIT_STEP_WRITTEN)

        if waited == 0:
            store64(&t.word, TASK_WORD(TASK_READY, flags, a.my_slot, version))
            FAILPOINT(a.plan, SUBMIT_STEP_READY)
            if not push(a, q, loc) and cas64(&t.word, TASK_WORD(
                    TASK_READY, flags, a.my_slot, version),
                    TASK_WORD(TASK_FREE, 0, a.my_slot, version)):
                # Not if who knows its results from an earlier run has cancelled it at this moment.
                self._take_back(a, loc)
                raise QueueFullError(
                    f"{q.capacity} tasks are queued already", hint="wait for some of them first")
            self._remember(loc)
            if pending is not None:
                pending.add(loc, version)
            wake_worker(a, q)
            return results

        self._remember(loc)
        if pending is not None:
            pending.add(loc, version)
        store64(&t.word, TASK_WORD(TASK_WAITING, flags, a.my_slot, version))
        FAILPOINT(a.plan, SUBMIT_STEP_WAITING)
        for i in range(len(dependencies)):
            if d[i].resolved == 0:
                link(a, loc, &d[i])
        make_ready(a, loc)
        return results

    cdef void _take_back(self, attachment *a, uint32_t loc) noexcept:
        """A task that nobody else has seen goes back, with what only it would have made."""
        cdef task *t = <task *>at(a, loc)
        cdef uint32_t i
        for i in range(t.return_count):
            unmake_producer(a, returns_of(t)[i], loc)
        free_task(a, loc)

    cdef void _sweep_front(self, attachment *a) noexcept:
        cdef uint32_t loc
        cdef task *t
        while self.count:
            loc = self.unfinished[self.first]
            t = <task *>at(a, loc)
            if (load64(&t.word) & 0xff) != TASK_DONE or (t.dependency_count and is_linked(t)):
                return
            if not end_stream(a, t):
                return
            self.first = (self.first + 1) % self.capacity
            self.count -= 1
            free_task(a, loc)

    def sweep(self):
        """Frees every finished task of ours, and with it its hold on its inputs.

        Returns how many are unfinished.
        """
        cdef attachment *a = &self.segment.a
        cdef size_t i, kept = 0
        cdef uint32_t loc
        cdef task *t
        cdef bint done
        if a.closed:
            return 0
        self.since_sweep = 0
        for i in range(self.count):
            loc = self.unfinished[(self.first + i) % self.capacity]
            t = <task *>at(a, loc)
            done = (load64(&t.word) & 0xff) == TASK_DONE
            if done and is_linked(t):
                unlink(a, t)
                done = not is_linked(t)
            if done and end_stream(a, t):
                free_task(a, loc)
            else:
                self.unfinished[(self.first + kept) % self.capacity] = loc
                kept += 1
        self.count = kept
        return kept

    @property
    def unfinished_count(self):
        return self.count

    # ---- claiming

    def next(self, uint32_t mailbox, int64_t timeout_ns, list watched not None):
        """Claims the next task: from `mailbox`, or (0) from the queue that the scheduler granted.

        Spins briefly, then sleeps, without the GIL. `watched` are handles of unsealed objects whose
        sealing shall end the wait as well. Returns a ClaimedTask, or None: after the timeout, a
        poke, a grant, a seal or a signal.
        """
        cdef attachment *a = self._open()
        cdef uint32_t queue_loc = mailbox if mailbox else load32(&a.me.queue)
        cdef uint32_t loc, granted
        cdef queue *q = NULL
        cdef bint empty = True
        if not mailbox:
            store32(&a.me.queue_ack, queue_loc)
        if queue_loc:
            q = queue_at(a, queue_loc)
            if q == NULL:
                raise QueueClosedError(f"no queue at locator {queue_loc}")
            loc = claim_first(a, q, &empty)
            if loc:
                return self._claimed(a, loc)
        if timeout_ns == 0:
            return None
        if self._spin(a, q, queue_loc, mailbox, watched):
            loc = claim_first(a, q, &empty)
            if loc:
                return self._claimed(a, loc)
        self._sleep(a, q, queue_loc, mailbox, timeout_ns, watched, -1)
        self._open()
        granted = mailbox if mailbox else load32(&a.me.queue)
        if granted and granted == queue_loc:
            loc = claim_first(a, q, &empty)
            if loc:
                return self._claimed(a, loc)
        return None

    def wait(self, uint32_t mailbox, int64_t timeout_ns, list watched not None, uint32_t seen):
        """Waits as `next` does, and claims nothing. Returns whether there is a task to claim.

        `seen` is `Segment.futex_value()` from before the caller looked at what else a poke may have
        been about: a poke since then ends the wait at once.
        """
        cdef attachment *a = self._open()
        cdef queue *q = queue_at(a, mailbox)
        if q == NULL:
            raise QueueClosedError(f"no queue at locator {mailbox}")
        if looks_idle(q) and timeout_ns != 0 and not self._spin(a, q, mailbox, mailbox, watched):
            self._sleep(a, q, mailbox, mailbox, timeout_ns, watched, seen)
            self._open()
        return not looks_idle(q)

    cdef bint _spin(self, attachment *a, queue *q, uint32_t queue_loc, uint32_t mailbox,
                    list watched) except -1:
        """Looks at the queue for a while, if there is a core for it. Whether a task is there."""
        cdef bint empty = True
        cdef int64_t now, spin_end
        cdef int spins
        if q == NULL or watched:
            return False
        with nogil:
            now = monotonic_ns()
            spin_end = now + SPIN_NS
            while empty and now < spin_end and may_spin(a):
                for spins in range(SPINS_PER_CLOCK):
                    cpu_pause()
                    if not looks_idle(q):
                        empty = False
                        break
                if not mailbox and load32(&a.me.queue) != queue_loc:
                    break
                now = monotonic_ns()
        return not empty

    cdef int _sleep(self, attachment *a, queue *q, uint32_t queue_loc, uint32_t mailbox,
                    int64_t timeout_ns, list watched, int64_t seen_before) except -1:
        """Sleeps until a task, a seal, a poke, a grant, a signal or the timeout, if none came yet.

        `seen_before`: the futex word as the caller read it earlier, or -1.
        """
        cdef slot *me = a.me
        cdef uint32_t seen, granted
        cdef Handle handle
        cdef bint sealed = False
        cdef int error = 0
        for handle in watched:
            self.table._check(handle)
        # A signal that came while we spun would not interrupt the sleep.
        PyErr_CheckSignals()
        add32(&me.sleeping, 1)
        store32(&me.wait_loc, WAIT_ANY)
        seen = load32(&me.futex) if seen_before < 0 else <uint32_t>seen_before
        if q != NULL:
            or64(&q.sleepers[a.my_slot >> 6], <uint64_t>1 << (a.my_slot & 63))
        store32(&me.idle, 1)
        for handle in watched:
            if IS_READY(load64(&(<object_record *>at(a, handle.loc)).word)):
                sealed = True
        granted = mailbox if mailbox else load32(&me.queue)
        if not sealed and granted == queue_loc and (q == NULL or looks_idle(q)):
            if load32(&a.hdr.starved) != 0 and not mailbox:
                poke_scheduler(a)
            with nogil:
                clear_awake(a)
                error = futex_wait(&me.futex, seen, timeout_ns)
                set_awake(a)
            if load32(&a.hdr.trim_wanted) != a.trim_seen:
                trim(a)
        store32(&me.idle, 0)
        if q != NULL:
            and64(&q.sleepers[a.my_slot >> 6], ~(<uint64_t>1 << (a.my_slot & 63)))
        if sub32(&me.sleeping, 1) == 1:
            store32(&me.wait_loc, WAIT_NOTHING)
        if error == EINTR:
            PyErr_CheckSignals()
        return 0

    cdef ClaimedTask _claimed(self, attachment *a, uint32_t loc):
        cdef task *t = <task *>at(a, loc)
        cdef ClaimedTask claimed = ClaimedTask.__new__(ClaimedTask)
        cdef uint32_t i, head
        cdef dependency *d = dependencies_of(t)
        cdef uint32_t *returns = returns_of(t)
        store32(&a.me.running, loc)
        store32(&a.me.claiming, 0)
        claimed.loc = loc
        claimed.id = PyBytes_FromStringAndSize(<char *>t.id, 16)
        claimed.function = t.function
        if t.deadline != 0 and monotonic_ns() >= t.deadline:
            # Claimed, so it is cancelled as if it ran: whoever runs it sees that before it begins.
            or64(&t.word, <uint64_t>(
                TASK_FLAG_CANCELLED | TASK_FLAG_LATE | TASK_FLAG_CANCEL_CHILDREN) << 8)
        claimed.flags = (load64(&t.word) >> 8) & 0xff
        head = sizeof(stream) if claimed.flags & TASK_FLAG_STREAM else 0
        claimed.payload = PyBytes_FromStringAndSize(
            payload_of(a, t) + head, t.payload_size - head)
        claimed.attempt = t.attempt
        claimed.submitter = t.submitter
        claimed.queue = t.queue
        if t.return_count == 1:
            claimed.returns = (returns[0],)
        else:
            claimed.returns = tuple([returns[i] for i in range(t.return_count)])
        claimed.dependencies = ()
        if t.dependency_count:
            claimed.dependencies = tuple([d[i].loc for i in range(t.dependency_count)])
        return claimed

    def finish(self, ClaimedTask claimed not None):
        """The results are sealed: the submitter may free the task."""
        cdef attachment *a = self._open()
        cdef task *t = <task *>at(a, claimed.loc)
        cdef uint64_t word = load64(&t.word)
        if (word & 0xff) == TASK_CLAIMED and ((word >> 16) & 0xffff) == a.my_slot:
            store64(&t.word, TASK_WORD(TASK_DONE, (word >> 8) & 0xff, a.my_slot, word >> 32))
        FAILPOINT(a.plan, FINISH_STEP_DONE)
        a.me.finished_count += 1
        store32(&a.me.running, 0)

    def has_failed(self, Handle needed not None):
        """Whether an input of a task was sealed with an error."""
        return resolved_mark(self._open(), needed.loc) == DEPENDENCY_FAILED

    def is_cancelled(self, ClaimedTask claimed not None):
        """Whether a task of ours, claimed and not finished, was cancelled since."""
        cdef task *t = <task *>at(self._open(), claimed.loc)
        return (load64(&t.word) >> 8) & TASK_FLAG_CANCELLED != 0

    def flags(self, ClaimedTask claimed not None):
        """TASK_FLAG_* of a task of ours as they are now."""
        return (load64(&(<task *>at(self._open(), claimed.loc)).word) >> 8) & 0xff

    def mark_running(self, ClaimedTask claimed not None):
        """Says which of several claimed tasks is being run: what others see of this process."""
        store32(&self.segment.a.me.running, claimed.loc)

    def forget(self, ClaimedTask claimed):
        """The task went back into its queue: it is no longer this process's to finish."""
        store32(&self._open().me.running, 0)
