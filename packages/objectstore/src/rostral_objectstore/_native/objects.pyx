"""Objects in the segment: their records, who holds them, and their life (layout.h has the drawing).

Every object of the node has one record. A process that holds an object has its own bit in the
record, so that the daemon can clear a dead process's bits with no doubt about what it had done;
within a process, handles and buffers are counted in private memory. The last holder to leave
deletes the object.

Several tricky aspects:
 1. Taking hold and deleting race. The holder sets its bit and then looks at the state; the deleter
    sets the state to DELETING and then looks at the bits. Each sees the other (both steps are
    sequentially consistent), and the deleter steps back. It may die before it has looked; so it
    says by `next` that it will not step back any more, and only then takes the object apart.
 2. A record is reused, so a locator alone may name another object by now. A reference carries the
    record's version, which changes with every reuse; while anybody holds the record, it cannot.
 3. A waiter raises `sleeping` and then looks at the object; a sealer writes SEALED and then looks
    at `sleeping` of each holder. Who waits always holds, so the holders' bits are also the list of
    whom to wake.
 4. Held is not in memory. Who reads or writes an object's block pins it before it looks at the
    state; the daemon, which takes blocks out of memory and moves them, changes the state before it
    looks at the pins (residence.pyx).
 5. A record in use is in the hands of whoever its word names, FREE ones included: its allocator
    signs it before it sets the used bit, its deleter before it clears it. So after a death each
    record says itself whether the dead one left it behind.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from rostral_objectstore._native.counting cimport count_reference
from rostral_objectstore._native.events cimport publish
from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.heap cimport allocate_record, release_block, release_named
from rostral_objectstore._native.index cimport (
    hash_id, index_find, index_insert, index_remove, lock_home, unlock_home)
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.queue cimport resolve_dependents, resolved_mark
from rostral_objectstore._native.segment cimport (
    ARENA_OBJECTS, at, attachment, locator, slot_is_live, wake_slot, wide_of)


# ---- holding -------------------------------------------------------------------------------------

cdef void set_bit(attachment *a, object_record *o) noexcept nogil:
    cdef uint64_t word
    if a.my_slot < 64:
        or64(&o.holders, <uint64_t>1 << a.my_slot)
        return
    while True:
        word = load64(&o.word)
        if word & (<uint64_t>OBJECT_FLAG_WIDE << 8):
            break
        if cas64(&o.word, word, word | <uint64_t>OBJECT_FLAG_WIDE << 8):
            break
    or64(&wide_of(a, o).holders[(a.my_slot >> 6) - 1], <uint64_t>1 << (a.my_slot & 63))


cdef void clear_bit(attachment *a, object_record *o) noexcept nogil:
    if a.my_slot < 64:
        and64(&o.holders, ~(<uint64_t>1 << a.my_slot))
    else:
        and64(
            &wide_of(a, o).holders[(a.my_slot >> 6) - 1], ~(<uint64_t>1 << (a.my_slot & 63)))


cdef uint64_t holder_bits(attachment *a, object_record *o, uint32_t i) noexcept nogil:
    """The bits of slots 64 i to 64 i + 63."""
    if i == 0:
        return load64(&o.holders)
    if not load64(&o.word) & (<uint64_t>OBJECT_FLAG_WIDE << 8):
        return 0
    return load64(&wide_of(a, o).holders[i - 1])


cdef bint held_by_none(attachment *a, object_record *o) noexcept nogil:
    cdef uint32_t i
    if load64(&o.holders) != 0:
        return False
    if load64(&o.word) & (<uint64_t>OBJECT_FLAG_WIDE << 8):
        for i in range(SLOT_WORDS - 1):
            if load64(&wide_of(a, o).holders[i]) != 0:
                return False
    # Last: who adds a container holds the object while it does.
    return CONTAINERS_COUNT(load64(&o.containers)) == 0


cdef bint hold(attachment *a, uint32_t loc, uint32_t version) noexcept nogil:
    """Takes hold of a record that still has the version. False: the object is gone."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t word
    cdef uint32_t state, spins = 0
    if a.held[loc] != 0:
        if <uint32_t>(load64(&o.word) >> 32) != version:
            return False
        a.held[loc] += 1
        return True
    set_bit(a, o)
    FAILPOINT(a.plan, HOLD_STEP_MARKED)
    while True:
        word = load64(&o.word)
        state = word & 0xff
        if word >> 32 == version and state != OBJECT_FREE:
            if state != OBJECT_DELETING:
                a.held[loc] = 1
                return True
            spins = meet_deleter(a, loc, word, spins)
            continue
        clear_bit(a, o)
        FAILPOINT(a.plan, HOLD_STEP_STRAY)
        try_delete(a, loc)  # our stray bit may have kept another object's deleter away
        return False


