"""Repair: what the daemons do about the dead, and what they can see of the living.

After a death two daemons act in turn on the dead one's slot. The scheduler (if there is one) takes
over the tasks it had submitted, runs again or fails those it had claimed, and says REPAIRED; then
the store clears its holds, ends what it had begun, takes its memory back and frees the slot. Each
step can be done again if the daemon itself dies in it.

These functions look through all records: some tens of milliseconds for a million of them, once per
death.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from rostral_objectstore._native.counting cimport settle_count
from rostral_objectstore._native.freeing cimport settle_freeing
from rostral_objectstore._native.heap cimport class_size, initial_word, release_block
from rostral_objectstore._native.index cimport unlock_dead
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.objects cimport (
    drop, hold, holder_bits, settle_deletion, try_delete, undo_created, wake_holders)
from rostral_objectstore._native.queue cimport (
    claim_next, mark_queued, push, queue_at, resolve_dependents, resolved_mark, wake_worker)
from rostral_objectstore._native.records cimport Records
from rostral_objectstore._native.segment cimport (
    Segment, at, attachment, is_object, slot_is_live, wide_of)
from rostral_objectstore._native.stream cimport close_stream, undo_item
from rostral_objectstore._native.table cimport ObjectTable
from rostral_objectstore._native.task cimport (
    RETURNS_MAX, Tasks, dependencies_of, has_all_results, link_rest, make_ready, returns_of,
    unmake_producer)

from rostral_objectstore._native.sweep import sweep_chunks
from rostral_objectstore.errors import QueueClosedError


# ---- the store's part ----------------------------------------------------------------------------

def settle(ObjectTable table not None, uint32_t dead):
    """What cannot wait for the scheduler: whoever meets these spins until they are gone.

    Locks of the index, counts of references, and objects whose deletion the dead one had begun.
    """
    cdef attachment *a = &table.segment.a
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef uint32_t loc
    unlock_dead(a, dead)
    settle_count(a, dead)
    loc = walk.next()
    while loc != 0:
        settle_deletion(a, loc, dead)
        loc = walk.next()


def reap(ObjectTable table not None, uint32_t dead):
    """Clears a dead process's holds, ends what it had begun, takes its memory back. Idempotent."""
    settle(table, dead)
    reap_objects(table, dead)
    reap_tasks(table, dead)
    sweep_chunks(table, dead)


