"""Repair: what the daemons do about the dead, and what they can see of the living.

After a death two daemons act in turn on the dead one's slot. The scheduler (if there is one) takes over the tasks it
had submitted, runs again or fails those it had claimed, and says REPAIRED; then the store clears its holds, ends what
it had begun, takes its memory back and frees the slot. Each step can be done again if the daemon itself dies in it.

These functions look through all records: some tens of milliseconds for a million of them, once per death.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from rostral_objectstore._native.heap cimport (
    ORPHAN_SLOT, class_size, free_run, initial_word, release_block)
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.queue cimport claim_next, push, resolve_dependents, wake_worker
from rostral_objectstore._native.segment cimport Segment, at, attachment, locator
from rostral_objectstore._native.table cimport (
    Handle, ObjectTable, finish_delete, held_by_none, hold, new_handle, try_delete, wake_holders)
from rostral_objectstore._native.task cimport (
    Tasks, dependencies_of, free_task, make_ready, payload_of, returns_of)


cdef class Records:
    """Walks over all records of one kind. `next` gives the locator of each block in use, then 0."""

    cdef attachment *a
    cdef Segment segment
    cdef uint64_t chunk
    cdef uint32_t kind, block, block_size

    @staticmethod
    cdef Records over(Segment segment, uint32_t kind):
        cdef Records walk = Records.__new__(Records)
        walk.segment, walk.a, walk.kind = segment, &segment.a, kind
        walk.chunk, walk.block, walk.block_size = 0, 0, 0
        return walk

    cdef uint32_t next(self) noexcept nogil:
        cdef uint64_t word
        cdef uint32_t block
        while self.chunk < self.a.hdr.chunk_count:
            if self.block == 0:
                word = load64(&self.a.chunk_words[self.chunk])
                if (word & 0xff) != self.kind:
                    self.chunk += 1
                    continue
                self.block_size = class_size((word >> 8) & 0x1f)
            while self.block < CHUNK_SIZE // self.block_size:
                block = self.block
                self.block += 1
                if load64(&self.a.chunk_records[self.chunk].used[block >> 6]) >> (block & 63) & 1:
                    return locator(
                        self.a, self.a.chunks + self.chunk * CHUNK_SIZE + <uint64_t>block * self.block_size)
            self.block = 0
            self.chunk += 1
        return 0


# ---- the store's part -----------------------------------------------------------------------------------------------

def reap(ObjectTable table, uint32_t dead):
    """Clears a dead process's holds, ends what it had begun, and takes its memory back. Idempotent."""
    cdef Segment segment = table.segment
    cdef attachment *a = &segment.a
    cdef Records walk = Records.over(segment, CHUNK_OBJECTS)
    cdef uint32_t loc
    cdef object_record *o
    cdef uint64_t word, i
    cdef uint32_t state, flags
    # Locks first: whoever waits for one sees the slot's state and takes it over itself, but may be asleep.
    for i in range(a.hdr.index_group_count):
        if a.index[i].lock == dead + 1:
            cas32(&a.index[i].lock, dead + 1, 0)
    while True:
        loc = walk.next()
        if loc == 0:
            break
        o = <object_record *>at(a, loc)
        word = load64(&o.word)
        state, flags = word & 0xff, (word >> 8) & 0xff
        if dead < 64:
            and64(&o.holders, ~(<uint64_t>1 << dead))
        else:
            and64(&o.holders_wide[(dead >> 6) - 1], ~(<uint64_t>1 << (dead & 63)))
        if ((word >> 16) & 0xffff) == dead:
            if state == OBJECT_DELETING:
                finish_delete(a, o, word)
                continue
            if state == OBJECT_CREATED:
                # Whoever waits goes on waiting: for the task's next run, or for another process to make it.
                o.data = 0
                cas64(&o.word, word, (word & ~<uint64_t>0xff) | OBJECT_PENDING)
            elif state == OBJECT_SEALED and load64(&o.dependents) != DEPENDENTS_CLOSED:
                # Died between the seal and its consequences.
                word = exchange64(&o.dependents, DEPENDENTS_CLOSED)
                wake_holders(a, loc, True)
                resolve_dependents(a, word)
        try_delete(a, loc)
    sweep_chunks(table, dead)


