"""The id index: from an object's id to its record.

Hash tables of cache lines of seven buckets, each four times as large as the one before it, of which
the later ones are used when the earlier are full: a few thousand objects lie close together,
whatever the size of the store. Lookups take no lock; who adds an id holds the lock of the line in
the first table where it belongs, so that no id is added twice, and a lock whose owner died is taken
over. Nothing here holds an object: a record that was found may
name another object by the time it is looked at, so the caller takes hold and compares the id again.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.segment cimport at, attachment, slot_is_live


cdef uint64_t hash_id(const uint8_t *id) noexcept nogil:
    """The low bits choose the group, the high half tells ids in it apart.

    32 successive objects of one task lie within eight groups, four to a group: who puts one object
    after the other walks through memory instead of missing the cache and the TLB at each.
    """
    cdef uint64_t x, y, block
    cdef uint32_t index
    memcpy(&x, id, 8)
    memcpy(&y, id + 8, 8)
    memcpy(&index, id + 16, 4)
    block = index >> 5
    x ^= (y << 23 | y >> 41) ^ (block << 32 | block)
    x = (x ^ (x >> 33)) * <uint64_t>0xff51afd7ed558ccd
    x = (x ^ (x >> 33)) * <uint64_t>0xc4ceb9fe1a85ec53
    x ^= x >> 33
    return x ^ ((index & 31) >> 2) ^ <uint64_t>(index & 31) << 59


cdef index_group *lock_home(attachment *a, uint64_t h) noexcept nogil:
    """Locks the group where an id belongs: a spin for the few instructions that a holder needs.

    Takes the lock over from a dead one. Which group it is, the slot says, so that the daemon need
    not look for the locks of a dead one.
    """
    cdef uint64_t home = h & (INDEX_FIRST_GROUPS - 1)
    cdef index_group *g = &a.index[home]
    cdef uint32_t spins = 0, owner
    release32(&a.me.locking, home + 1)
    FAILPOINT(a.plan, INDEX_STEP_LOCKING)
    while not cas32(&g.lock, 0, a.my_slot + 1):
        relax(spins)
        spins += 1
        if spins % 4096 == 0:
            owner = load32(&g.lock)
            if owner != 0 and not slot_is_live(a, owner - 1):
                if cas32(&g.lock, owner, a.my_slot + 1):
                    break
    FAILPOINT(a.plan, INDEX_STEP_LOCKED)
    return g


cdef void unlock_home(attachment *a, index_group *g) noexcept nogil:
    release32(&g.lock, 0)
    FAILPOINT(a.plan, INDEX_STEP_UNLOCKED)
    release32(&a.me.locking, 0)


cdef void unlock_dead(attachment *a, uint32_t dead) noexcept nogil:
    """The daemon: frees the lock that a dead process held."""
    cdef uint32_t locking = load32(&a.slots[dead].locking)
    if locking != 0 and locking <= INDEX_FIRST_GROUPS:
        cas32(&a.index[locking - 1].lock, dead + 1, 0)
    store32(&a.slots[dead].locking, 0)


cdef struct probe:
    # Where to look for an id next: `start` and `size` are those of the level.
    uint64_t start, size, position


cdef inline probe first_probe(uint64_t h) noexcept nogil:
    cdef probe p
    p.start, p.size, p.position = 0, INDEX_FIRST_GROUPS, h & (INDEX_FIRST_GROUPS - 1)
    return p


cdef inline void advance(attachment *a, probe *p, uint64_t h) noexcept nogil:
    """To the id's home in the next level; in the last one, to the following group."""
    if p.start + p.size < a.hdr.index_group_count:
        p.start += p.size
        p.size *= 4
        p.position = p.start + (h & (p.size - 1))
    else:
        p.position = p.start + ((p.position - p.start + 1) & (p.size - 1))


cdef uint32_t index_find(attachment *a, const uint8_t *id, uint64_t h) noexcept nogil:
    """The record that has the id at this moment, or 0."""
    cdef probe p = first_probe(h)
    cdef uint64_t bucket, tried
    cdef index_group *g
    cdef int i
    cdef uint32_t loc
    for tried in range(a.hdr.index_group_count):
        g = &a.index[p.position]
        for i in range(7):
            bucket = load64(&g.bucket[i])
            if bucket != 0 and bucket >> 32 == h >> 32:
                loc = <uint32_t>bucket
                if memcmp((<object_record *>at(a, loc)).id, id, 20) == 0:
                    return loc
        if load32(&g.overflow) == 0:
            return 0
        advance(a, &p, h)
    return 0


cdef bint index_insert(attachment *a, uint32_t loc, uint64_t h) noexcept nogil:
    """Under the lock of the id's home group. False when the index is full."""
    cdef probe p = first_probe(h)
    cdef uint64_t tried
    cdef uint64_t bucket = (h >> 32) << 32 | loc
    cdef index_group *g
    cdef int i
    for tried in range(a.hdr.index_group_count):
        g = &a.index[p.position]
        for i in range(7):
            # Neighbours' ids spill into this group under other locks: hence the compare-and-swap.
            if g.bucket[i] == 0 and cas64(&g.bucket[i], 0, bucket):
                return True
        if g.overflow == 0:
            store32(&g.overflow, 1)
        advance(a, &p, h)
    return False


cdef void index_remove(attachment *a, object_record *o, uint32_t loc) noexcept nogil:
    cdef uint64_t h = hash_id(o.id)
    cdef probe p = first_probe(h)
    cdef uint64_t tried
    cdef uint64_t bucket = (h >> 32) << 32 | loc
    cdef index_group *g
    cdef int i
    for tried in range(a.hdr.index_group_count):
        g = &a.index[p.position]
        for i in range(7):
            if g.bucket[i] == bucket and cas64(&g.bucket[i], bucket, 0):
                return
        if load32(&g.overflow) == 0:
            return
        advance(a, &p, h)