cdef void clear_bits(attachment *a, uint32_t loc, bint used, uint32_t dead) noexcept nogil:
    """Ends the dead one's pin and hold."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t bit = <uint64_t>1 << (dead & 63), word
    cdef uint64_t *pins = &o.pins if dead < 64 else &wide_of(a, o).pins[(dead >> 6) - 1]
    cdef uint64_t *holders = &o.holders
    if dead >= 64:
        holders = &wide_of(a, o).holders[(dead >> 6) - 1]
    if load64(pins) & bit:
        and64(pins, ~bit)
    word = load64(&o.word)
    if used and (word & 0xff) == OBJECT_FREED and hold(a, loc, word >> 32):
        settle_freeing(a, loc, dead)
        drop(a, loc)
    if load64(holders) & bit:
        and64(holders, ~bit)


cdef reap_objects(ObjectTable table, uint32_t dead):
    cdef attachment *a = &table.segment.a
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef uint32_t loc, state
    cdef object_record *o
    cdef uint64_t word
    while True:
        loc = walk.next_of_all()
        if loc == 0:
            return
        o = <object_record *>at(a, loc)
        # Records that are not in use, too: it may have died while it tried to take hold of one.
        clear_bits(a, loc, walk.used, dead)
        if not walk.used:
            continue
        word = load64(&o.word)
        state = word & 0xff
        if ((word >> 16) & 0xffff) == dead:
            if state == OBJECT_FREE:
                # Allocated and not used yet, or deleted and not given back yet.
                release_block(a, loc)
                continue
            if state == OBJECT_CREATED:
                # Whoever waits goes on waiting: for the task's next run, or for another process.
                undo_created(a, loc, dead)
            elif state == OBJECT_PENDING:
                end_lost_promise(a, loc, word)
            elif state in (OBJECT_SEALED, OBJECT_SPILLED, OBJECT_FREED):
                # It may have died between the seal and its consequences, the last of them even:
                # whom it had not woken would sleep for ever.
                if load64(&o.dependents) != DEPENDENTS_CLOSED:
                    word = exchange64(&o.dependents, DEPENDENTS_CLOSED)
                    resolve_dependents(a, word, resolved_mark(a, loc))
                wake_holders(a, loc, True)
        try_delete(a, loc)


cdef void end_lost_promise(attachment *a, uint32_t loc, uint64_t word) noexcept nogil:
    """An object that a task was to make: the submitter died before it had published the task."""
    cdef object_record *o = <object_record *>at(a, loc)
    if not (word >> 8) & OBJECT_FLAG_PRODUCER:
        return
    if o.task == 0 or (load64(&(<task *>at(a, o.task)).word) & 0xff) == TASK_FREE:
        if cas64(&o.word, word, word & ~(<uint64_t>OBJECT_FLAG_PRODUCER << 8)):
            o.task = 0


cdef reap_tasks(ObjectTable table, uint32_t dead):
    """Ends what the dead one had begun with tasks: of its own, and those it was to start."""
    cdef uint64_t *queued = NULL
    try:
        queued = queued_tasks(&table.segment.a)
        end_begun_tasks(table.segment, dead, queued)
    finally:
        free(queued)


cdef uint64_t *queued_tasks(attachment *a) except NULL:
    """A bit for each locator that a cell of some queue names. The caller frees it.

    Of a READY task that the dead one had made so, nobody fills a cell any more.
    """
    cdef uint64_t *marks = <uint64_t *>calloc((a.hdr.wide_offset >> 12) + 1, 8)
    cdef uint64_t i, word
    cdef queue *q
    if marks == NULL:
        raise MemoryError
    for i in range(a.hdr.chunk_count):
        word = load64(&a.chunk_words[i])
        q = <queue *>(a.chunks + i * CHUNK_SIZE)
        if (word & 0xff) == CHUNK_QUEUE and load32(&q.magic) == QUEUE_MAGIC and (
                QUEUE_CELLS_OFFSET + <uint64_t>q.capacity * 8 <= (word >> 32) * CHUNK_SIZE):
            mark_queued(a, q, marks)
    return marks


cdef end_begun_tasks(Segment segment, uint32_t dead, uint64_t *queued):
    cdef attachment *a = &segment.a
    cdef Records walk = Records.over(segment, CHUNK_TASKS)
    cdef uint32_t loc, state
    cdef uint64_t word
    cdef task *t
    cdef queue *q
    while True:
        loc = walk.next()
        if loc == 0:
            return
        t = <task *>at(a, loc)
        word = load64(&t.word)
        state = word & 0xff
        if state == TASK_FREE and ((word >> 16) & 0xffff) == dead:
            release_block(a, loc)
        elif state == TASK_WAITING:
            mark_resolved(a, loc, dead)
            make_ready(a, loc)
        elif state == TASK_READY and ((word >> 16) & 0xffff) == dead:
            q = queue_at(a, t.queue)
            if q == NULL or load64(&t.word) != word or queued[loc >> 6] >> (loc & 63) & 1:
                continue
            # In no cell and, if it is still READY, in none before: nobody else will enqueue it.
            if cas64(&t.word, word, TASK_WORD(
                    TASK_WAITING, (word >> 8) & 0xff, a.my_slot, word >> 32)):
                make_ready(a, loc)


cdef void mark_resolved(attachment *a, uint32_t loc, uint32_t dead) noexcept nogil:
    """Marks dependencies that the dead one had sealed and not come to mark.

    Only those: a living sealer may be about to read the element that we mark.
    """
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word), object_word
    cdef dependency *d = dependencies_of(t)
    cdef uint32_t i, count = t.dependency_count, object_loc
    cdef object_record *o
    if load64(&t.word) != word:
        return
    for i in range(count):
        object_loc = d[i].loc
        if load32(&d[i].resolved) & DEPENDENCY_RESOLVED or not is_object(a, object_loc):
            continue
        o = <object_record *>at(a, object_loc)
        object_word = load64(&o.word)
        if (IS_READY(object_word) and ((object_word >> 16) & 0xffff) == dead
                and load64(&o.dependents) == DEPENDENTS_CLOSED and load64(&t.word) == word):
            store32(&d[i].resolved, resolved_mark(a, object_loc))


def list_objects(ObjectTable table not None, uint64_t limit):
    """Up to `limit` of layout.ObjectRecord. A moment's view without a lock."""
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef attachment *a = &table.segment.a
    cdef uint32_t loc
    cdef object_record *o
    cdef uint64_t word, bits
    cdef uint32_t i
    found = []
    while len(found) < limit:
        loc = walk.next()
        if loc == 0:
            break
        o = <object_record *>at(a, loc)
        word = load64(&o.word)
        if (word & 0xff) == OBJECT_FREE:
            continue
        holders = []
        for i in range(SLOT_WORDS):
            bits = holder_bits(a, o, i)
            holders += [i * 64 + bit for bit in range(64) if bits >> bit & 1]
        found.append({
            "id": PyBytes_FromStringAndSize(<char *>o.id, 20), "state": word & 0xff, "size": o.size,
            "holders": holders, "containers": CONTAINERS_COUNT(o.containers),
            "is_error": bool((word >> 8) & OBJECT_FLAG_ERROR),
        })
    return found


