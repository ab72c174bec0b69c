"""Cancelling tasks: by whoever knows a result of one, its parent, or that its deadline is over.

One compare-and-swap decides. A task that no worker has claimed yet is claimed by the canceller, who
then ends it with `fail` in repair.pyx; workers find it claimed and pass it over. Of one that runs
only the flag is set; whoever runs it looks at the flag before it seals what the code returned. A
canceller that dies before `fail` is a dead claimer like any other: the scheduler ends its task, and
the flag says how. So a task that is cancelled ends once, and never runs again.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.handle cimport Handle
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.records cimport Records
from rostral_objectstore._native.segment cimport Segment, at, attachment
from rostral_objectstore._native.table cimport ObjectTable
from rostral_objectstore._native.task cimport Tasks

from rostral_objectstore._native.repair import fail

cdef enum:
    OVER = 0  # it is done, or somebody else cancelled it before
    TAKEN = 1
    FLAGGED = 2


cdef bint is_task(attachment *a, uint32_t loc) noexcept nogil:
    """Whether a task's record can lie at a locator that came from outside."""
    cdef uint64_t offset = <uint64_t>loc << 6, word
    if offset < a.hdr.chunks_offset or offset >= a.hdr.wide_offset:
        return False
    word = load64(&a.chunk_words[(offset - a.hdr.chunks_offset) // CHUNK_SIZE])
    return (word & 0xff) == CHUNK_TASKS or (word & 0xffff) == (CHUNK_RUN | RUN_TASK << 8)


cdef bint is_over(uint64_t word) noexcept nogil:
    """Whether nothing is left to cancel; a call that is kept for replay is done, too."""
    return (word & 0xff) in (TASK_FREE, TASK_DONE) or ((word >> 8) & TASK_FLAG_LOGGED) != 0


cdef int cancel_task(attachment *a, uint32_t loc, const uint8_t *id, uint64_t flags) noexcept nogil:
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word, cancelled
    cdef uint32_t state
    while True:
        word = load64(&t.word)
        state = word & 0xff
        if is_over(word) or memcmp(t.id, id, 16) != 0:
            return OVER
        cancelled = word | (flags | TASK_FLAG_CANCELLED) << 8
        if state == TASK_CLAIMED:
            if cancelled == word:
                return OVER
        else:
            cancelled = TASK_WORD(TASK_CLAIMED, (cancelled >> 8) & 0xff, a.my_slot, word >> 32)
        # The id was that task's if the word, which has the version, is the same still.
        if cas64(&t.word, word, cancelled):
            FAILPOINT(a.plan, CANCEL_STEP_MARKED)
            return FLAGGED if state == TASK_CLAIMED else TAKEN


def cancel_result(ObjectTable table not None, Handle handle not None, uint32_t flags,
                  uint32_t kind, bytes error not None, uint32_t error_flag):
    """Cancels the task that is to make the object; one that does not run yet ends with the error.

    Returns its locator if it runs, and 0 if it has ended by this. None: there was nothing to
    cancel, or the same was asked before.
    """
    table._check(handle)
    cdef attachment *a = &table.segment.a
    cdef object_record *o = <object_record *>at(a, handle.loc)
    cdef uint64_t word = load64(&o.word)
    cdef uint32_t loc = o.task
    cdef int outcome
    if (word & 0xff) not in (OBJECT_PENDING, OBJECT_CREATED) or loc == 0:
        return None
    outcome = cancel_task(a, loc, handle.id_bytes, flags)
    if outcome == OVER:
        return None
    if outcome == FLAGGED:
        return loc
    # In the same native call: no signal handler can come between and leave the task to nobody.
    fail(table, loc, kind, error, error_flag)
    return 0


def cancel_at(ObjectTable table not None, uint32_t loc, bytes id not None, uint32_t flags,
              uint32_t kind, bytes error not None, uint32_t error_flag):
    """`cancel_result` for the task with the id, if its record is still at the locator."""
    cdef attachment *a = &table.segment.a
    cdef int outcome
    if len(id) != 16:
        raise ValueError(f"a task id has 16 bytes, not {len(id)}")
    if not is_task(a, loc):
        return None
    outcome = cancel_task(a, loc, <const uint8_t *><char *>id, flags)
    if outcome == OVER:
        return None
    if outcome == FLAGGED:
        return loc
    fail(table, loc, kind, error, error_flag)
    return 0


def claimer_of(Segment segment not None, uint32_t loc, bytes id not None):
    """The slot of the process that has claimed the task with the id; None: nobody has, now."""
    cdef task *t = <task *>at(&segment.a, loc)
    cdef uint64_t word
    if len(id) != 16 or not is_task(&segment.a, loc):
        return None
    word = load64(&t.word)
    if (word & 0xff) != TASK_CLAIMED or is_over(word) or memcmp(t.id, <char *>id, 16) != 0:
        return None
    if load64(&t.word) != word:
        return None  # it has ended, and the record may be another's
    return (word >> 16) & 0xffff


def is_actor_call(ObjectTable table not None, Handle handle not None):
    """Whether the object is one that an actor's call is to make."""
    table._check(handle)
    cdef attachment *a = &table.segment.a
    cdef object_record *o = <object_record *>at(a, handle.loc)
    cdef uint32_t loc = o.task
    if (load64(&o.word) & 0xff) not in (OBJECT_PENDING, OBJECT_CREATED) or loc == 0:
        return False
    return (load64(&(<task *>at(a, loc)).word) >> 8) & TASK_FLAG_ACTOR_CALL != 0


def children_of(Segment segment not None, bytes parent not None):
    """(locator, id) of each task that the parent submitted and that is neither done nor cancelled.

    Looks through all tasks: some tens of milliseconds for a million of them.
    """
    cdef Records walk = Records.over(segment, CHUNK_TASKS)
    cdef uint64_t prefix, word
    cdef uint32_t loc
    cdef task *t
    if len(parent) != 16:
        raise ValueError(f"a task id has 16 bytes, not {len(parent)}")
    memcpy(&prefix, <char *>parent, 8)
    found = []
    while True:
        loc = walk.next()
        if loc == 0:
            return found
        t = <task *>at(&segment.a, loc)
        word = load64(&t.word)
        if (t.parent == prefix and not is_over(word)
                and not (word >> 8) & TASK_FLAG_CANCELLED):
            found.append((loc, PyBytes_FromStringAndSize(<char *>t.id, 16)))


def late(Tasks tasks not None, int64_t now_ns):
    """(locator, id) of each task that this process submitted and whose deadline is over."""
    cdef attachment *a = &tasks.segment.a
    cdef size_t i
    cdef uint64_t word
    cdef uint32_t loc
    cdef task *t
    found = []
    if a.closed:
        return found
    for i in range(tasks.count):
        loc = tasks.unfinished[(tasks.first + i) % tasks.capacity]
        t = <task *>at(a, loc)
        if t.deadline == 0 or t.deadline > now_ns:
            continue
        word = load64(&t.word)
        if not is_over(word) and not (word >> 8) & TASK_FLAG_CANCELLED:
            found.append((loc, PyBytes_FromStringAndSize(<char *>t.id, 16)))
    return found