cdef uint32_t meet_deleter(
        attachment *a, uint32_t loc, uint64_t word, uint32_t spins) noexcept nogil:
    """Waits a moment for the deleter of an object on which we have our bit. Returns spins + 1.

    It has not looked at the bits yet, or has and goes on: one of the two shows within its next few
    steps, unless it died; then the daemon, which must not wait for itself, ends the deletion or
    undoes it.
    """
    cdef uint32_t deleter = (word >> 16) & 0xffff
    relax(spins)
    if (spins + 1) % 4096 == 0 and a.me.kind == KIND_STORE and not slot_is_live(a, deleter):
        settle_deletion(a, loc, deleter)
    return spins + 1


cdef void drop(attachment *a, uint32_t loc) noexcept nogil:
    """One handle or buffer of this process less.

    The last one clears the bit; the node's last deletes the object.
    """
    cdef object_record *o
    if a.closed:
        return
    a.held[loc] -= 1
    if a.held[loc] != 0:
        return
    o = <object_record *>at(a, loc)
    clear_bit(a, o)
    FAILPOINT(a.plan, DROP_STEP_UNMARKED)
    try_delete(a, loc)


# ---- pinning -------------------------------------------------------------------------------------

cdef bint pin(attachment *a, uint32_t loc) noexcept nogil:
    """Has the block of a held object stay where it is. False: it is not in memory."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint32_t state
    a.held[loc + 1] += 1
    if a.held[loc + 1] > 1:
        return True
    if a.my_slot < 64:
        or64(&o.pins, <uint64_t>1 << a.my_slot)
    else:
        or64(&wide_of(a, o).pins[(a.my_slot >> 6) - 1], <uint64_t>1 << (a.my_slot & 63))
    FAILPOINT(a.plan, PIN_STEP_MARKED)
    state = load64(&o.word) & 0xff
    if state == OBJECT_SEALED or state == OBJECT_CREATED:
        return True
    unpin(a, loc)
    return False


cdef void unpin(attachment *a, uint32_t loc) noexcept nogil:
    cdef object_record *o = <object_record *>at(a, loc)
    a.held[loc + 1] -= 1
    if a.held[loc + 1] != 0:
        return
    if a.my_slot < 64:
        and64(&o.pins, ~(<uint64_t>1 << a.my_slot))
    else:
        and64(&wide_of(a, o).pins[(a.my_slot >> 6) - 1], ~(<uint64_t>1 << (a.my_slot & 63)))
    FAILPOINT(a.plan, PIN_STEP_UNMARKED)
    if (load64(&o.word) & 0xff) == OBJECT_FREED:
        give_back(a, loc)


cdef bint is_pinned(attachment *a, object_record *o) noexcept nogil:
    cdef uint32_t i
    if load64(&o.pins) != 0:
        return True
    if load64(&o.word) & (<uint64_t>OBJECT_FLAG_WIDE << 8):
        for i in range(SLOT_WORDS - 1):
            if load64(&wide_of(a, o).pins[i]) != 0:
                return True
    return False


cdef void give_back(attachment *a, uint32_t loc) noexcept nogil:
    """Frees the block of a FREED object that this process holds, unless somebody has it pinned.

    Then the last of those does: who gives an object up writes FREED and looks at the pins, who ends
    a pin looks at the state afterwards. One of them says in `next` that it is his to do.
    """
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint32_t following
    while load32(&o.data) != 0 and not is_pinned(a, o):
        if not cas32(&o.next, 0, a.my_slot + 1):
            return  # who is at it looks once more after he has said that he is not
        FAILPOINT(a.plan, FREE_STEP_SAID)
        following = DELETE_LAST
        if load32(&o.data) != 0 and not is_pinned(a, o):
            if (load64(&o.word) >> 8) & OBJECT_FLAG_COMPOUND:
                following = release_contained(a, o, following)
                FAILPOINT(a.plan, FREE_STEP_UNCOUNTED)
            release_named(a, &o.data)
            FAILPOINT(a.plan, FREE_STEP_EMPTIED)
            o.size = 0
        store32(&o.next, 0)
        FAILPOINT(a.plan, FREE_STEP_DONE)
        if following != DELETE_LAST:
            delete_following(a, following)


# ---- deleting ------------------------------------------------------------------------------------

cdef bint begin_delete(attachment *a, uint32_t loc) noexcept nogil:
    """To DELETING, if nobody holds the object. True: this process must take it apart."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t word, deleting
    cdef uint32_t state, flags
    while True:
        word = load64(&o.word)
        state, flags = word & 0xff, (word >> 8) & 0xff
        if state == OBJECT_PENDING:
            if flags & OBJECT_FLAG_PRODUCER:
                return False
        elif state == OBJECT_CREATED:
            # With the last handle and buffer of its creator goes the last chance to seal it.
            if ((word >> 16) & 0xffff) != a.my_slot or a.held[loc] != 0:
                return False
            if not undo_created(a, loc, a.my_slot):
                return False
            continue
        elif not IS_READY(word) or flags & OBJECT_FLAG_PRODUCER:
            return False
        if not held_by_none(a, o):
            return False
        deleting = OBJECT_WORD(OBJECT_DELETING, flags, a.my_slot, word >> 32)
        if not cas64(&o.word, word, deleting):
            continue
        FAILPOINT(a.plan, DELETE_STEP_BEGUN)
        if held_by_none(a, o):
            return True
        FAILPOINT(a.plan, DELETE_STEP_DISTURBED)
        # The flag WIDE may have been added while we looked.
        while not cas64(&o.word, deleting, (deleting & ~<uint64_t>0xff) | state):
            deleting = load64(&o.word)
        # The one who stopped us may have left again before it could see our stepping back.


