"""Calls kept for replay: an actor with checkpoints keeps the record of each call since the last.

A call that is done and kept stays CLAIMED, with TASK_FLAG_LOGGED and, in `attempt`, its place in
the order in which the actor ran its calls. So the log of an actor is the task records that it has
not finished: nothing is copied, the submitter goes on holding the inputs, and the actor's death
takes nothing away. A checkpoint ends the calls that it covers. After a death the scheduler takes
the records over (`retake`), so that the dead one's slot can be used again, and the actor's next
process takes them from it (`take`).
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t

from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.objects cimport undo_created
from rostral_objectstore._native.records cimport Records
from rostral_objectstore._native.segment cimport Segment, at, attachment
from rostral_objectstore._native.task cimport (
    ClaimedTask, Tasks, dependencies_of, has_all_results, payload_of, returns_of)


cdef bint is_claimed_by(uint64_t word, uint32_t slot) noexcept nogil:
    return (word & 0xff) == TASK_CLAIMED and ((word >> 16) & 0xffff) == slot


# ---- the actor's part ----------------------------------------------------------------------------

def keep(Tasks tasks not None, ClaimedTask claimed not None, uint32_t place):
    """Instead of `finish`: the results are sealed, and the record stays, in this place."""
    cdef attachment *a = tasks._open()
    cdef task *t = <task *>at(a, claimed.loc)
    cdef uint64_t word = load64(&t.word)
    if is_claimed_by(word, a.my_slot):
        # Before the flag that says that it means a place.
        t.attempt = place
        store64(&t.word, word | <uint64_t>TASK_FLAG_LOGGED << 8)
    a.me.finished_count += 1
    store32(&a.me.running, 0)


def release(Tasks tasks not None, uint32_t loc):
    """A kept call is covered by a checkpoint: its submitter may free it. Safe to repeat."""
    cdef attachment *a = tasks._open()
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word)
    if is_claimed_by(word, a.my_slot):
        store64(&t.word, TASK_WORD(TASK_DONE, (word >> 8) & 0xff, a.my_slot, word >> 32))


def take(Tasks tasks not None, uint32_t loc):
    """Claims a call that the scheduler has retaken. None: it has not, or it is taken already.

    One whose results are sealed says that it makes none: they may be gone, and their records used
    for others.
    """
    cdef attachment *a = tasks._open()
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word)
    cdef ClaimedTask claimed
    if not is_claimed_by(word, load32(&a.hdr.scheduler_slot)):
        return None
    release32(&a.me.claiming, loc)
    if not cas64(&t.word, word, TASK_WORD(
            TASK_CLAIMED, (word >> 8) & 0xff, a.my_slot, word >> 32)):
        store32(&a.me.claiming, 0)
        return None
    claimed = tasks._claimed(a, loc)
    store32(&a.me.running, 0)
    if (word >> 8) & TASK_FLAG_LOGGED or has_all_results(a, t):
        claimed.returns = ()
    return claimed


def has_results(Tasks tasks not None, uint32_t loc):
    """Whether all results of a claimed call are sealed, of which it has at least one."""
    cdef attachment *a = tasks._open()
    return has_all_results(a, <task *>at(a, loc))


def spend_retry(Tasks tasks not None, uint32_t loc):
    """Takes one of the retries of a call that this process has claimed. False: none was left."""
    cdef attachment *a = tasks._open()
    cdef task *t = <task *>at(a, loc)
    if t.retries_left == 0:
        return False
    if t.retries_left != RETRY_FOREVER:
        t.retries_left -= 1
    return True


# ---- the scheduler's part ------------------------------------------------------------------------

def retake(Segment segment not None, uint32_t loc, uint32_t dead):
    """A call that a dead actor's process had claimed becomes the caller's, done or not.

    False if the dead one has it no more. Safe to repeat.
    """
    cdef attachment *a = &segment.a
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word)
    cdef uint32_t i
    if not is_claimed_by(word, dead):
        return False
    # The next process must be able to write what this one had begun to write.
    for i in range(t.return_count):
        undo_created(a, returns_of(t)[i], dead)
    store64(&t.word, TASK_WORD(TASK_CLAIMED, (word >> 8) & 0xff, a.my_slot, word >> 32))
    return True


def is_kept(Segment segment not None, uint32_t loc):
    """Whether a claimed call is done, and kept for replay."""
    cdef uint64_t word = load64(&(<task *>at(&segment.a, loc)).word)
    return (word & 0xff) == TASK_CLAIMED and ((word >> 8) & TASK_FLAG_LOGGED) != 0


def kept_after(Segment segment not None, uint32_t slot, uint32_t place):
    """(place, locator) of each call that the process of the slot keeps, after that place."""
    cdef Records walk = Records.over(segment, CHUNK_TASKS)
    cdef uint32_t loc
    cdef uint64_t word
    cdef task *t
    found = []
    while True:
        loc = walk.next()
        if loc == 0:
            return sorted(found)
        t = <task *>at(&segment.a, loc)
        word = load64(&t.word)
        if is_claimed_by(word, slot) and (word >> 8) & TASK_FLAG_LOGGED and t.attempt > place:
            found.append((t.attempt, loc))


def specification(Segment segment not None, uint32_t loc):
    """What a kept call is made of, to have it made once more elsewhere; None: it is not kept.

    Returns (place, id, parent, function, payload, flags, locators of its inputs, how many results).
    Nobody keeps the actor from ending it meanwhile: whoever has taken holds on its inputs asks
    again, and has what he was told if the answer is the same.
    """
    cdef attachment *a = &segment.a
    cdef task *t = <task *>at(a, loc)
    cdef uint64_t word = load64(&t.word)
    cdef uint32_t i, inputs = t.dependency_count, size = t.payload_size
    cdef char *payload = payload_of(a, t)
    if (word & 0xff) != TASK_CLAIMED or not (word >> 8) & TASK_FLAG_LOGGED:
        return None
    # A moment's view may mix two tasks, but it must not run out of the segment.
    if <char *>(dependencies_of(t) + inputs) > a.chunks_end or payload + size > a.chunks_end:
        return None
    found = (
        t.attempt,
        PyBytes_FromStringAndSize(<char *>t.id, 16),
        PyBytes_FromStringAndSize(<char *>&t.parent, 8),
        t.function,
        PyBytes_FromStringAndSize(payload, size),
        (word >> 8) & 0xff,
        [dependencies_of(t)[i].loc for i in range(inputs)],
        t.return_count,
    )
    # A canceller may have added its flag; anything else ends what was read.
    return found if (load64(&t.word) | 0xff00) == (word | 0xff00) else None