def count_objects(ObjectTable table not None):
    """How many objects the node has, in any state. A moment's view without a lock."""
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef attachment *a = &table.segment.a
    cdef uint64_t count = 0
    cdef uint32_t loc = walk.next()
    while loc != 0:
        count += (load64(&(<object_record *>at(a, loc)).word) & 0xff) != OBJECT_FREE
        loc = walk.next()
    return count


def audit(ObjectTable table not None):
    """layout.Audit: counts of everything that somebody may have left behind. A moment's view."""
    cdef attachment *a = &table.segment.a
    cdef Records walk = Records.over(table.segment, CHUNK_OBJECTS)
    cdef uint64_t objects = 0, tasks = 0, holds = 0, locks = 0, index_entries = 0, blocks = 0
    cdef uint64_t i, word
    cdef uint32_t loc, size, j
    cdef object_record *o
    loc = walk.next_of_all()
    while loc != 0:
        o = <object_record *>at(a, loc)
        objects += walk.used
        holds += bit_count(o.holders)
        if load32(&a.hdr.wide) != 0:
            for j in range(SLOT_WORDS - 1):
                holds += bit_count(wide_of(a, o).holders[j])
        loc = walk.next_of_all()
    walk = Records.over(table.segment, CHUNK_TASKS)
    while walk.next() != 0:
        tasks += 1
    for i in range(a.hdr.index_group_count):
        locks += a.index[i].lock != 0
        for j in range(7):
            index_entries += a.index[i].bucket[j] != 0
    for i in range(a.hdr.chunk_count):
        word = load64(&a.chunk_words[i])
        if (word & 0xff) == CHUNK_RUN:
            blocks += 1
        elif (word & 0xff) == CHUNK_SLAB:
            size = class_size((word >> 8) & 0x1f)
            for j in range(16):
                blocks += bit_count(
                    a.chunk_records[i].used[j] & ~a.chunk_records[i].freed[j]
                    & ~initial_word(size, j))
    return {
        "objects": objects, "tasks": tasks, "holds": holds, "locks": locks,
        "index_entries": index_entries, "blocks": blocks,
    }


# ---- the scheduler's part ------------------------------------------------------------------------

def list_tasks(Segment segment not None, uint64_t limit):
    """Up to `limit` of layout.TaskInfo. A moment's view without a lock."""
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


def task_info(Segment segment not None, uint32_t loc):
    """One task as list_tasks gives it."""
    cdef task *t = <task *>at(&segment.a, loc)
    cdef uint64_t word = load64(&t.word)
    cdef uint32_t *returns = returns_of(t)
    # A moment's view may mix two tasks, but it must not run out of the segment.
    cdef uint32_t return_count = min(t.return_count, RETURNS_MAX)
    return {
        "loc": loc, "id": PyBytes_FromStringAndSize(<char *>t.id, 16), "state": word & 0xff,
        "slot": (word >> 16) & 0xffff, "queue": t.queue, "submitter": t.submitter, "attempt":
        t.attempt, "retries_left": t.retries_left, "flags": (word >> 8) & 0xff, "function":
        t.function, "returns": [returns[i] for i in range(return_count)],
        "deadline_ns": t.deadline,
    }


