"""Tasks: records that name the objects they need and make, submitted, claimed, run and finished in shared memory.

The store knows of a task only what it must to start it when its inputs are sealed and to hold them until it is done:
what `function` and `payload` mean is the client's affair. A task is written once, by its submitter; it is read in place
by whoever claims it; and its submitter frees it after it is done. So all bookkeeping of a task, the hold on its
inputs included, belongs to one process, and the daemon can take it over as a whole when that process dies.

A task's id is derived from its parent's and a counter: a parent that runs again names its children the same, and what
they have computed already is found by its id.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from rostral_objectstore._native.heap cimport ARENA_TASKS, allocate, allocate_record, allocate_run, release_block
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.queue cimport claim_next, looks_empty, push, wake_worker
from rostral_objectstore._native.segment cimport (
    Segment, at, attachment, clear_awake, locator, may_spin, poke_scheduler, set_awake)
from rostral_objectstore._native.table cimport Handle, ObjectTable, drop, hold, new_handle, new_object, try_delete
from rostral_objectstore.errors import ObjectStoreFullError, QueueClosedError, QueueFullError, StoreClosedError

cdef enum:
    # A payload up to this size lies in the task's record: one block less to allocate, write and free.
    INLINE_PAYLOAD = 512
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


cdef void free_task(attachment *a, uint32_t loc) noexcept nogil:
    """The submitter, or who took its tasks over: gives up the inputs of a DONE task and its memory."""
    cdef task *t = <task *>at(a, loc)
    cdef dependency *d = dependencies_of(t)
    cdef uint32_t i, payload = t.payload
    for i in range(t.dependency_count):
        drop(a, d[i].loc)
    if payload != 0:
        store32(&t.payload, 0)
        release_block(a, payload)
    store64(&t.word, TASK_WORD(TASK_FREE, 0, 0, NEXT_VERSION(load64(&t.word))))
    release_block(a, loc)


cdef bint make_ready(attachment *a, uint32_t loc) noexcept nogil:
    """WAITING to READY and into its queue, if it waits for nothing. True if this call did it."""
    cdef task *t = <task *>at(a, loc)
    cdef dependency *d = dependencies_of(t)
    cdef uint64_t word = load64(&t.word)
    cdef uint32_t i
    cdef queue *q = <queue *>at(a, t.queue)
    if (word & 0xff) != TASK_WAITING:
        return False
    for i in range(t.dependency_count):
        if load32(&d[i].resolved) == 0:
            return False
    if not cas64(&t.word, word, TASK_WORD(TASK_READY, (word >> 8) & 0xff, a.my_slot, word >> 32)):
        return False
    if not push(a, q, loc):
        store64(&t.word, word)
        poke_scheduler(a)
        return False
    wake_worker(a, q)
    return True


# SipHash-2-4 (Aumasson and Bernstein, 2012) with the parent's id as its key: nobody can aim at another task's id.
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
            v0 += v1; v1 = rotate(v1, 13) ^ v0; v0 = rotate(v0, 32)
            v2 += v3; v3 = rotate(v3, 16) ^ v2
            v0 += v3; v3 = rotate(v3, 21) ^ v0
            v2 += v1; v1 = rotate(v1, 17) ^ v2; v2 = rotate(v2, 32)
        if i < 3:
            v0 ^= m[i]
    return v0 ^ v1 ^ v2 ^ v3


cdef class TaskContext:
    """What the ids of a task's children and `put` objects are derived from. One per running task, not thread-safe."""

    cdef uint8_t id[16]
    cdef uint64_t child_count
    cdef uint32_t put_count

    def __init__(self, bytes task_id):
        if len(task_id) != 16:
            raise ValueError(f"a task id has 16 bytes, not {len(task_id)}")
        memcpy(self.id, <char *>task_id, 16)

    def task_id(self):
        return PyBytes_FromStringAndSize(<char *>self.id, 16)

    def next_put_id(self):
        """The 20-byte id of the task's next `put` object."""
        cdef uint32_t index = 0x80000000u | self.put_count
        self.put_count += 1
        return PyBytes_FromStringAndSize(<char *>self.id, 16) + PyBytes_FromStringAndSize(<char *>&index, 4)

    def next_child_id(self):
        """The 16-byte id of the task's next child (a task or an actor)."""
        cdef uint8_t child[16]
        self._derive(child)
        return PyBytes_FromStringAndSize(<char *>child, 16)

    cdef void _derive(self, uint8_t *child) noexcept:
        cdef uint64_t low = siphash(self.id, self.child_count, 0), high = siphash(self.id, self.child_count, 1)
        self.child_count += 1
        memcpy(child, &low, 8)
        memcpy(child + 8, &high, 8)