cdef void try_delete(attachment *a, uint32_t loc) noexcept nogil:
    """Deletes the object unless somebody holds it, or it is not in a state to be deleted."""
    if begin_delete(a, loc):
        finish_delete(a, loc)


cdef void finish_delete(attachment *a, uint32_t loc) noexcept nogil:
    """Takes apart an object in state DELETING, and what only its value kept.

    Those that follow form a stack through `next`, not a recursion: a chain of objects may be
    longer than the machine's stack is deep. The order matters for a death in between: what is
    given back twice would be somebody else's by then, so each thing is forgotten here before it is
    freed. Everything on the stack is DELETING by us, so the daemon finds each of them by itself.
    """
    release32(&(<object_record *>at(a, loc)).next, DELETE_LAST)
    FAILPOINT(a.plan, DELETE_STEP_SURE)
    delete_following(a, loc)


cdef void delete_following(attachment *a, uint32_t loc) noexcept nogil:
    cdef object_record *o
    cdef uint32_t following
    cdef uint64_t word
    while True:
        o = <object_record *>at(a, loc)
        word = load64(&o.word)
        following = o.next
        if load32(&a.hdr.watched) != 0 and load64(&o.dependents) == DEPENDENTS_CLOSED:
            publish(a, EVENT_DELETED, o)
        index_remove(a, o, loc)
        FAILPOINT(a.plan, DELETE_STEP_UNINDEXED)
        if o.data != 0:
            if (word >> 8) & OBJECT_FLAG_COMPOUND:
                following = release_contained(a, o, following)
                FAILPOINT(a.plan, DELETE_STEP_UNCOUNTED)
            release_named(a, &o.data)
        o.size = 0
        o.task = 0
        o.dependents = 0
        memset(o.id, 0, 20)
        # `next` stays: until the word is FREE it says that nobody steps back any more.
        FAILPOINT(a.plan, DELETE_STEP_EMPTIED)
        if (word >> 8) & OBJECT_FLAG_ON_DISK:
            add32(&a.hdr.spilled_deleted, 1)
        release64(&o.word, OBJECT_WORD(OBJECT_FREE, 0, a.my_slot, NEXT_VERSION(word)))
        FAILPOINT(a.plan, DELETE_STEP_FREE)
        release_block(a, loc)
        if following == DELETE_LAST:
            return
        loc = following


cdef uint32_t release_contained(
        attachment *a, object_record *o, uint32_t following) noexcept nogil:
    """Gives back what the object's value counts in others; pushes those it was the last to keep."""
    cdef compound *c = <compound *>at(a, o.data)
    cdef uint32_t i, inner
    for i in range(c.released_count, c.counted_count):
        inner = count_reference(a, o, i, False)
        if begin_delete(a, inner):
            FAILPOINT(a.plan, DELETE_STEP_INNER)
            release32(&(<object_record *>at(a, inner)).next, following)
            following = inner
    return following