def claimed_by(Segment segment not None, uint32_t dead):
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


def take_claim(Segment segment not None, uint32_t loc):
    """A task of a dead claimer becomes the caller's claim, with nothing of it begun.

    So that it can wait: the dead one's slot is given to somebody else. False when it is not claimed
    by anybody, or has all its results.
    """
    cdef attachment *a = &segment.a
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word)
    if (word & 0xff) != TASK_CLAIMED or has_all_results(a, t):
        return False
    undo_results(a, t, (word >> 16) & 0xffff)
    # Not if it was cancelled at this moment: the mark of that must stay.
    return cas64(
        &t.word, word, TASK_WORD(TASK_CLAIMED, (word >> 8) & 0xff, a.my_slot, word >> 32)) != 0


def run_again(Segment segment not None, uint32_t loc, bint counted=True):
    """A task whose claimer died goes back into its queue, or ends if all its results are sealed.

    False when its retries are spent, or the queue is full or closed: nothing has changed then. Not
    `counted`, it takes none of its retries.
    """
    cdef attachment *a = &segment.a
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word), ready
    cdef queue *q = queue_at(a, t.queue)
    if (word & 0xff) == TASK_CLAIMED and has_all_results(a, t):
        # Died between its last seal and its finish: an actor's call must not take effect twice.
        store64(&t.word, TASK_WORD(TASK_DONE, (word >> 8) & 0xff, a.my_slot, word >> 32))
        return True
    if (word & 0xff) != TASK_CLAIMED or (word >> 8) & TASK_FLAG_CANCELLED:
        return False
    if t.retries_left == 0 or q == NULL or load32(&q.closed):
        return False
    # The next claimer must be able to write what this one had begun to write.
    undo_results(a, t, (word >> 16) & 0xffff)
    counted = counted and t.retries_left != RETRY_FOREVER
    if counted:
        t.retries_left -= 1
    t.attempt += 1
    ready = TASK_WORD(TASK_READY, (word >> 8) & 0xff, a.my_slot, word >> 32)
    if not cas64(&t.word, word, ready):
        return False  # cancelled at this moment
    if push(a, q, loc):
        wake_worker(a, q)
        return True
    # In no cell, so nobody but a canceller can have claimed it meanwhile; then it is his to end.
    if not cas64(&t.word, ready, word):
        return True
    if counted:
        t.retries_left += 1
    t.attempt -= 1
    return False


cdef void undo_results(attachment *a, task *t, uint32_t dead) noexcept nogil:
    """Results that a dead claimer had created and not sealed can be made by another."""
    cdef uint32_t i
    if slot_is_live(a, dead):
        return
    for i in range(t.return_count):
        undo_created(a, returns_of(t)[i], dead)
    if (load64(&t.word) >> 8) & TASK_FLAG_STREAM:
        undo_item(a, t, dead)


def fail(ObjectTable table not None, uint32_t loc, uint32_t kind, bytes error not None,
         uint32_t error_flag):
    """Seals the task's missing results with the error and ends the task. Safe to repeat."""
    cdef attachment *a = &table.segment.a
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word)
    cdef uint32_t i
    if (word & 0xff) in (TASK_FREE, TASK_DONE):
        return
    if (word >> 8) & TASK_FLAG_LOGGED:
        # Its results are sealed, and may be gone.
        store64(&t.word, TASK_WORD(TASK_DONE, (word >> 8) & 0xff, a.my_slot, word >> 32))
        return
    if (word & 0xff) == TASK_CLAIMED:
        undo_results(a, t, (word >> 16) & 0xffff)
    for i in range(t.return_count):
        table.fill_at(returns_of(t)[i], kind, error, [], [], error_flag)
    store64(&t.word, TASK_WORD(TASK_DONE, (word >> 8) & 0xff, a.my_slot, word >> 32))


