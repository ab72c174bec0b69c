"""Tasks that run on another node: taken by the scheduler here, and told of when done there.

To everybody else on the node such a task is one that some process has claimed: the scheduler's slot
is in its word, its submitter holds its inputs, and who cancels it sets the flag. Should the
scheduler die, it is repaired like any dead claimer's.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp

from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.queue cimport claim_next, push, queue_at, wake_worker
from rostral_objectstore._native.segment cimport Segment, at, attachment
from rostral_objectstore._native.task cimport (
    Tasks, dependencies_of, free_task, is_linked, payload_of, returns_of, unlink)
from rostral_objectstore.errors import QueueClosedError


def watch_results(Segment segment not None):
    """From here on, who seals an object that this process holds pokes it, asleep or not."""
    add32(&segment.a.me.sleeping, 1)
    store32(&segment.a.me.wait_loc, WAIT_ANY)


def claim_first(Segment segment not None, uint32_t queue_loc, uint32_t limit):
    """Claims up to `limit` tasks, the oldest first. Returns their locators."""
    cdef attachment *a = &segment.a
    cdef queue *q = queue_at(a, queue_loc)
    cdef bint empty = False
    cdef uint32_t loc
    taken = []
    if q == NULL:
        raise QueueClosedError(f"no queue at locator {queue_loc}")
    while <uint32_t>len(taken) < limit:
        loc = claim_next(a, q, &empty)
        store32(&a.me.claiming, 0)
        if loc == 0:
            break
        taken.append(loc)
    return taken


cdef bint is_ours(attachment *a, uint64_t word) noexcept nogil:
    return (word & 0xff) == TASK_CLAIMED and ((word >> 16) & 0xffff) == a.my_slot


def specification(Segment segment not None, uint32_t loc):
    """What there is to know of a task that this process has claimed.

    Returns (id, parent, function, payload, flags, retries left, deadline in ns or 0, locators of
    its inputs, locators of its results, slot of its submitter).
    """
    cdef attachment *a = &segment.a
    cdef task *t = <task *>at(a, loc)
    cdef uint32_t i
    cdef uint64_t word = load64(&t.word)
    if not is_ours(a, word):
        raise ValueError(f"the task at locator {loc} is not one that this process has claimed")
    return (
        PyBytes_FromStringAndSize(<char *>t.id, 16),
        PyBytes_FromStringAndSize(<char *>&t.parent, 8),
        t.function,
        PyBytes_FromStringAndSize(payload_of(a, t), t.payload_size),
        (word >> 8) & 0xff,
        t.retries_left,
        t.deadline,
        [dependencies_of(t)[i].loc for i in range(t.dependency_count)],
        [returns_of(t)[i] for i in range(t.return_count)],
        t.submitter,
    )


cdef bint is_claim(attachment *a, uint32_t loc, bytes id) except -1:
    """Whether the record is that of the task with the id, and this process has claimed it."""
    cdef task *t = <task *>at(a, loc)
    if len(id) != 16:
        raise ValueError(f"a task id has 16 bytes, not {len(id)}")
    return is_ours(a, load64(&t.word)) and memcmp(t.id, <char *>id, 16) == 0


def flags_of(Segment segment not None, uint32_t loc, bytes id not None):
    """TASK_FLAG_* of a task that this process has claimed; None: it is not its any more."""
    cdef attachment *a = &segment.a
    if not is_claim(a, loc, id):
        return None
    return (load64(&(<task *>at(a, loc)).word) >> 8) & 0xff


def finish(Segment segment not None, uint32_t loc, bytes id not None):
    """The results of a task that this process has claimed are sealed."""
    cdef attachment *a = &segment.a
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word
    while is_claim(a, loc, id):
        word = load64(&t.word)
        # A canceller may add its flag meanwhile.
        if cas64(&t.word, word, TASK_WORD(TASK_DONE, (word >> 8) & 0xff, a.my_slot, word >> 32)):
            FAILPOINT(a.plan, FINISH_STEP_DONE)
            return


def requeue(Segment segment not None, uint32_t loc, bytes id not None, uint32_t queue_loc,
            uint32_t retries):
    """A task that this process has claimed goes into a queue, with so many retries.

    False: that is full or closed, or the task was cancelled: it is this process's still.
    """
    cdef attachment *a = &segment.a
    cdef task *t = <task *>at(a, loc)
    cdef queue *q = queue_at(a, queue_loc)
    cdef uint64_t word = load64(&t.word), ready
    if q == NULL or load32(&q.closed) or not is_claim(a, loc, id):
        return False
    if (word >> 8) & TASK_FLAG_CANCELLED:
        return False
    t.queue, t.retries_left = queue_loc, retries
    ready = TASK_WORD(TASK_READY, (word >> 8) & 0xff, a.my_slot, word >> 32)
    if not cas64(&t.word, word, ready):
        return False
    if push(a, q, loc):
        wake_worker(a, q)
        return True
    # As in `run_again`: only a canceller can have it now.
    return not cas64(&t.word, ready, word)


def take_done(Tasks tasks not None):
    """`Tasks.sweep`, but returns the ids of those that it frees."""
    cdef attachment *a = &tasks.segment.a
    cdef size_t i, kept = 0
    cdef uint32_t loc
    cdef task *t
    cdef bint done
    ids = []
    if a.closed:
        return ids
    for i in range(tasks.count):
        loc = tasks.unfinished[(tasks.first + i) % tasks.capacity]
        t = <task *>at(a, loc)
        done = (load64(&t.word) & 0xff) == TASK_DONE
        if done and is_linked(t):
            unlink(a, t)
            done = not is_linked(t)
        if done:
            ids.append(PyBytes_FromStringAndSize(<char *>t.id, 16))
            free_task(a, loc)
        else:
            tasks.unfinished[(tasks.first + kept) % tasks.capacity] = loc
            kept += 1
    tasks.count = kept
    return ids


def newest(Tasks tasks not None, bytes id not None):
    """The locator of the task that was submitted last, if it has the id; else 0."""
    cdef uint32_t loc
    if tasks.segment.a.closed or tasks.count == 0 or len(id) != 16:
        return 0
    loc = tasks.unfinished[(tasks.first + tasks.count - 1) % tasks.capacity]
    return loc if memcmp((<task *>at(&tasks.segment.a, loc)).id, <char *>id, 16) == 0 else 0