cdef void settle_deletion(attachment *a, uint32_t loc, uint32_t dead) noexcept nogil:
    """The daemon: ends a deletion whose deleter died, or undoes it if somebody holds the object."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t word = load64(&o.word), state
    while (word & 0xff) == OBJECT_DELETING and ((word >> 16) & 0xffff) == dead:
        if o.next == 0 and not held_by_none(a, o):
            state = OBJECT_PENDING
            if IS_GIVEN_UP(word):
                if load64(&o.dependents) == DEPENDENTS_CLOSED:
                    state = OBJECT_FREED
            elif (word >> 8) & OBJECT_FLAG_SPILLED:
                state = OBJECT_SPILLED  # or LOST, as its next reader is told
            elif o.data != 0 or (word >> 8) & OBJECT_FLAG_INLINE:
                state = OBJECT_SEALED
            if cas64(&o.word, word, (word & ~<uint64_t>0xff) | state):
                try_delete(a, loc)  # whoever held it may have left without seeing our stepping back
                return
        elif cas64(&o.word, word, OBJECT_WORD(
                OBJECT_DELETING, (word >> 8) & 0xff, a.my_slot, word >> 32)):
            if o.next != 0 or held_by_none(a, o):
                finish_delete(a, loc)
                return
            dead = a.my_slot
        word = load64(&o.word)


# ---- making and sealing --------------------------------------------------------------------------

cdef uint32_t new_object(
        attachment *a, const uint8_t *id, uint64_t state, uint64_t flags,
        bint *existed) noexcept nogil:
    """A record for the id, held by this process: a new one in the state, or the one that the id has
    already.

    Returns its locator, or 0 when the store is full.
    """
    cdef uint64_t h = hash_id(id)
    cdef index_group *g
    cdef uint32_t loc, found
    cdef object_record *o
    cdef uint64_t word
    loc = allocate_record(a, ARENA_OBJECTS, OBJECT_SIZE)
    if loc == 0:
        return 0
    o = <object_record *>at(a, loc)
    memcpy(o.id, id, 20)
    o.kind = o.next = 0
    FAILPOINT(a.plan, NEW_STEP_NAMED)
    a.held[loc] = 1
    set_bit(a, o)
    FAILPOINT(a.plan, NEW_STEP_HELD)
    # Nobody else writes a FREE record's word, but that a holder who read the id and the version of
    # this moment may add the flag WIDE, which must not be lost: its hold may turn out valid.
    while True:
        word = load64(&o.word)
        if cas64(&o.word, word, OBJECT_WORD(
                state, flags | ((word >> 8) & OBJECT_FLAG_WIDE),
                a.my_slot, word >> 32)):
            break
    FAILPOINT(a.plan, NEW_STEP_STATED)
    while True:
        g = lock_home(a, h)
        found = index_find(a, id, h)
        if found == 0:
            if not index_insert(a, loc, h):
                unlock_home(a, g)
                break
            FAILPOINT(a.plan, INDEX_STEP_INSERTED)
            unlock_home(a, g)
            existed[0] = False
            return loc
        unlock_home(a, g)
        o = <object_record *>at(a, found)
        if hold(a, found, load64(&o.word) >> 32):
            if memcmp(o.id, id, 20) == 0:
                discard_new(a, loc)
                existed[0] = True
                return found
            drop(a, found)
    discard_new(a, loc)
    return 0


cdef void discard_new(attachment *a, uint32_t loc) noexcept nogil:
    """A record that was never published goes back."""
    cdef object_record *o = <object_record *>at(a, loc)
    a.held[loc] = 0
    clear_bit(a, o)
    FAILPOINT(a.plan, DISCARD_STEP_UNMARKED)
    memset(o.id, 0, 20)
    store64(&o.word, OBJECT_WORD(OBJECT_FREE, 0, a.my_slot, NEXT_VERSION(load64(&o.word))))
    FAILPOINT(a.plan, DISCARD_STEP_FREE)
    release_block(a, loc)


cdef void count_references(attachment *a, object_record *o, uint32_t count) noexcept nogil:
    """Counts each reference of a value that is about to be sealed in what it refers to."""
    cdef uint32_t i
    if count == 0:
        return
    # From here on, who repairs after our death must give the counts back.
    add_flag(o, OBJECT_FLAG_COMPOUND)
    for i in range(count):
        count_reference(a, o, i, True)


cdef bint begin_write(attachment *a, uint32_t loc) noexcept nogil:
    """PENDING to CREATED by this process. False: somebody else has written it, or is writing."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t word
    while True:
        word = load64(&o.word)
        if (word & 0xff) != OBJECT_PENDING:
            return False
        if cas64(&o.word, word, OBJECT_WORD(
                OBJECT_CREATED, (word >> 8) & 0xff, a.my_slot, word >> 32)):
            FAILPOINT(a.plan, WRITE_STEP_BEGUN)
            return True


cdef bint created_by(attachment *a, object_record *o) noexcept nogil:
    cdef uint64_t word = load64(&o.word)
    return (word & 0xff) == OBJECT_CREATED and ((word >> 16) & 0xffff) == a.my_slot


