"""Queues of tasks: the ready queue of a job and resource shape, and the mailbox of an actor.

One bounded ring of cells, many producers, many consumers, no lock. A cell is filled and emptied by
compare-and-swap; `head` and `tail` are advanced by whoever finds them behind, so nobody waits for a
process that died between two steps. What makes a claim is not the cell but the task's own state
word, READY to CLAIMED with the claimer's slot in it, and the claimer has written the task into its
own slot before: there is no moment at which a task is nobody's.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.heap cimport allocate_run, release_block
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.pages cimport drop_pages, reserve_chunks
from rostral_objectstore._native.segment cimport (
    Segment, at, attachment, locator, poke_scheduler, wake_slot)
from rostral_objectstore.errors import ObjectStoreFullError


cdef enum:
    # Producers see to it that the pages of so many cells beyond the tail exist: whoever looks at
    # the head or the tail finds one.
    CELLS_AHEAD = 64


cdef uint64_t *cells(queue *q) noexcept nogil:
    return <uint64_t *>(<char *>q + QUEUE_CELLS_OFFSET)


cdef inline uint64_t cells_before(uint64_t chunk) noexcept nogil:
    """How many cells lie in the first chunks of a queue."""
    return (chunk * CHUNK_SIZE - QUEUE_CELLS_OFFSET) // 8


cdef bint reserve_cells(attachment *a, queue *q, uint32_t reserved) noexcept nogil:
    """Makes the next chunk's pages of a ring that had `reserved` cells. False: none are left.

    May be done twice, or by one who dies before he has said so: the pages are as they were then.
    """
    cdef uint64_t chunk = (reserved * 8 + QUEUE_CELLS_OFFSET) // CHUNK_SIZE
    cdef uint64_t first = (<char *>q - a.chunks) // CHUNK_SIZE
    if reserve_chunks(a, first + chunk, 1) != 0:
        return False
    cas32(&q.reserved_cells, reserved, min(<uint64_t>q.capacity, cells_before(chunk + 1)))
    return True


cdef void clear_rest(attachment *a, uint64_t first, uint64_t size) noexcept nogil:
    """Takes the pages from all chunks of a new queue but its first: what is there then is 0."""
    cdef uint64_t i
    for i in range(first + 1, first + (size + CHUNK_SIZE - 1) // CHUNK_SIZE):
        drop_pages(a, i)


cdef bint push(attachment *a, queue *q, uint32_t task_loc) noexcept nogil:
    """Appends a task. False when the queue is full, or the machine has no memory for its pages."""
    cdef uint64_t mask = q.capacity - 1
    cdef uint64_t tail, lap, cell
    cdef uint64_t *c = cells(q)
    cdef uint32_t reserved
    while True:
        tail = load64(&q.tail)
        reserved = load32(&q.reserved_cells)
        if tail + CELLS_AHEAD > reserved and reserved < q.capacity:
            if not reserve_cells(a, q, reserved):
                return False
            continue
        lap = LAP(tail, q.capacity)
        cell = load64(&c[tail & mask])
        if cell == lap << 32:
            if cas64(&c[tail & mask], cell, lap << 32 | task_loc):
                FAILPOINT(a.plan, QUEUE_STEP_FILLED)
                cas64(&q.tail, tail, tail + 1)
                if q.base != 0:
                    say_busy(a, q)
                return True
        elif cell >> 32 == lap or cell == LAP(lap + 1, 1) << 32:
            # Filled in this lap (perhaps already emptied again), but the producer has not advanced
            # the tail yet.
            cas64(&q.tail, tail, tail + 1)
        elif load64(&q.tail) == tail:
            return False  # still holds a task of the lap before


cdef void say_busy(attachment *a, queue *q) noexcept nogil:
    """After a push into a lane: whoever looks for tasks at its base shall look at it."""
    cdef queue *base = <queue *>at(a, q.base)
    cdef uint64_t bit = <uint64_t>1 << q.lane_number
    FAILPOINT(a.plan, LANE_STEP_QUEUED)
    if not load64(&base.busy_lanes) & bit:
        or64(&base.busy_lanes, bit)


cdef uint32_t claim_next(attachment *a, queue *q, bint *empty) noexcept nogil:
    """Claims the oldest task for this process. Returns its locator, or 0 when there is none."""
    cdef uint64_t mask = q.capacity - 1
    cdef uint64_t head, lap, cell, word
    cdef uint64_t *c = cells(q)
    cdef uint32_t loc
    cdef task *t
    cdef bint ours, mine
    cdef uint32_t queue_loc = locator(a, q)
    while True:
        head = load64(&q.head)
        lap = LAP(head, q.capacity)
        cell = load64(&c[head & mask])
        if cell >> 32 != lap:
            if load64(&q.head) == head:
                cas64(&q.head, head, head + 1)  # emptied by one who has not advanced the head yet
            continue
        loc = <uint32_t>cell
        if loc == 0:
            if load64(&q.head) != head:
                continue
            empty[0] = True
            return 0
        t = <task *>at(a, loc)
        release32(&a.me.claiming, loc)
        FAILPOINT(a.plan, CLAIM_STEP_SAID)
        word = load64(&t.word)
        # A claimer that died before it emptied the cell may have left a task here that was run
        # again, freed, and is another queue's by now.
        ours = t.queue == queue_loc
        # While the cell is as it was, the task has not been freed, so what was read was a task's.
        if load64(&c[head & mask]) != cell:
            release32(&a.me.claiming, 0)
            continue
        mine = ours and (word & 0xff) == TASK_READY and cas64(
            &t.word, word, TASK_WORD(TASK_CLAIMED, (word >> 8) & 0xff, a.my_slot, word >> 32))
        FAILPOINT(a.plan, CLAIM_STEP_CLAIMED)
        if cas64(&c[head & mask], cell, LAP(lap + 1, 1) << 32):
            FAILPOINT(a.plan, CLAIM_STEP_EMPTIED)
            cas64(&q.head, head, head + 1)
        if mine:
            empty[0] = False
            return loc
        release32(&a.me.claiming, 0)


cdef bint looks_empty(queue *q) noexcept nogil:
    """Cheap enough to spin on: whether the head cell has no task in it right now."""
    cdef uint64_t head = q.head
    return <uint32_t>load64(&cells(q)[head & (q.capacity - 1)]) == 0 and load64(&q.tail) <= head


cdef void wake_worker(attachment *a, queue *q) noexcept nogil:
    """After a push: wakes one worker that sleeps here, or a scheduler that asked to be told."""
    cdef uint32_t i
    cdef uint64_t word, bit
    if q.base != 0:
        q = <queue *>at(a, q.base)
    for i in range(SLOT_WORDS):
        word = load64(&q.sleepers[i])
        while word != 0:
            bit = word & (~word + 1)
            if and64(&q.sleepers[i], ~bit) & bit:
                wake_slot(a, i * 64 + lowest_bit(bit))
                return
            word = load64(&q.sleepers[i])
    if load32(&q.wants_scheduler) != 0:
        poke_scheduler(a)


cdef uint32_t resolved_mark(attachment *a, uint32_t object_loc) noexcept nogil:
    """What an object that is sealed makes of the dependencies on it."""
    cdef uint64_t word = load64(&(<object_record *>at(a, object_loc)).word)
    return DEPENDENCY_FAILED if (word >> 8) & OBJECT_FLAG_ERROR else DEPENDENCY_RESOLVED


cdef bint may_start(dependency *d, uint32_t count) noexcept nogil:
    """Whether a task waits for nothing: all its inputs are there, or one of them has failed."""
    cdef bint all_there = True
    cdef uint32_t mark, i
    for i in range(count):
        mark = load32(&d[i].resolved)
        if mark == DEPENDENCY_FAILED:
            return True
        if mark != DEPENDENCY_RESOLVED:
            all_there = False
    return all_there


cdef void resolve_dependents(attachment *a, uint64_t head, uint32_t mark) noexcept nogil:
    """An object was sealed: tasks of its stack that wait for nothing else become ready.

    `mark` is what their dependencies become: with DEPENDENCY_FAILED they wait for nothing.

    Tricky: another process may be resolving another dependency of the same task at this moment.
    The task can become ready, run and be freed as soon as its last dependency is marked, so
    everything of it is read before our mark, and the one compare-and-swap after it carries the
    version read before. Each marks and then looks: whoever marks last sees all marks; two who both
    see them all race for the compare-and-swap, and one wins.
    """
    cdef dependency *d
    cdef dependency *all_of_them
    cdef task *t
    cdef uint64_t word
    cdef uint32_t count, task_loc
    cdef queue *q
    while head > DEPENDENTS_CLOSED:
        # An element of the stack is named by its task's locator << 32 | its offset in the task's
        # record.
        task_loc = <uint32_t>(head >> 32)
        d = <dependency *>(<char *>at(a, task_loc) + <uint32_t>head)
        t = <task *>at(a, task_loc)
        word = load64(&t.word)
        count = t.dependency_count
        all_of_them = <dependency *>(
            <char *>t + sizeof(task) + (t.return_count * 4 + 15) // 16 * 16)
        q = <queue *>at(a, t.queue)
        head = d.next
        store32(&d.resolved, mark)
        FAILPOINT(a.plan, RESOLVE_STEP_MARKED)
        if (word & 0xff) == TASK_WAITING and may_start(all_of_them, count):
            enqueue(a, q, task_loc, word)


cdef bint enqueue(attachment *a, queue *q, uint32_t task_loc, uint64_t word) noexcept nogil:
    """WAITING, as `word` says, to READY and into its queue. False: another did it, or no room."""
    cdef task *t = <task *>at(a, task_loc)
    if not cas64(&t.word, word, TASK_WORD(
            TASK_READY, (word >> 8) & 0xff, a.my_slot, word >> 32)):
        return False
    FAILPOINT(a.plan, RESOLVE_STEP_READY)
    if push(a, q, task_loc):
        wake_worker(a, q)
        return True
    # Waiting here for room could stop the very worker that would make it. The scheduler looks for
    # tasks that wait for nothing whenever it is poked. (Unless it was cancelled at this moment.)
    cas64(&t.word, TASK_WORD(TASK_READY, (word >> 8) & 0xff, a.my_slot, word >> 32), word)
    poke_scheduler(a)
    return False


cdef void mark_queued(attachment *a, queue *q, uint64_t *marks) noexcept nogil:
    """Sets the bit of each task that a cell names: cells change, but a READY task keeps its own."""
    cdef uint64_t *c = cells(q)
    cdef uint64_t position = load64(&q.head), capacity = q.capacity, i
    cdef uint32_t loc
    # The cell at the tail may be filled already.
    for i in range(min(load64(&q.tail) - position + 1, capacity)):
        loc = <uint32_t>load64(&c[(position + i) & (capacity - 1)])
        if <uint64_t>loc << 6 < a.hdr.wide_offset:
            marks[loc >> 6] |= <uint64_t>1 << (loc & 63)


cdef bint restack(attachment *a, uint32_t object_loc, uint64_t sought) noexcept nogil:
    """Rebuilds the stack of an object that tasks wait for. Returns whether `sought` was in it.

    Tasks that are DONE (cancelled, failed) are left out. The stack is taken out whole, so each
    element is ours alone, and what still waits is pushed again; if the object is sealed meanwhile,
    those are resolved here.
    """
    cdef object_record *o = <object_record *>at(a, object_loc)
    cdef uint64_t element = load64(&o.dependents), following
    cdef uint32_t task_loc
    cdef bint found = False
    cdef dependency *d
    while element > DEPENDENTS_CLOSED:
        if cas64(&o.dependents, element, 0):
            break
        element = load64(&o.dependents)
    while element > DEPENDENTS_CLOSED:
        task_loc = <uint32_t>(element >> 32)
        d = <dependency *>(<char *>at(a, task_loc) + <uint32_t>element)
        following = d.next
        found = found or element == sought
        if (load64(&(<task *>at(a, task_loc)).word) & 0xff) == TASK_DONE:
            store32(&d.resolved, DEPENDENCY_RESOLVED)
        elif not stack(a, o, d, element):
            d.next = 0
            resolve_dependents(a, element, resolved_mark(a, object_loc))
        element = following
    return found


cdef bint stack(
        attachment *a, object_record *o, dependency *d, uint64_t element) noexcept nogil:
    """Pushes one element. False: the object is sealed, nobody will look at its stack any more."""
    cdef uint64_t top
    while True:
        top = load64(&o.dependents)
        if top == DEPENDENTS_CLOSED:
            return False
        d.next = top
        if cas64(&o.dependents, top, element):
            return True


cdef queue *queue_at(attachment *a, uint32_t loc) noexcept nogil:
    """The queue at a locator that came from outside, or NULL."""
    cdef uint64_t offset = <uint64_t>loc << 6, word
    if offset < a.hdr.chunks_offset or offset >= a.hdr.wide_offset or offset % CHUNK_SIZE:
        return NULL
    word = load64(&a.chunk_words[(offset - a.hdr.chunks_offset) // CHUNK_SIZE])
    if (word & 0xff) != CHUNK_QUEUE or (<queue *>at(a, loc)).magic != QUEUE_MAGIC:
        return NULL
    return <queue *>at(a, loc)


cdef class Queue:
    """One queue of the segment, which other processes name by its locator.

    `create`, `close` and `free` are the scheduler's.
    """

    def __init__(self, Segment segment not None, uint32_t loc):
        self.segment = segment
        self.loc = loc
        self.q = queue_at(&segment.a, loc)
        if self.q == NULL:
            raise ValueError(f"no queue at locator {loc}")

    @staticmethod
    def create(Segment segment not None, uint32_t capacity, uint32_t kind,
               bytes job_id not None, bytes key not None):
        """Makes a queue of `capacity` cells (a power of two). Raises ObjectStoreFullError."""
        if len(job_id) != 16 or len(key) != 16:
            raise ValueError("job_id and key have 16 bytes each")
        if capacity == 0 or capacity & (capacity - 1):
            raise ValueError(f"capacity must be a power of two, not {capacity}")
        cdef uint64_t size = QUEUE_CELLS_OFFSET + <uint64_t>capacity * 8
        cdef uint32_t loc = allocate_run(&segment.a, size, CHUNK_QUEUE, 0)
        if loc == 0:
            raise ObjectStoreFullError(
                f"no room in the store for a queue of {capacity} tasks ({size} bytes)",
                hint="start the store with more memory",
            )
        cdef queue *q = <queue *>at(&segment.a, loc)
        memset(q, 0, min(size, <uint64_t>CHUNK_SIZE))
        clear_rest(&segment.a, (<char *>q - segment.a.chunks) // CHUNK_SIZE, size)
        q.capacity = capacity
        q.reserved_cells = min(<uint64_t>capacity, cells_before(1))
        q.kind = kind
        memcpy(q.job_id, <char *>job_id, 16)
        memcpy(q.key, <char *>key, 16)
        q.magic = QUEUE_MAGIC
        return Queue(segment, loc)

    def free(self):
        """Gives the memory back. Nobody may use the locator afterwards."""
        self.q.magic = 0
        release_block(&self.segment.a, self.loc)

    def close(self):
        """Marks that nothing will be taken from it any more; submitters look at the mark."""
        store32(&self.q.closed, 1)

    @property
    def closed(self):
        return load32(&self.q.closed) != 0

    @property
    def capacity(self):
        return self.q.capacity

    @property
    def job_id(self):
        return PyBytes_FromStringAndSize(<char *>self.q.job_id, 16)

    @property
    def key(self):
        return PyBytes_FromStringAndSize(<char *>self.q.key, 16)

    def __len__(self):
        cdef int64_t n = <int64_t>(load64(&self.q.tail) - load64(&self.q.head))
        return n if n > 0 else 0

    def set_wants_scheduler(self, bint wanted):
        """Whether a push that finds no sleeping worker shall poke the scheduler."""
        store32(&self.q.wants_scheduler, wanted)

    def wake_all(self):
        """Wakes every worker that sleeps here: after a death that may have swallowed a wake-up."""
        cdef uint32_t i
        cdef uint64_t word
        for i in range(SLOT_WORDS):
            word = exchange64(&self.q.sleepers[i], 0)
            while word:
                wake_slot(&self.segment.a, i * 64 + lowest_bit(word))
                word &= word - 1

    def push(self, uint32_t task_loc):
        """Appends a READY task (the scheduler: one whose claimer died). False when full."""
        cdef bint done = push(&self.segment.a, self.q, task_loc)
        if done:
            wake_worker(&self.segment.a, self.q)
        return done