cdef class ClaimedTask:
    """A task that this process has claimed and must `finish`."""


cdef class Tasks:
    """This process's tasks: those it submits, and those it claims.

    The submitter's calls that touch its list (submit, sweep) must come one at a time; the GIL sees to that.
    """

    def __cinit__(self, ObjectTable table):
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
            raise StoreClosedError("this process is no longer attached to the store",
                                   hint="it was closed, or this is a forked child: attach again")
        return &self.segment.a

    cdef _remember(self, uint32_t loc):
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
        self.unfinished[(self.first + self.count) % self.capacity] = loc
        self.count += 1

    # ---- submitting

    def submit(self, object cls, TaskContext context, uint32_t queue_loc, uint64_t function, bytes payload,
               list dependencies, list nested, uint32_t return_count, uint32_t retries, uint32_t flags,
               bint in_order, object task_id=None):
        """Submits one task. Returns the handles, of class `cls`, of its results.

        Args:
            context: whose child it is; names it, unless `task_id` does.
            queue_loc: the ready queue or mailbox for it.
            function, payload: opaque to the store.
            dependencies: handles of the objects that it needs sealed before it runs.
            nested: handles of further objects to keep for it.
            return_count: how many objects it makes; at most 3,000.
            retries: how often it may run again after its process died; RETRY_FOREVER: no limit.
            flags: TASK_FLAG_*.
            in_order: enqueue it at once, whether its inputs are there or not: a mailbox keeps its callers' order.

        Returns at once what is there already if a task with that id was submitted before. Raises QueueClosedError,
        QueueFullError (try again: nothing is left behind), ObjectStoreFullError, StoreClosedError.
        """
        cdef attachment *a = self._open()
        cdef queue *q = <queue *>at(a, queue_loc)
        cdef uint8_t object_id[20]
        cdef uint32_t i, loc, size, head_size, inner, payload_size = PyBytes_GET_SIZE(payload)
        cdef uint32_t dependency_count = len(dependencies) + len(nested)
        cdef uint32_t waited = len(dependencies)
        cdef bint existed = False, anew = True
        cdef task *t
        cdef dependency *d
        cdef object_record *o
        cdef Handle handle
        cdef list results = []
        cdef uint64_t version, word, top
        if q.magic != QUEUE_MAGIC or load32(&q.closed):
            raise QueueClosedError("the queue is closed")
        if self.count:
            self._sweep_front(a)
            self.since_sweep += 1
            if self.since_sweep >= SWEEP_INTERVAL and self.since_sweep >= self.count:
                self.sweep()
        if task_id is None:
            context._derive(object_id)
        else:
            memcpy(object_id, <char *><bytes>task_id, 16)

        head_size = sizeof(task) + (return_count * 4 + 15) // 16 * 16 + dependency_count * sizeof(dependency)
        size = head_size + (payload_size if payload_size <= INLINE_PAYLOAD else 0)
        if size < 256:
            size = 256
        loc = allocate_record(a, ARENA_TASKS, size) if size <= LARGEST_BLOCK else allocate_run(a, size, CHUNK_RUN)
        if loc == 0:
            raise self.table._full(size)
        t = <task *>at(a, loc)
        version = load64(&t.word) >> 32
        memcpy(t.id, object_id, 16)
        t.queue, t.submitter = queue_loc, a.my_slot
        t.return_count, t.dependency_count = return_count, dependency_count
        t.attempt, t.retries_left, t.function = 0, retries, function
        t.payload, t.payload_size = 0, payload_size
        if payload_size > INLINE_PAYLOAD:
            t.payload = allocate(a, payload_size)
            if t.payload == 0:
                release_block(a, loc)
                raise self.table._full(payload_size)
        memcpy(payload_of(a, t), PyBytes_AS_STRING(payload), payload_size)

        for i in range(return_count):
            memcpy(object_id + 16, &i, 4)
            inner = new_object(a, object_id, OBJECT_PENDING, OBJECT_FLAG_PRODUCER, &existed)
            if inner == 0:
                self._abandon(a, loc, i)
                raise self.table._full(0)
            results.append(new_handle(cls, self.segment, inner))
            returns_of(t)[i] = inner
            o = <object_record *>at(a, inner)
            if not existed:
                o.task = loc
            elif i == 0:
                # A parent that runs again: the child is done, or on its way under this very id.
                word = load64(&o.word)
                anew = (word & 0xff) == OBJECT_PENDING and not (word >> 8) & OBJECT_FLAG_PRODUCER
                if anew:
                    self._make_producer(o, loc)
        if not anew:
            self._abandon(a, loc, 0)
            return results

        d = dependencies_of(t)
        i = 0
        for handle in dependencies:
            d[i].loc, d[i].resolved, d[i].next = handle.loc, 0, 0
            a.held[handle.loc >> 2] += 1
            i += 1
        for handle in nested:
            d[i].loc, d[i].resolved, d[i].next = handle.loc, 1, 0
            a.held[handle.loc >> 2] += 1
            i += 1

        if waited == 0 or in_order:
            store64(&t.word, TASK_WORD(TASK_READY, flags, a.my_slot, version))
            if not push(a, q, loc):
                self._take_back(a, loc)
                raise QueueFullError(f"{q.capacity} tasks are queued already", hint="wait for some of them first")
            self._remember(loc)
            wake_worker(a, q)
            return results

        self._remember(loc)
        store64(&t.word, TASK_WORD(TASK_WAITING, flags, a.my_slot, version))
        for i in range(waited):
            o = <object_record *>at(a, d[i].loc)
            while True:
                top = load64(&o.dependents)
                if top == DEPENDENTS_CLOSED:
                    store32(&d[i].resolved, 1)
                    break
                d[i].next = top
                if cas64(&o.dependents, top, <uint64_t>loc << 32 | <uint64_t>(<char *>&d[i] - <char *>t)):
                    break
        make_ready(a, loc)
        return results

    cdef void _make_producer(self, object_record *o, uint32_t loc):
        cdef uint64_t word = load64(&o.word)
        while not cas64(&o.word, word, word | <uint64_t>OBJECT_FLAG_PRODUCER << 8):
            word = load64(&o.word)
        o.task = loc

    cdef void _abandon(self, attachment *a, uint32_t loc, uint32_t made):
        """A record that was never published goes back; so do the results it had made by then."""
        cdef task *t = <task *>at(a, loc)
        cdef uint32_t i
        for i in range(made):
            self._unmake_producer(a, returns_of(t)[i])
        t.dependency_count = 0
        free_task(a, loc)

    cdef void _take_back(self, attachment *a, uint32_t loc):
        cdef task *t = <task *>at(a, loc)
        cdef uint32_t i
        for i in range(t.return_count):
            self._unmake_producer(a, returns_of(t)[i])
        free_task(a, loc)

    cdef void _unmake_producer(self, attachment *a, uint32_t loc):
        """No task will make the object any more: it may go as soon as nobody holds it."""
        cdef object_record *o = <object_record *>at(a, loc)
        cdef uint64_t word = load64(&o.word)
        while (word & 0xff) == OBJECT_PENDING:
            if cas64(&o.word, word, word & ~(<uint64_t>OBJECT_FLAG_PRODUCER << 8)):
                o.task = 0
                try_delete(a, loc)
                return
            word = load64(&o.word)

    cdef void _sweep_front(self, attachment *a) noexcept:
        cdef uint32_t loc
        while self.count:
            loc = self.unfinished[self.first]
            if (load64(&(<task *>at(a, loc)).word) & 0xff) != TASK_DONE:
                return
            self.first = (self.first + 1) % self.capacity
            self.count -= 1
            free_task(a, loc)

    def sweep(self):
        """Frees every finished task of ours, and with it its hold on its inputs. Returns how many are unfinished."""
        cdef attachment *a = &self.segment.a
        cdef size_t i, kept = 0
        cdef uint32_t loc
        if a.closed:
            return 0
        self.since_sweep = 0
        for i in range(self.count):
            loc = self.unfinished[(self.first + i) % self.capacity]
            if (load64(&(<task *>at(a, loc)).word) & 0xff) == TASK_DONE:
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

    def next(self, uint32_t mailbox, int64_t timeout_ns, list watched):
        """Claims the next task, from `mailbox`, or (0) from the ready queue that the scheduler granted this process.

        Spins briefly, then sleeps, without the GIL. `watched` are handles of unsealed objects whose sealing shall end
        the wait as well. Returns a ClaimedTask, or None: after the timeout, a poke, a grant, a seal or a signal.
        """
        cdef attachment *a = self._open()
        cdef slot *me = a.me
        cdef uint32_t queue_loc = mailbox if mailbox else load32(&me.queue), loc, seen, granted
        cdef queue *q = NULL
        cdef bint empty = True
        cdef int64_t now, spin_end
        cdef int error = 0, spins
        cdef Handle handle
        cdef bint sealed = False
        if not mailbox:
            store32(&me.queue_ack, queue_loc)
        if queue_loc:
            q = <queue *>at(a, queue_loc)
            loc = claim_next(a, q, &empty)
            if loc:
                return self._claimed(a, loc)
            if timeout_ns != 0 and not watched:
                with nogil:
                    now = monotonic_ns()
                    spin_end = now + SPIN_NS
                    while empty and now < spin_end and may_spin(a):
                        for spins in range(SPINS_PER_CLOCK):
                            cpu_pause()
                            if not looks_empty(q):
                                empty = False
                                break
                        if not mailbox and load32(&me.queue) != queue_loc:
                            break
                        now = monotonic_ns()
                if not empty:
                    loc = claim_next(a, q, &empty)
                    if loc:
                        return self._claimed(a, loc)
        if timeout_ns == 0:
            return None
        add32(&me.sleeping, 1)
        store32(&me.wait_loc, WAIT_ANY)
        seen = load32(&me.futex)
        if q != NULL:
            or64(&q.sleepers[a.my_slot >> 6], <uint64_t>1 << (a.my_slot & 63))
        store32(&me.idle, 1)
        for handle in watched:
            if (load64(&(<object_record *>at(a, handle.loc)).word) & 0xff) == OBJECT_SEALED:
                sealed = True
        granted = mailbox if mailbox else load32(&me.queue)
        if not sealed and granted == queue_loc and (q == NULL or looks_empty(q)):
            if load32(&a.hdr.starved) != 0 and not mailbox:
                poke_scheduler(a)
            with nogil:
                clear_awake(a)
                error = futex_wait(&me.futex, seen, timeout_ns)
                set_awake(a)
        store32(&me.idle, 0)
        if q != NULL:
            and64(&q.sleepers[a.my_slot >> 6], ~(<uint64_t>1 << (a.my_slot & 63)))
        if sub32(&me.sleeping, 1) == 1:
            store32(&me.wait_loc, WAIT_NOTHING)
        if error == 4:
            PyErr_CheckSignals()
        granted = mailbox if mailbox else load32(&me.queue)
        if granted and granted == queue_loc:
            loc = claim_next(a, q, &empty)
            if loc:
                return self._claimed(a, loc)
        return None

    cdef ClaimedTask _claimed(self, attachment *a, uint32_t loc):
        cdef task *t = <task *>at(a, loc)
        cdef ClaimedTask claimed = ClaimedTask.__new__(ClaimedTask)
        cdef uint32_t i
        cdef dependency *d = dependencies_of(t)
        cdef uint32_t *returns = returns_of(t)
        store32(&a.me.running, loc)
        store32(&a.me.claiming, 0)
        claimed.loc = loc
        claimed.id = PyBytes_FromStringAndSize(<char *>t.id, 16)
        claimed.function = t.function
        claimed.payload = PyBytes_FromStringAndSize(payload_of(a, t), t.payload_size)
        claimed.flags = (load64(&t.word) >> 8) & 0xff
        claimed.attempt = t.attempt
        claimed.submitter = t.submitter
        if t.return_count == 1:
            claimed.returns = (returns[0],)
        else:
            claimed.returns = tuple([returns[i] for i in range(t.return_count)])
        claimed.dependencies = tuple([d[i].loc for i in range(t.dependency_count)]) if t.dependency_count else ()
        return claimed

    def finish(self, ClaimedTask claimed):
        """The results are sealed: the submitter may free the task."""
        cdef attachment *a = self._open()
        cdef task *t = <task *>at(a, claimed.loc)
        cdef uint64_t word = load64(&t.word)
        if (word & 0xff) == TASK_CLAIMED and ((word >> 16) & 0xffff) == a.my_slot:
            store64(&t.word, TASK_WORD(TASK_DONE, (word >> 8) & 0xff, a.my_slot, word >> 32))
        a.me.finished_count += 1
        store32(&a.me.running, 0)

    def mark_running(self, ClaimedTask claimed):
        """Says which of several claimed tasks is being run: what others see of this process."""
        store32(&self.segment.a.me.running, claimed.loc)

    def forget(self, ClaimedTask claimed):
        """The task went back into its queue: it is no longer this process's to finish."""
        store32(&self._open().me.running, 0)