cdef void add_flag(object_record *o, uint64_t flag) noexcept nogil:
    cdef uint64_t word = load64(&o.word)
    while not cas64(&o.word, word, word | flag << 8):
        word = load64(&o.word)


cdef bint undo_created(attachment *a, uint32_t loc, uint32_t owner) noexcept nogil:
    """CREATED by `owner` (this process, or a dead one) back to PENDING: whoever waits goes on
    waiting.

    The block of a dead owner is left to the sweep of its chunks. False: it was not CREATED by it.
    """
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t word
    cdef uint32_t following = DELETE_LAST
    while True:
        word = load64(&o.word)
        if (word & 0xff) != OBJECT_CREATED or ((word >> 16) & 0xffff) != owner:
            return False
        # Two daemons may come to a dead one's object: the compare-and-swap says whose work it is.
        if owner == a.my_slot or cas64(&o.word, word, OBJECT_WORD(
                OBJECT_CREATED, (word >> 8) & 0xff, a.my_slot, word >> 32)):
            break
    if o.data != 0:
        if (word >> 8) & OBJECT_FLAG_COMPOUND:
            following = release_contained(a, o, following)
        if owner == a.my_slot:
            release_named(a, &o.data)
        else:
            store32(&o.data, 0)
    FAILPOINT(a.plan, ABORT_STEP_EMPTIED)
    o.size = 0
    while True:
        word = load64(&o.word)
        if cas64(&o.word, word, OBJECT_WORD(
                OBJECT_PENDING, (word >> 8) & 0xff & ~<uint64_t>OBJECT_FLAG_COMPOUND,
                (word >> 16) & 0xffff, word >> 32)):
            break
    FAILPOINT(a.plan, ABORT_STEP_PENDING)
    if following != DELETE_LAST:
        delete_following(a, following)
    return True


cdef void wake_holders(attachment *a, uint32_t loc, bint everyone) noexcept nogil:
    """Wakes each holder that sleeps for this object or for any; `everyone`: for whatever."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint32_t i, words = 1
    cdef uint64_t bits
    cdef slot *s
    if load64(&o.word) & (<uint64_t>OBJECT_FLAG_WIDE << 8):
        words = SLOT_WORDS
    for i in range(words):
        bits = holder_bits(a, o, i)
        while bits != 0:
            s = &a.slots[i * 64 + lowest_bit(bits)]
            if load32(&s.sleeping) != 0 and (everyone or load32(&s.wait_loc) in (loc, WAIT_ANY)):
                wake_slot(a, i * 64 + lowest_bit(bits))
            bits &= bits - 1


cdef bint seal(attachment *a, uint32_t loc, uint64_t flags) noexcept nogil:
    """CREATED to SEALED, `flags` added; then whoever waits is told. The caller holds the object.

    One that was given up meanwhile becomes FREED. False: it is not CREATED by this process (any
    more).
    """
    return publish_value(a, loc, OBJECT_SEALED, flags)


cdef bint publish_value(
        attachment *a, uint32_t loc, uint64_t state, uint64_t flags) noexcept nogil:
    """`seal`, to SEALED or to SPILLED: then its bytes are not in memory."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t word, sealed, dependents
    while True:
        word = load64(&o.word)
        if (word & 0xff) != OBJECT_CREATED or ((word >> 16) & 0xffff) != a.my_slot:
            return False
        sealed = OBJECT_WORD(
            state, ((word >> 8) & 0xff & ~<uint64_t>OBJECT_FLAG_PRODUCER) | flags,
            a.my_slot, word >> 32)
        if IS_GIVEN_UP(word):
            sealed |= OBJECT_FREED | <uint64_t>OBJECT_FLAG_ERROR << 8
        FAILPOINT(a.plan, SEAL_STEP_BEFORE_PUBLISH)
        if cas64(&o.word, word, sealed):
            break
    FAILPOINT(a.plan, SEAL_STEP_PUBLISHED)
    o.task = 0
    o.last_used = a.hdr.tick
    dependents = exchange64(&o.dependents, DEPENDENTS_CLOSED)
    FAILPOINT(a.plan, SEAL_STEP_CLOSED)
    wake_holders(a, loc, ((sealed >> 8) & OBJECT_FLAG_ERROR) != 0)
    FAILPOINT(a.plan, SEAL_STEP_WOKEN)
    if load32(&a.hdr.watched) != 0:
        publish(a, EVENT_SEALED, o)
    if dependents > DEPENDENTS_CLOSED:
        resolve_dependents(a, dependents, resolved_mark(a, loc))
    if IS_GIVEN_UP(sealed):
        give_back(a, loc)
    return True
