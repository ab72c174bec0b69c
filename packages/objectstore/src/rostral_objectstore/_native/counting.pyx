"""References inside values: each sealed value counts in the objects that it refers to.

The one thing in the segment that is a count, and one that a death must not leave wrong: too high,
an object stays for ever; too low, somebody reads freed memory. So each change leaves in the counted
word who made it and the number of that step, and who writes over that has told its author before.
Then the daemon can say of a dead one's last step whether it was made: the mark is there still, or
it was acknowledged.
"""
from libc.stdint cimport uint32_t, uint64_t

from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport contained as contained_ref, object as object_record
from rostral_objectstore._native.segment cimport at, attachment, is_object, locator


cdef inline contained_ref *references_of(compound *c) noexcept nogil:
    return <contained_ref *>(<char *>c + sizeof(compound))


cdef uint32_t count_reference(
        attachment *a, object_record *o, uint32_t index, bint up) noexcept nogil:
    """Counts the object's reference number `index` in what it refers to, or gives the count back.

    Returns the inner object's locator.
    """
    cdef slot *me = a.me
    cdef compound *c = <compound *>at(a, o.data)
    cdef uint32_t loc = references_of(c)[index].loc
    cdef uint32_t number = (me.count_number + 1) & COUNT_NUMBER_MASK
    cdef object_record *inner = <object_record *>at(a, loc)
    cdef uint64_t word, count
    me.count_index = index << 1 | up
    me.count_number = number
    release32(&me.count_object, locator(a, o))
    FAILPOINT(a.plan, COUNT_STEP_SAID)
    while True:
        word = load64(&inner.containers)
        acknowledge(a, word)
        count = CONTAINERS_COUNT(word) + 1 if up else CONTAINERS_COUNT(word) - 1
        if cas64(&inner.containers, word, CONTAINERS_WORD(count, a.my_slot, number)):
            break
    FAILPOINT(a.plan, COUNT_STEP_CHANGED)
    release32(&c.counted_count if up else &c.released_count, index + 1)
    FAILPOINT(a.plan, COUNT_STEP_WRITTEN)
    release32(&me.count_object, 0)
    FAILPOINT(a.plan, COUNT_STEP_DONE)
    return loc


cdef void acknowledge(attachment *a, uint64_t word) noexcept nogil:
    """Tells the author of a change that is about to be written over that it was made."""
    cdef uint32_t author = CONTAINERS_SLOT(word), number = CONTAINERS_NUMBER(word), seen
    cdef uint32_t *acked = &a.slots[author].count_acked
    if author == a.my_slot or author >= MAX_SLOTS:
        return
    while True:
        seen = load32(acked)
        # Only forwards: somebody slower may still be telling of an earlier one.
        if seen == number or (number - seen) & COUNT_NUMBER_MASK > COUNT_NUMBER_MASK >> 1:
            return
        if cas32(acked, seen, number):
            return


cdef void settle_count(attachment *a, uint32_t dead) noexcept nogil:
    """The daemon: writes down the last change of a count by a dead process, if it was made."""
    cdef slot *s = &a.slots[dead]
    cdef object_record *o
    cdef compound *c
    cdef uint64_t word
    cdef uint32_t loc = load32(&s.count_object), index = s.count_index >> 1
    if loc == 0 or not is_object(a, loc):
        return
    o = <object_record *>at(a, loc)
    c = <compound *>at(a, o.data)
    if index < c.contained_count:
        word = load64(&(<object_record *>at(a, references_of(c)[index].loc)).containers)
        if s.count_acked == s.count_number or (
                CONTAINERS_SLOT(word) == dead and CONTAINERS_NUMBER(word) == s.count_number):
            store32(&c.counted_count if s.count_index & 1 else &c.released_count, index + 1)
    store32(&s.count_object, 0)
