"""Lanes: further ready queues of the same job and shape, whose tasks come before others.

A task of a higher priority is queued in a lane of its own, and so is what tasks submit, by how deep
it is nested. Workers know of one queue alone, the base, and take from the first of its lanes that
has a task; a base without lanes costs them one look at a word. Which lanes there are, and in what
order, is the scheduler's affair.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.queue cimport Queue, claim_next, looks_empty, queue_at
from rostral_objectstore._native.segment cimport Segment, at, attachment


cdef bint looks_idle(queue *base) noexcept nogil:
    """Cheap enough to spin on: whether neither the queue nor a lane of it has a task right now."""
    if load32(&base.first_lane) != 0 and load64(&base.busy_lanes) != 0:
        return False
    return looks_empty(base)


cdef uint32_t claim_first(attachment *a, queue *base, bint *empty) noexcept nogil:
    """Claims the oldest task of the first lane that has one. Returns its locator, or 0: none."""
    cdef uint32_t following = load32(&base.first_lane), loc
    cdef queue *q
    if following == 0 or load64(&base.busy_lanes) == 0:
        return claim_next(a, base, empty)
    while following != 0:
        q = <queue *>at(a, following)
        following = load32(&q.next_lane)
        loc = claim_next(a, q, empty) if q == base else claim_of_lane(a, base, q, empty)
        if loc != 0:
            return loc
    empty[0] = True
    return 0


cdef uint32_t claim_of_lane(attachment *a, queue *base, queue *q, bint *empty) noexcept nogil:
    cdef uint64_t bit = <uint64_t>1 << q.lane_number
    cdef uint32_t loc
    while load64(&base.busy_lanes) & bit:
        loc = claim_next(a, q, empty)
        if loc != 0:
            return loc
        FAILPOINT(a.plan, LANE_STEP_EMPTY)
        and64(&base.busy_lanes, ~bit)
        FAILPOINT(a.plan, LANE_STEP_CLEARED)
        # A submitter that saw the bit before that has filled a cell by now.
        if looks_empty(q):
            return 0
        or64(&base.busy_lanes, bit)
    return 0


# ---- the scheduler's part ------------------------------------------------------------------------

def link_lane(Queue base not None, Queue lane not None, uint32_t number, int32_t priority,
              uint32_t depth, Queue before, Queue after):
    """Makes a new queue a lane of `base`, between two of the chain (None: at its end).

    Its number, below LANES_MAX, is its own among the lanes of the base. Whoever walks the chain
    meanwhile finds it, or does not yet: it has no tasks.
    """
    if number >= LANES_MAX:
        raise ValueError(f"a queue has {LANES_MAX} lanes at most, so none has number {number}")
    lane.q.base, lane.q.lane_number = base.loc, number
    lane.q.priority, lane.q.depth = priority, depth
    lane.q.next_lane = after.loc if after is not None else 0
    if before is None:
        store32(&base.q.first_lane, lane.loc)
        return
    store32(&before.q.next_lane, lane.loc)
    if load32(&base.q.first_lane) == 0:
        store32(&base.q.first_lane, base.loc)


def set_rank(Queue base not None, int32_t priority, uint32_t depth):
    """What `rank_of` tells of a queue that is no lane."""
    base.q.priority, base.q.depth = priority, depth


def rank_of(Segment segment not None, uint32_t loc):
    """(priority, depth) of the tasks in a ready queue."""
    cdef queue *q = queue_at(&segment.a, loc)
    if q == NULL:
        raise ValueError(f"no queue at locator {loc}")
    return q.priority, q.depth


def lengths(Queue base not None):
    """(locator, tasks in it) of the queue and its lanes that have tasks, first come first.

    Says of each such lane that it is busy: a submitter may have died before it did.
    """
    cdef attachment *a = &base.segment.a
    cdef uint32_t loc = load32(&base.q.first_lane)
    cdef uint64_t bit
    cdef int64_t length
    cdef queue *q
    found = []
    if loc == 0:
        loc = base.loc
    while loc != 0:
        q = <queue *>at(a, loc)
        length = <int64_t>(load64(&q.tail) - load64(&q.head))
        # With its cell filled and the tail not advanced, a task is in a queue of no length.
        if length > 0 or not looks_empty(q):
            found.append((loc, max(length, 1)))
            bit = <uint64_t>1 << q.lane_number
            if q != base.q and not load64(&base.q.busy_lanes) & bit:
                or64(&base.q.busy_lanes, bit)
        loc = load32(&q.next_lane)
    return found


def taken(Queue base not None):
    """How many tasks have been taken from the queue and its lanes since they were made."""
    cdef attachment *a = &base.segment.a
    cdef uint32_t loc = load32(&base.q.first_lane)
    cdef uint64_t count = 0
    cdef queue *q
    if loc == 0:
        loc = base.loc
    while loc != 0:
        q = <queue *>at(a, loc)
        count += load64(&q.head)
        loc = load32(&q.next_lane)
    return count