def claim_all(Segment segment not None, uint32_t queue_loc):
    """Takes every task out of a queue, claimed by the caller. Returns their locators."""
    cdef attachment *a = &segment.a
    cdef queue *q = queue_at(a, queue_loc)
    cdef bint empty = False
    cdef uint32_t loc
    taken = []
    if q == NULL:
        raise QueueClosedError(f"no queue at locator {queue_loc}")
    while True:
        loc = claim_next(a, q, &empty)
        store32(&a.me.claiming, 0)
        if loc == 0:
            return taken
        taken.append(loc)


def take_over(Tasks tasks not None, uint32_t dead):
    """The tasks of a dead submitter become the caller's: it holds their inputs and frees them.

    Returns how many.
    """
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
        tasks._reserve()
        for i in range(t.dependency_count):
            # The dead one's bit keeps what the task still needs; of a task that it was just
            # freeing, some inputs may be gone.
            if not is_object(a, d[i].loc) or not hold(
                    a, d[i].loc, load64(&(<object_record *>at(a, d[i].loc)).word) >> 32):
                store32(&d[i].loc, 0)
        t.submitter = a.my_slot
        if (word >> 8) & TASK_FLAG_STREAM:
            close_stream(a, t)
        link_rest(a, loc)
        tasks._remember(loc)
        taken += 1


def rescue(Segment segment not None):
    """Starts tasks that wait for nothing: their queue was full, or their starter died."""
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


def end_tasks(Tasks tasks not None, bytes job_id not None):
    """Drops all tasks of a job whose processes are gone, and what only they would have made."""
    cdef Segment segment = tasks.segment
    cdef attachment *a = &segment.a
    cdef Records walk = Records.over(segment, CHUNK_TASKS)
    cdef uint32_t loc
    cdef queue *q
    if len(job_id) != 16:
        raise ValueError(f"a job id has 16 bytes, not {len(job_id)}")
    dropped = 0
    while True:
        loc = walk.next()
        if loc == 0:
            break
        q = queue_at(a, (<task *>at(a, loc)).queue)
        if q != NULL and memcmp(q.job_id, <char *>job_id, 16) == 0:
            dropped += end_task(a, loc)
    tasks.sweep()
    return dropped


def end_tasks_of(Tasks tasks not None, queues not None):
    """Drops all tasks of queues, by their locators, whose submitters and workers are gone."""
    cdef Segment segment = tasks.segment
    cdef Records walk = Records.over(segment, CHUNK_TASKS)
    cdef uint32_t loc
    meant = frozenset(queues)
    dropped = 0
    while True:
        loc = walk.next()
        if loc == 0:
            break
        if (<task *>at(&segment.a, loc)).queue in meant:
            dropped += end_task(&segment.a, loc)
    tasks.sweep()
    return dropped


cdef bint end_task(attachment *a, uint32_t loc) noexcept nogil:
    """DONE, whatever it was, and what it would have made is promised by nobody. Was it not?"""
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word)
    cdef uint32_t i
    if (word & 0xff) in (TASK_FREE, TASK_DONE):
        return False
    for i in range(t.return_count):
        unmake_producer(a, returns_of(t)[i], loc)
    store64(&t.word, TASK_WORD(TASK_DONE, (word >> 8) & 0xff, a.my_slot, word >> 32))
    return True


def queues(Segment segment not None):
    """Locators of all queues, half made ones too: those of a dead scheduler nobody else lists."""
    cdef attachment *a = &segment.a
    cdef uint64_t i
    return [
        (a.hdr.chunks_offset + i * CHUNK_SIZE) >> 6 for i in range(a.hdr.chunk_count)
        if (load64(&a.chunk_words[i]) & 0xff) == CHUNK_QUEUE]


def close_queue(Segment segment not None, uint32_t loc):
    """Submitters to a queue of a dead scheduler are refused from here on."""
    cdef queue *q = queue_at(&segment.a, loc)
    if q != NULL:
        store32(&q.closed, 1)


def free_queue(Segment segment not None, uint32_t loc):
    """Gives back the memory of a dead scheduler's queue. Nobody may know the locator any more."""
    cdef queue *q = queue_at(&segment.a, loc)
    if q != NULL:
        q.magic = 0
    release_block(&segment.a, loc)