cdef void mark(attachment *a, uint64_t *marks, uint32_t loc) noexcept nogil:
    """Marks are one bit per 64 bytes of the chunks."""
    cdef uint64_t unit
    if loc == 0:
        return
    unit = loc - (a.hdr.chunks_offset >> 6)
    marks[unit >> 6] |= <uint64_t>1 << (unit & 63)


cdef bint marked(attachment *a, uint64_t *marks, uint64_t unit) noexcept nogil:
    return marks[unit >> 6] >> (unit & 63) & 1


def sweep_chunks(ObjectTable table, uint32_t dead):
    """Frees the blocks of a dead process that nothing names, and gives its chunks to nobody (ORPHAN_SLOT)."""
    cdef attachment *a = &table.segment.a
    cdef uint64_t count = a.hdr.chunk_count
    cdef uint64_t *marks = <uint64_t *>calloc(count * CHUNK_LOCATORS // 64, 8)
    cdef Records walk
    cdef uint32_t loc, kind, class_, block, size
    cdef uint64_t chunk, word, head, unit, orphans = 0
    if marks == NULL:
        raise MemoryError
    try:
        walk = Records.over(table.segment, CHUNK_OBJECTS)
        while True:
            loc = walk.next()
            if loc == 0:
                break
            mark(a, marks, loc)
            if not (load64(&(<object_record *>at(a, loc)).word) >> 8) & OBJECT_FLAG_INLINE:
                mark(a, marks, (<object_record *>at(a, loc)).data)
        walk = Records.over(table.segment, CHUNK_TASKS)
        while True:
            loc = walk.next()
            if loc == 0:
                break
            if (load64(&(<task *>at(a, loc)).word) & 0xff) != TASK_FREE:
                mark(a, marks, loc)
                mark(a, marks, (<task *>at(a, loc)).payload)
        for chunk in range(count):
            word = load64(&a.chunk_words[chunk])
            kind, class_ = word & 0xff, (word >> 8) & 0xff
            if ((word >> 16) & 0xffff) != dead:
                orphans += ((word >> 16) & 0xffff) == ORPHAN_SLOT and kind in (CHUNK_OBJECTS, CHUNK_TASKS)
                continue
            unit = chunk * CHUNK_LOCATORS
            if kind == CHUNK_CLAIMED:
                store64(&a.chunk_words[chunk], 0)
            elif kind == CHUNK_BODY:
                head = load64(&a.chunk_words[chunk - (word >> 32)])
                if (head & 0xff) not in (CHUNK_RUN, CHUNK_QUEUE) or (head >> 32) <= (word >> 32):
                    store64(&a.chunk_words[chunk], 0)
            elif kind == CHUNK_RUN:
                if not marked(a, marks, unit):
                    free_run(a, chunk)
            elif kind in (CHUNK_SLAB, CHUNK_TASKS, CHUNK_OBJECTS):
                size = class_size(class_)
                for block in range(CHUNK_SIZE // size):
                    if not marked(a, marks, unit + block * (size >> 6)):
                        and64(&a.chunk_records[chunk].used[block >> 6], ~(<uint64_t>1 << (block & 63)))
                store64(&a.chunk_words[chunk], CHUNK_WORD(kind, class_, ORPHAN_SLOT, 1))
                orphans += kind != CHUNK_SLAB
        store64(&a.hdr.orphan_chunks, orphans)
        first = 0
        while first < count and load64(&a.chunk_words[first]) != 0:
            first += 1
        store64(&a.hdr.first_free_chunk, first)
    finally:
        free(marks)
    free_empty_orphans(table)


def free_empty_orphans(ObjectTable table):
    """Gives back the data chunks of dead processes once their last block is free. Returns how many still have some."""
    cdef attachment *a = &table.segment.a
    cdef uint64_t chunk, word
    cdef uint32_t size, i
    cdef bint empty
    left = 0
    for chunk in range(a.hdr.chunk_count):
        word = load64(&a.chunk_words[chunk])
        if (word & 0xff) != CHUNK_SLAB or ((word >> 16) & 0xffff) != ORPHAN_SLOT:
            continue
        size = class_size((word >> 8) & 0xff)
        empty = True
        for i in range(16):
            if load64(&a.chunk_records[chunk].used[i]) != initial_word(size, i):
                empty = False
                break
        if empty:
            store64(&a.chunk_words[chunk], 0)
            a.hdr.chunks_in_use -= 1
            if load64(&a.hdr.first_free_chunk) > chunk:
                store64(&a.hdr.first_free_chunk, chunk)
        else:
            left += 1
    return left


def list_objects(ObjectTable table, uint64_t limit):
    """Up to `limit` dicts: id, state, size, holders (slots), containers, is_error. A moment's view without a lock."""
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef attachment *a = &table.segment.a
    cdef uint32_t loc
    cdef object_record *o
    cdef uint64_t word
    found = []
    while len(found) < limit:
        loc = walk.next()
        if loc == 0:
            break
        o = <object_record *>at(a, loc)
        word = load64(&o.word)
        if (word & 0xff) == OBJECT_FREE:
            continue
        holders = [bit for bit in range(64) if o.holders >> bit & 1]
        for i in range(SLOT_WORDS - 1):
            holders += [64 + i * 64 + bit for bit in range(64) if o.holders_wide[i] >> bit & 1]
        found.append({
            "id": PyBytes_FromStringAndSize(<char *>o.id, 20), "state": word & 0xff, "size": o.size,
            "holders": holders, "containers": o.containers,
            "is_error": bool((word >> 8) & OBJECT_FLAG_ERROR),
        })
    return found


# ---- the scheduler's part -------------------------------------------------------------------------------------------

def list_tasks(Segment segment, uint64_t limit):
    """Up to `limit` dicts: loc, id, state, slot, queue, submitter, attempt, retries_left, flags, returns."""
    cdef Records walk = Records.over(segment, CHUNK_TASKS)
    cdef uint32_t loc
    cdef uint64_t word
    found = []
    while len(found) < limit:
        loc = walk.next()
        if loc == 0:
            break
        word = load64(&(<task *>at(&segment.a, loc)).word)
        if (word & 0xff) != TASK_FREE:
            found.append(task_info(segment, loc))
    return found


def task_info(Segment segment, uint32_t loc):
    """One task as list_tasks gives it, with its payload."""
    cdef task *t = <task *>at(&segment.a, loc)
    cdef uint64_t word = load64(&t.word)
    cdef uint32_t *returns = returns_of(t)
    return {
        "loc": loc, "id": PyBytes_FromStringAndSize(<char *>t.id, 16), "state": word & 0xff,
        "slot": (word >> 16) & 0xffff, "queue": t.queue, "submitter": t.submitter, "attempt": t.attempt,
        "retries_left": t.retries_left, "flags": (word >> 8) & 0xff, "function": t.function,
        "returns": [returns[i] for i in range(t.return_count)],
    }


def claimed_by(Segment segment, uint32_t dead):
    """Locators of the tasks that the process of the slot has claimed and not finished."""
    cdef Records walk = Records.over(segment, CHUNK_TASKS)
    cdef uint32_t loc
    cdef uint64_t word
    found = []
    while True:
        loc = walk.next()
        if loc == 0:
            return found
        word = load64(&(<task *>at(&segment.a, loc)).word)
        if (word & 0xff) == TASK_CLAIMED and ((word >> 16) & 0xffff) == dead:
            found.append(loc)


def run_again(Segment segment, uint32_t loc):
    """A task whose claimer died goes back into its queue. False when its retries are spent or the queue is full."""
    cdef attachment *a = &segment.a
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word)
    cdef queue *q = <queue *>at(a, t.queue)
    if (word & 0xff) != TASK_CLAIMED or t.retries_left == 0 or load32(&q.closed):
        return False
    if t.retries_left != RETRY_FOREVER:
        t.retries_left -= 1
    t.attempt += 1
    store64(&t.word, TASK_WORD(TASK_READY, (word >> 8) & 0xff, a.my_slot, word >> 32))
    if not push(a, q, loc):
        store64(&t.word, word)
        return False
    wake_worker(a, q)
    return True


def fail(ObjectTable table, uint32_t loc, uint32_t kind, bytes error, uint32_t error_flag):
    """Seals the task's missing results with the error and ends the task. Safe to repeat."""
    cdef attachment *a = &table.segment.a
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word
    cdef object_record *o
    cdef uint32_t i, inner
    for i in range(t.return_count):
        inner = returns_of(t)[i]
        o = <object_record *>at(a, inner)
        word = load64(&o.word)
        if (word & 0xff) == OBJECT_CREATED:  # its dead creator wrote half of it
            o.data = 0
            cas64(&o.word, word, (word & ~<uint64_t>0xff) | OBJECT_PENDING)
        table.fill_at(inner, kind, error, [], [], error_flag)
    word = load64(&t.word)
    store64(&t.word, TASK_WORD(TASK_DONE, (word >> 8) & 0xff, a.my_slot, word >> 32))


def claim_all(Segment segment, uint32_t queue_loc):
    """Takes every task out of a queue, claimed by the caller. Returns their locators."""
    cdef attachment *a = &segment.a
    cdef bint empty = False
    cdef uint32_t loc
    taken = []
    while True:
        loc = claim_next(a, <queue *>at(a, queue_loc), &empty)
        store32(&a.me.claiming, 0)
        if loc == 0:
            return taken
        taken.append(loc)


def take_over(Tasks tasks, uint32_t dead):
    """The unfinished tasks of a dead submitter become the caller's: it holds their inputs and frees them."""
    cdef Segment segment = tasks.segment
    cdef attachment *a = &segment.a
    cdef Records walk = Records.over(segment, CHUNK_TASKS)
    cdef uint32_t loc, i
    cdef uint64_t word
    cdef task *t
    cdef dependency *d
    taken = 0
    while True:
        loc = walk.next()
        if loc == 0:
            return taken
        t = <task *>at(a, loc)
        word = load64(&t.word)
        if t.submitter != dead or (word & 0xff) == TASK_FREE:
            continue
        d = dependencies_of(t)
        for i in range(t.dependency_count):
            hold(a, d[i].loc, load64(&(<object_record *>at(a, d[i].loc)).word) >> 32)
        t.submitter = a.my_slot
        tasks._remember(loc)
        taken += 1


def rescue(Segment segment):
    """Starts tasks that wait for nothing: their queue was full, or who should have started them died."""
    cdef attachment *a = &segment.a
    cdef Records walk = Records.over(segment, CHUNK_TASKS)
    cdef uint32_t loc
    started = 0
    while True:
        loc = walk.next()
        if loc == 0:
            return started
        if (load64(&(<task *>at(a, loc)).word) & 0xff) == TASK_WAITING:
            started += make_ready(a, loc)


def end_tasks(Tasks tasks, bytes job_id):
    """Drops every task of a job whose processes are all gone, and what only those tasks would have made."""
    cdef Segment segment = tasks.segment
    cdef attachment *a = &segment.a
    cdef Records walk = Records.over(segment, CHUNK_TASKS)
    cdef uint32_t loc, i
    cdef uint64_t word
    cdef task *t
    dropped = 0
    while True:
        loc = walk.next()
        if loc == 0:
            break
        t = <task *>at(a, loc)
        word = load64(&t.word)
        if (word & 0xff) in (TASK_FREE, TASK_DONE):
            continue
        if memcmp((<queue *>at(a, t.queue)).job_id, <char *>job_id, 16) != 0:
            continue
        for i in range(t.return_count):
            tasks._unmake_producer(a, returns_of(t)[i])
        store64(&t.word, TASK_WORD(TASK_DONE, 0, a.my_slot, word >> 32))
        dropped += 1
    tasks.sweep()
    return dropped
