"""The object table: records of objects, the index from id to record, who holds them, and their life.

Every object of the node has one record (layout.h has the drawing of its states). A process that holds an object has its
own bit in the record, so that the daemon can clear a dead process's bits with no doubt about what it had done; within a
process, handles and buffers are counted in private memory. The last holder to leave deletes the object.

Several tricky aspects:
 1. Taking hold and deleting race. The holder sets its bit and then looks at the state; the deleter sets the state to
    DELETING and then looks at the bits. Each sees the other (both steps are sequentially consistent), and the deleter
    steps back.
 2. A record is reused, so a locator alone may name another object by now. A reference carries the record's version,
    which changes with every reuse; while anybody holds the record, it cannot change.
 3. A waiter raises `sleeping` and then looks at the object; a sealer writes SEALED and then looks at `sleeping` of each
    holder. Who waits always holds, so the holders' bits are also the list of whom to wake.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer, PyBUF_SIMPLE, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from rostral_objectstore._native.heap cimport ARENA_OBJECTS, allocate, allocate_record, populate, release_block
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport contained as contained_ref, object as object_record
from rostral_objectstore._native.queue cimport resolve_dependents
from rostral_objectstore._native.segment cimport (
    Segment, at, attachment, clear_awake, locator, may_spin, poke_scheduler, set_awake, wake_slot)

import os

from rostral_objectstore.errors import (
    ObjectAlreadyExistsError, ObjectNotFoundError, ObjectStateError, ObjectStoreFullError, StoreClosedError)

cdef enum:
    # How long a waiter spins before it sleeps, if it has a core: a little longer than it takes to wake a sleeper on an
    # idle virtual core (25 us or more, measured), so that a steady ping-pong never sleeps.
    SPIN_NS = 60000
    SPINS_PER_CLOCK = 64
    # Above this a copy releases the GIL and maps the pages of the block in one call.
    LARGE_COPY = 1 << 20


# ---- index ------------------------------------------------------------------------------------------------------

cdef uint64_t hash_id(const uint8_t *id) noexcept nogil:
    cdef uint64_t x, y
    cdef uint32_t z
    memcpy(&x, id, 8)
    memcpy(&y, id + 8, 8)
    memcpy(&z, id + 16, 4)
    x ^= (y << 23 | y >> 41) ^ (<uint64_t>z << 32 | z)
    x = (x ^ (x >> 33)) * <uint64_t>0xff51afd7ed558ccd
    x = (x ^ (x >> 33)) * <uint64_t>0xc4ceb9fe1a85ec53
    return x ^ (x >> 33)


cdef bint lock_group(attachment *a, index_group *g) noexcept nogil:
    """Spins for the few instructions that a holder needs; takes the lock over from a dead one."""
    cdef uint32_t spins = 0, owner
    while not cas32(&g.lock, 0, a.my_slot + 1):
        cpu_pause()
        spins += 1
        if spins % 4096 == 0:
            owner = load32(&g.lock)
            if owner != 0 and load32(&a.slots[owner - 1].state) != SLOT_LIVE:
                if cas32(&g.lock, owner, a.my_slot + 1):
                    return True
    return True


cdef uint32_t index_find(attachment *a, const uint8_t *id, uint64_t h) noexcept nogil:
    """The record that has the id at this moment, or 0. The caller takes hold and then compares the id again."""
    cdef uint64_t mask = a.hdr.index_group_count - 1
    cdef uint64_t position = h & mask, bucket, tried
    cdef index_group *g
    cdef int i
    cdef uint32_t loc
    for tried in range(a.hdr.index_group_count):
        g = &a.index[position]
        for i in range(7):
            bucket = load64(&g.bucket[i])
            if bucket != 0 and bucket >> 32 == h >> 32:
                loc = <uint32_t>bucket
                if memcmp((<object_record *>at(a, loc)).id, id, 20) == 0:
                    return loc
        if load32(&g.overflow) == 0:
            return 0
        position = (position + 1) & mask
    return 0


cdef bint index_insert(attachment *a, uint32_t loc, uint64_t h) noexcept nogil:
    """Under the lock of the id's home group. False when the index is full."""
    cdef uint64_t mask = a.hdr.index_group_count - 1
    cdef uint64_t position = h & mask, tried
    cdef uint64_t bucket = (h >> 32) << 32 | loc
    cdef index_group *g
    cdef int i
    for tried in range(a.hdr.index_group_count):
        g = &a.index[position]
        for i in range(7):
            # Neighbours' ids spill into this group under other locks: hence the compare-and-swap.
            if g.bucket[i] == 0 and cas64(&g.bucket[i], 0, bucket):
                return True
        if g.overflow == 0:
            store32(&g.overflow, 1)
        position = (position + 1) & mask
    return False


cdef void index_remove(attachment *a, object_record *o, uint32_t loc) noexcept nogil:
    cdef uint64_t h = hash_id(o.id)
    cdef uint64_t mask = a.hdr.index_group_count - 1
    cdef uint64_t position = h & mask, tried
    cdef uint64_t bucket = (h >> 32) << 32 | loc
    cdef index_group *g
    cdef int i
    for tried in range(a.hdr.index_group_count):
        g = &a.index[position]
        for i in range(7):
            if g.bucket[i] == bucket and cas64(&g.bucket[i], bucket, 0):
                return
        if load32(&g.overflow) == 0:
            return
        position = (position + 1) & mask


# ---- holding ----------------------------------------------------------------------------------------------------

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
    or64(&o.holders_wide[(a.my_slot >> 6) - 1], <uint64_t>1 << (a.my_slot & 63))


cdef void clear_bit(attachment *a, object_record *o) noexcept nogil:
    if a.my_slot < 64:
        and64(&o.holders, ~(<uint64_t>1 << a.my_slot))
    else:
        and64(&o.holders_wide[(a.my_slot >> 6) - 1], ~(<uint64_t>1 << (a.my_slot & 63)))


cdef bint held_by_none(object_record *o) noexcept nogil:
    cdef uint32_t i
    if load64(&o.holders) != 0 or load32(&o.containers) != 0:
        return False
    if load64(&o.word) & (<uint64_t>OBJECT_FLAG_WIDE << 8):
        for i in range(SLOT_WORDS - 1):
            if load64(&o.holders_wide[i]) != 0:
                return False
    return True


cdef bint hold(attachment *a, uint32_t loc, uint32_t version) noexcept nogil:
    """Takes hold of a record that still has the version. False: the object is gone."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t word
    cdef uint32_t state
    if a.held[loc >> 2] != 0:
        if <uint32_t>(load64(&o.word) >> 32) != version:
            return False
        a.held[loc >> 2] += 1
        return True
    set_bit(a, o)
    while True:
        word = load64(&o.word)
        state = word & 0xff
        if word >> 32 == version and state != OBJECT_FREE:
            if state != OBJECT_DELETING:
                a.held[loc >> 2] = 1
                return True
            # The deleter has not looked at the bits yet, or has and goes on: one of the two shows within its next few
            # steps, unless it died; then the daemon ends the deletion.
            cpu_pause()
            continue
        clear_bit(a, o)
        try_delete(a, loc)  # our stray bit may have kept another object's deleter away
        return False


cdef void drop(attachment *a, uint32_t loc) noexcept nogil:
    """One handle or buffer of this process less; the last one clears the bit, the node's last deletes the object."""
    cdef object_record *o
    if a.closed:
        return
    a.held[loc >> 2] -= 1
    if a.held[loc >> 2] != 0:
        return
    o = <object_record *>at(a, loc)
    clear_bit(a, o)
    try_delete(a, loc)


cdef void try_delete(attachment *a, uint32_t loc) noexcept nogil:
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t word, deleting
    cdef uint32_t state, flags
    while True:
        word = load64(&o.word)
        state, flags = word & 0xff, (word >> 8) & 0xff
        if state == OBJECT_PENDING:
            if flags & OBJECT_FLAG_PRODUCER:
                return
        elif state != OBJECT_SEALED and state != OBJECT_LOST:
            return
        if not held_by_none(o):
            return
        deleting = OBJECT_WORD(OBJECT_DELETING, flags, a.my_slot, word >> 32)
        if not cas64(&o.word, word, deleting):
            continue
        if held_by_none(o):
            finish_delete(a, o, deleting)
            return
        # The flag WIDE may have been added while we looked.
        while not cas64(&o.word, deleting, (deleting & ~<uint64_t>0xff) | state):
            deleting = load64(&o.word)
        # The one who stopped us may have left again before it could see our stepping back.


cdef void finish_delete(attachment *a, object_record *o, uint64_t word) noexcept nogil:
    """Takes apart a record in state DELETING. Only its deleter, or the daemon after the deleter's death, comes here.

    The order matters for a death in between: what is given back twice would be somebody else's by then, so each thing is
    forgotten here before it is freed; a death can then lose one block until the daemon's sweep, and never free one twice.
    """
    cdef uint32_t loc = locator(a, o), data = o.data, i, inner
    cdef compound *c
    cdef contained *refs
    cdef object_record *p
    index_remove(a, o, loc)
    if data != 0:
        if (word >> 8) & OBJECT_FLAG_COMPOUND:
            c = <compound *>at(a, data)
            refs = <contained *>(<char *>c + sizeof(compound))
            for i in range(c.released_count, c.contained_count):
                store32(&c.released_count, i + 1)
                inner = refs[i].loc
                p = <object_record *>at(a, inner)
                sub32(&p.containers, 1)
                try_delete(a, inner)
        store32(&o.data, 0)
        release_block(a, data)
    o.size = 0
    o.task = 0
    store64(&o.dependents, 0)
    memset(o.id, 0, 20)
    store64(&o.word, OBJECT_WORD(OBJECT_FREE, 0, 0, NEXT_VERSION(word)))
    release_block(a, loc)


# ---- making and sealing -----------------------------------------------------------------------------------------

cdef uint32_t new_object(attachment *a, const uint8_t *id, uint64_t state, uint64_t flags, bint *existed) noexcept nogil:
    """A record for the id, held by this process: a new one in the state, or the one that the id has already.

    Returns its locator, or 0 when the store is full.
    """
    cdef uint64_t h = hash_id(id)
    cdef index_group *g = &a.index[h & (a.hdr.index_group_count - 1)]
    cdef uint32_t loc, found
    cdef object_record *o
    cdef uint64_t word
    loc = allocate_record(a, ARENA_OBJECTS, OBJECT_SIZE)
    if loc == 0:
        return 0
    o = <object_record *>at(a, loc)
    memcpy(o.id, id, 20)
    o.kind = 0
    word = load64(&o.word)
    a.held[loc >> 2] = 1
    set_bit(a, o)
    # Nobody else writes a FREE record's word but a stray holder's WIDE flag, which does no harm to lose: its bit is
    # about to be cleared again.
    store64(&o.word, OBJECT_WORD(state, flags | OBJECT_FLAG_INDEXED | (
        OBJECT_FLAG_WIDE if a.my_slot >= 64 else 0), a.my_slot, word >> 32))
    while True:
        lock_group(a, g)
        found = index_find(a, id, h)
        if found == 0:
            if not index_insert(a, loc, h):
                store32(&g.lock, 0)
                break
            store32(&g.lock, 0)
            existed[0] = False
            return loc
        store32(&g.lock, 0)
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
    a.held[loc >> 2] = 0
    clear_bit(a, o)
    memset(o.id, 0, 20)
    store64(&o.word, OBJECT_WORD(OBJECT_FREE, 0, 0, NEXT_VERSION(load64(&o.word))))
    release_block(a, loc)


cdef void wake_holders(attachment *a, uint32_t loc, bint everyone) noexcept nogil:
    """Wakes each holder that sleeps for this object, or for any (`everyone`: whatever it sleeps for)."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint32_t i, words = 1
    cdef uint64_t bits
    cdef slot *s
    if load64(&o.word) & (<uint64_t>OBJECT_FLAG_WIDE << 8):
        words = SLOT_WORDS
    for i in range(words):
        bits = load64(&o.holders) if i == 0 else load64(&o.holders_wide[i - 1])
        while bits != 0:
            s = &a.slots[i * 64 + lowest_bit(bits)]
            if load32(&s.sleeping) != 0 and (everyone or load32(&s.wait_loc) in (loc, WAIT_ANY)):
                wake_slot(a, i * 64 + lowest_bit(bits))
            bits &= bits - 1


cdef void seal(attachment *a, uint32_t loc, uint64_t flags) noexcept nogil:
    """CREATED to SEALED, `flags` added; then whoever waits is told."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t word, sealed
    cdef uint64_t dependents
    while True:
        word = load64(&o.word)
        sealed = OBJECT_WORD(
            OBJECT_SEALED, ((word >> 8) & 0xff & ~<uint64_t>OBJECT_FLAG_PRODUCER) | flags, a.my_slot, word >> 32)
        if cas64(&o.word, word, sealed):
            break
    o.task = 0
    dependents = exchange64(&o.dependents, DEPENDENTS_CLOSED)
    wake_holders(a, loc, (flags & OBJECT_FLAG_ERROR) != 0)
    if dependents > DEPENDENTS_CLOSED:
        resolve_dependents(a, dependents)


# ---- the Python face --------------------------------------------------------------------------------------------

cdef class Handle:
    """Holds one object for this process: while any handle or buffer of it lives, the object stays.

    Made by ObjectTable, not by users. Equal and hashable by id. Dropping the last handle of the node deletes the object.
    """

    def __init__(self):
        raise TypeError(f"{type(self).__name__} is made by put, create or remote calls, not by hand")

    def __dealloc__(self):
        if self.segment is not None and self.loc != 0:
            drop(&self.segment.a, self.loc)

    def binary(self):
        """The 20 bytes of the object's id."""
        return PyBytes_FromStringAndSize(<char *>self.id_bytes, 20)

    def hex(self):
        """The object's id in 40 hexadecimal digits."""
        return self.binary().hex()

    def packed(self):
        """28 bytes by which another process of this node finds the object: id, locator, version."""
        cdef uint8_t p[28]
        memcpy(p, self.id_bytes, 20)
        memcpy(p + 20, &self.loc, 4)
        memcpy(p + 24, &self.version, 4)
        return PyBytes_FromStringAndSize(<char *>p, 28)

    def __hash__(self):
        cdef int64_t h
        memcpy(&h, self.id_bytes, 8)
        h ^= self.id_bytes[16] | <int64_t>self.id_bytes[17] << 8
        return h if h != -1 else -2

    def __eq__(self, other):
        if not isinstance(other, Handle):
            return NotImplemented
        return memcmp(self.id_bytes, (<Handle>other).id_bytes, 20) == 0

    def __repr__(self):
        return f"{type(self).__name__}({self.hex()})"


cdef Handle new_handle(object cls, Segment segment, uint32_t loc):
    """Wraps one hold that the caller has taken."""
    cdef object_record *o = <object_record *>at(&segment.a, loc)
    cdef Handle handle = cls.__new__(cls)
    handle.segment = segment
    handle.loc = loc
    handle.version = load64(&o.word) >> 32
    memcpy(handle.id_bytes, o.id, 20)
    return handle


cdef class ObjectBuffer:
    """Bytes of an object, in place. Keeps the object held for as long as this, or any view of it, lives."""

    def __init__(self):
        raise TypeError("ObjectBuffer is made by the object table")

    def __dealloc__(self):
        if self.table is not None:
            self.table.buffer_count -= 1
            drop(&self.table.segment.a, self.loc)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, self.readonly, flags)

    def __len__(self):
        return self.size


cdef class ObjectTable:
    """What this process does with objects: create, seal, find, read, wait, hold and drop.

    Nothing here blocks but `wait`. Methods that take a Handle trust its hold; methods that make one return it held.
    """

    def __init__(self, Segment segment):
        self.segment = segment

    cdef attachment *_open(self) except NULL:
        if self.segment.a.closed:
            raise StoreClosedError("this process is no longer attached to the store",
                                   hint="it was closed, or this is a forked child: attach again")
        return &self.segment.a

    cdef ObjectBuffer _buffer(self, uint32_t loc, char *data, Py_ssize_t size, bint readonly):
        """Takes one more hold of an object that the caller holds."""
        cdef ObjectBuffer buffer = ObjectBuffer.__new__(ObjectBuffer)
        self.segment.a.held[loc >> 2] += 1
        self.buffer_count += 1
        buffer.table, buffer.loc, buffer.data, buffer.size, buffer.readonly = self, loc, data, size, readonly
        return buffer

    # ---- writing

    def put(self, object cls, bytes id, uint32_t kind, bytes inband, list buffers, list contained, uint32_t flags=0):
        """Creates and seals an object in one go. Returns its handle, of class `cls`.

        Args:
            id: 20 bytes.
            kind: how to read it; opaque here.
            inband: the value, or its in-band part when there are buffers.
            buffers: objects with contiguous buffers, copied to 64-byte boundaries.
            contained: handles of the objects that the value refers to; kept for as long as this one lives.
            flags: OBJECT_FLAG_ERROR or 0.

        Raises: ObjectAlreadyExistsError, ObjectStoreFullError, StoreClosedError.
        """
        cdef attachment *a = self._open()
        cdef bint existed = False
        if len(id) != 20:
            raise ValueError(f"an object id has 20 bytes, not {len(id)}")
        cdef uint32_t loc = new_object(a, <const uint8_t *><char *>id, OBJECT_CREATED, 0, &existed)
        if loc == 0:
            raise self._full(len(inband))
        cdef Handle handle = new_handle(cls, self.segment, loc)
        if existed and not begin_write(a, loc):
            raise ObjectAlreadyExistsError(f"object {id.hex()} already exists", hint="objects are immutable: use another id")
        self._fill(handle, kind, inband, buffers, contained, flags)
        return handle

    def fill(self, Handle handle, uint32_t kind, bytes inband, list buffers, list contained, uint32_t flags=0):
        """Writes and seals an object that is expected (PENDING). False: it has been sealed already."""
        cdef attachment *a = self._open()
        if not begin_write(a, handle.loc):
            return False
        self._fill(handle, kind, inband, buffers, contained, flags)
        return True

    def fill_at(self, uint32_t loc, uint32_t kind, bytes inband, list buffers, list contained, uint32_t flags=0):
        """`fill` for a result of the task that this process runs, or repairs: the task keeps the record in place."""
        cdef attachment *a = self._open()
        if not begin_write(a, loc):
            return False
        a.held[loc >> 2] += 1
        if a.held[loc >> 2] == 1:
            set_bit(a, <object_record *>at(a, loc))
        self._fill(new_handle(Handle, self.segment, loc), kind, inband, buffers, contained, flags)
        return True

    cdef _fill(self, Handle handle, uint32_t kind, bytes inband, list buffers, list contained, uint32_t flags):
        cdef attachment *a = &self.segment.a
        cdef object_record *o = <object_record *>at(a, handle.loc)
        cdef uint64_t inband_size = PyBytes_GET_SIZE(inband), total, offset, start
        cdef uint32_t block
        cdef compound *c
        cdef contained_ref *refs
        cdef uint64_t *table
        cdef Handle inner
        cdef Py_buffer view
        cdef list views = []
        o.kind = kind
        if not buffers and not contained:
            o.size = inband_size
            if inband_size <= INLINE_SIZE:
                memcpy(o.value, PyBytes_AS_STRING(inband), inband_size)
                seal(a, handle.loc, flags | OBJECT_FLAG_INLINE)
                return
            block = allocate(a, inband_size)
            if block == 0:
                self._undo(handle.loc)
                raise self._full(inband_size)
            copy_in(a, <char *>at(a, block), PyBytes_AS_STRING(inband), inband_size)
            store32(&o.data, block)
            seal(a, handle.loc, flags)
            return

        offset = sizeof(compound) + len(contained) * sizeof(contained_ref) + len(buffers) * 16
        total = (offset + inband_size + 63) & ~<uint64_t>63
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        for item in views:
            total += (<uint64_t>item.nbytes + 63) & ~<uint64_t>63
        block = allocate(a, total)
        if block == 0:
            self._undo(handle.loc)
            raise self._full(total)
        c = <compound *>at(a, block)
        c.contained_count = len(contained)
        c.buffer_count = len(buffers)
        c.inband_size = inband_size
        c.released_count = 0
        refs = <contained_ref *>(<char *>c + sizeof(compound))
        for i, inner in enumerate(contained):
            memcpy(refs[i].id, inner.id_bytes, 20)
            refs[i].loc, refs[i].version = inner.loc, inner.version
        table = <uint64_t *>(<char *>refs + c.contained_count * sizeof(contained_ref))
        memcpy(<char *>c + offset, PyBytes_AS_STRING(inband), inband_size)
        start = (offset + inband_size + 63) & ~<uint64_t>63
        for i, item in enumerate(views):
            table[2 * i], table[2 * i + 1] = start, item.nbytes
            if item.nbytes:
                PyObject_GetBuffer(item, &view, PyBUF_SIMPLE)
                copy_in(a, <char *>c + start, <char *>view.buf, view.len)
                PyBuffer_Release(&view)
            start += (<uint64_t>item.nbytes + 63) & ~<uint64_t>63
        for inner in contained:
            add32(&(<object_record *>at(a, inner.loc)).containers, 1)
        o.size = total
        store32(&o.data, block)
        seal(a, handle.loc, flags | OBJECT_FLAG_COMPOUND)

    cdef _undo(self, uint32_t loc):
        """CREATED back to PENDING: whoever waits goes on waiting, and an object without holders goes."""
        cdef attachment *a = &self.segment.a
        cdef object_record *o = <object_record *>at(a, loc)
        cdef uint64_t word = load64(&o.word)
        while not cas64(&o.word, word, (word & ~<uint64_t>0xff) | OBJECT_PENDING):
            word = load64(&o.word)

    def create(self, object cls, bytes id, uint64_t size, uint32_t kind):
        """A writable buffer of `size` bytes inside the store. Returns (handle, buffer); `seal` publishes it."""
        cdef attachment *a = self._open()
        cdef bint existed = False
        if len(id) != 20:
            raise ValueError(f"an object id has 20 bytes, not {len(id)}")
        cdef uint32_t loc = new_object(a, <const uint8_t *><char *>id, OBJECT_CREATED, 0, &existed), block
        if loc == 0:
            raise self._full(size)
        cdef Handle handle = new_handle(cls, self.segment, loc)
        cdef object_record *o = <object_record *>at(a, loc)
        if existed and not begin_write(a, loc):
            raise ObjectAlreadyExistsError(f"object {id.hex()} already exists", hint="objects are immutable: use another id")
        block = allocate(a, size if size else 1)
        if block == 0:
            self._undo(loc)
            raise self._full(size)
        o.kind, o.size = kind, size
        store32(&o.data, block)
        return handle, self._buffer(loc, <char *>at(a, block), size, False)

    def seal(self, Handle handle):
        """Publishes an object that this process created. Views of the writable buffer must not be written any more."""
        cdef attachment *a = self._open()
        cdef object_record *o = <object_record *>at(a, handle.loc)
        cdef uint64_t word = load64(&o.word)
        if (word & 0xff) != OBJECT_CREATED or ((word >> 16) & 0xffff) != a.my_slot:
            raise ObjectStateError(
                f"object {handle.hex()} is {STATE_NAMES[word & 0xff]} and cannot be sealed",
                hint="only its creator can seal an object, once")
        seal(a, handle.loc, 0)

    def abort(self, Handle handle):
        """Gives up an object that this process created and has not sealed."""
        cdef attachment *a = self._open()
        cdef object_record *o = <object_record *>at(a, handle.loc)
        cdef uint64_t word = load64(&o.word)
        cdef uint32_t data
        if (word & 0xff) != OBJECT_CREATED or ((word >> 16) & 0xffff) != a.my_slot:
            raise ObjectStateError(
                f"object {handle.hex()} is {STATE_NAMES[word & 0xff]} and cannot be aborted",
                hint="only its creator can abort an object, before it is sealed")
        data = o.data
        store32(&o.data, 0)
        release_block(a, data)
        self._undo(handle.loc)

    # ---- finding and reading

    def expect(self, object cls, bytes id):
        """A handle of the object with the id, which may not exist yet: `wait` waits for its seal."""
        cdef attachment *a = self._open()
        cdef bint existed = False
        if len(id) != 20:
            raise ValueError(f"an object id has 20 bytes, not {len(id)}")
        cdef uint32_t loc = new_object(a, <const uint8_t *><char *>id, OBJECT_PENDING, 0, &existed)
        if loc == 0:
            raise self._full(0)
        return new_handle(cls, self.segment, loc)

    def find(self, object cls, bytes id):
        """A handle of the object with the id, or None when the node does not know it."""
        cdef attachment *a = self._open()
        if len(id) != 20:
            raise ValueError(f"an object id has 20 bytes, not {len(id)}")
        cdef const uint8_t *key = <const uint8_t *><char *>id
        cdef uint32_t loc
        cdef object_record *o
        while True:
            loc = index_find(a, key, hash_id(key))
            if loc == 0:
                return None
            o = <object_record *>at(a, loc)
            if hold(a, loc, load64(&o.word) >> 32):
                if memcmp(o.id, key, 20) == 0:
                    return new_handle(cls, self.segment, loc)
                drop(a, loc)

    def adopt(self, object cls, uint32_t loc, uint32_t version, bytes id):
        """A handle from a reference that another process of this node sent, while somebody keeps the object.

        Raises ObjectNotFoundError when the object is gone.
        """
        cdef attachment *a = self._open()
        cdef Handle handle
        if loc != 0 and loc < a.hdr.segment_size >> 6 and loc & 3 == 0 and hold(a, loc, version):
            handle = new_handle(cls, self.segment, loc)
            if memcmp(handle.id_bytes, <char *>id, 20) == 0:
                return handle
        raise ObjectNotFoundError(f"object {id.hex()} is gone from this node", hint="keep a reference to what you pass on")

    def adopt_packed(self, object cls, bytes packed):
        """`adopt` from the 28 bytes that Handle.packed gave. Raises ObjectNotFoundError, ValueError."""
        cdef uint32_t loc, version
        cdef const char *p = packed
        if PyBytes_GET_SIZE(packed) != 28:
            raise ValueError(f"a packed reference has 28 bytes, not {len(packed)}")
        memcpy(&loc, p + 20, 4)
        memcpy(&version, p + 24, 4)
        return self.adopt(cls, loc, version, packed[:20])

    def share(self, object cls, Handle handle):
        """One more handle of the same object."""
        cdef attachment *a = self._open()
        a.held[handle.loc >> 2] += 1
        return new_handle(cls, self.segment, handle.loc)

    def adopt_held(self, object cls, uint32_t loc):
        """A handle of an object that another process is known to hold for us (a dependency of the running task)."""
        cdef attachment *a = self._open()
        if not hold(a, loc, load64(&(<object_record *>at(a, loc)).word) >> 32):
            raise ObjectNotFoundError(f"the object at locator {loc} is gone from this node")
        return new_handle(cls, self.segment, loc)

    def read(self, Handle handle):
        """(kind, is_error, in-band value, buffers) of a sealed object; None when it is not sealed.

        The in-band part is bytes when small or when there are buffers, else an ObjectBuffer; buffers are ObjectBuffers,
        read-only, each keeping the object held.
        """
        cdef attachment *a = self._open()
        cdef uint32_t loc = handle.loc
        cdef object_record *o = <object_record *>at(a, loc)
        cdef uint64_t word = load64(&o.word)
        cdef uint32_t flags = (word >> 8) & 0xff, i
        cdef bint error = flags & OBJECT_FLAG_ERROR
        cdef char *block
        cdef compound *c
        cdef uint64_t *table
        if (word & 0xff) != OBJECT_SEALED:
            return None
        if flags & OBJECT_FLAG_INLINE:
            return o.kind, error, PyBytes_FromStringAndSize(<char *>o.value, o.size), ()
        block = <char *>at(a, o.data)
        if not flags & OBJECT_FLAG_COMPOUND:
            if o.size <= 4096:
                return o.kind, error, PyBytes_FromStringAndSize(block, o.size), ()
            return o.kind, error, self._buffer(loc, block, o.size, True), ()
        c = <compound *>block
        table = <uint64_t *>(block + sizeof(compound) + c.contained_count * sizeof(contained_ref))
        buffers = [self._buffer(loc, block + table[2 * i], table[2 * i + 1], True) for i in range(c.buffer_count)]
        return o.kind, error, PyBytes_FromStringAndSize(<char *>(table + 2 * c.buffer_count), c.inband_size), buffers

    def state(self, Handle handle):
        """0 free, 1 pending, 2 created, 3 sealed, 4 deleting, 5 lost."""
        return load64(&(<object_record *>at(&self.segment.a, handle.loc)).word) & 0xff

    def is_sealed(self, Handle handle):
        return (load64(&(<object_record *>at(&self.segment.a, handle.loc)).word) & 0xff) == OBJECT_SEALED

    def size(self, Handle handle):
        """Bytes of a sealed object's value."""
        return (<object_record *>at(&self.segment.a, handle.loc)).size

    def holder_slots(self, Handle handle):
        """Slots of the processes that hold the object at this moment."""
        cdef object_record *o = <object_record *>at(&self.segment.a, handle.loc)
        cdef uint32_t i
        cdef uint64_t bits
        slots = []
        for i in range(SLOT_WORDS):
            bits = load64(&o.holders) if i == 0 else load64(&o.holders_wide[i - 1])
            slots += [i * 64 + bit for bit in range(64) if bits >> bit & 1]
        return slots

    def held_elsewhere(self, Handle handle):
        """Whether another process, or a sealed object's value, refers to the object."""
        cdef attachment *a = self._open()
        cdef object_record *o = <object_record *>at(a, handle.loc)
        cdef uint32_t i
        cdef uint64_t bits
        if load32(&o.containers) != 0:
            return True
        for i in range(SLOT_WORDS):
            bits = load64(&o.holders) if i == 0 else load64(&o.holders_wide[i - 1])
            if i == a.my_slot >> 6:
                bits &= ~(<uint64_t>1 << (a.my_slot & 63))
            if bits != 0:
                return True
        return False

    # ---- waiting

    def wait(self, list handles, Py_ssize_t ready_count, int64_t timeout_ns, bint stop_at_error=False):
        """Blocks until `ready_count` of the handles' objects are sealed, or the timeout (< 0: none) has passed.

        With `stop_at_error`, also until one of them is sealed as an error. Releases the GIL while it waits. Signals are
        handled; what a handler raises comes out of here. Returns how many were seen sealed.
        """
        cdef attachment *a = self._open()
        cdef Py_ssize_t n = len(handles), i, ready
        cdef int64_t deadline = monotonic_ns() + timeout_ns if timeout_ns >= 0 else -1
        cdef uint32_t one_loc
        cdef uint64_t word
        cdef list pending = handles
        cdef list rest
        cdef uint32_t target
        cdef Handle handle
        ready = 0
        while True:
            # Objects mostly come in order, so look from the front and, in the end, wait for the last one needed.
            rest = []
            for handle in pending:
                word = load64(&(<object_record *>at(a, handle.loc)).word)
                if (word & 0xff) == OBJECT_SEALED:
                    ready += 1
                    if stop_at_error and (word >> 8) & OBJECT_FLAG_ERROR:
                        return ready
                else:
                    rest.append(handle)
            if ready >= ready_count or timeout_ns == 0:
                return ready
            if deadline >= 0 and monotonic_ns() >= deadline:
                return ready
            pending = rest
            if len(rest) == 1 or n == ready_count:
                target = (<Handle>rest[len(rest) - 1]).loc
            else:
                target = WAIT_ANY
            if not self._sleep(a, rest, target, deadline):
                PyErr_CheckSignals()
            self._open()  # closed meanwhile, because the daemon is gone: nothing will be sealed any more

    cdef bint _sleep(self, attachment *a, list rest, uint32_t target, int64_t deadline) except -1:
        """Spins, then sleeps, until `target` (or any of `rest`) may be sealed. False after a signal."""
        cdef slot *me = a.me
        cdef object_record *o = <object_record *>at(a, target) if target != WAIT_ANY else NULL
        cdef uint32_t seen
        cdef int64_t now, spin_end, timeout
        cdef int error = 0, spins
        cdef bint found = False
        cdef Handle handle
        if o != NULL:
            with nogil:
                now = monotonic_ns()
                spin_end = now + SPIN_NS
                while not found and now < spin_end and may_spin(a):
                    for spins in range(SPINS_PER_CLOCK):
                        cpu_pause()
                        if (o.word & 0xff) == OBJECT_SEALED:
                            found = True
                            break
                    now = monotonic_ns()
            if found:
                return True
        add32(&me.sleeping, 1)
        # Two threads that wait for different objects share one word: then any of their objects wakes both.
        store32(&me.wait_loc, target if load32(&me.sleeping) == 1 else WAIT_ANY)
        seen = load32(&me.futex)
        if o != NULL:
            found = (load64(&o.word) & 0xff) == OBJECT_SEALED
        else:
            for handle in rest:
                if (load64(&(<object_record *>at(a, handle.loc)).word) & 0xff) == OBJECT_SEALED:
                    found = True
                    break
        if not found:
            if load32(&me.running) != 0:
                store32(&me.blocked, 1)
                poke_scheduler(a)
            with nogil:
                timeout = -1
                if deadline >= 0:
                    timeout = deadline - monotonic_ns()
                    if timeout < 0:
                        timeout = 0
                clear_awake(a)
                error = futex_wait(&me.futex, seen, timeout)
                set_awake(a)
            if load32(&me.running) != 0:
                store32(&me.blocked, 0)
        if sub32(&me.sleeping, 1) == 1:
            store32(&me.wait_loc, WAIT_NOTHING)
        return error != 4

    def _full(self, size):
        used = self.segment.a.hdr.chunks_in_use * CHUNK_SIZE
        capacity = self.segment.a.hdr.chunk_count * CHUNK_SIZE
        if size > capacity:
            return ObjectStoreFullError(
                f"an object of {size} bytes cannot fit: the whole store has {capacity} bytes",
                hint="start the store with more memory (object_store_memory)")
        return ObjectStoreFullError(
            f"no room in the store for {size} bytes: {used} of {capacity} bytes are in use",
            hint="drop references to objects that are no longer needed, or start the store with more memory")


STATE_NAMES = ("free", "pending", "created", "sealed", "deleting", "lost")


cdef bint begin_write(attachment *a, uint32_t loc) noexcept nogil:
    """PENDING to CREATED by this process. False: somebody else has written it, or is writing."""
    cdef object_record *o = <object_record *>at(a, loc)
    cdef uint64_t word
    while True:
        word = load64(&o.word)
        if (word & 0xff) != OBJECT_PENDING:
            return False
        if cas64(&o.word, word, OBJECT_WORD(OBJECT_CREATED, (word >> 8) & 0xff, a.my_slot, word >> 32)):
            return True


cdef copy_in(attachment *a, char *target, const char *source, uint64_t size):
    if size < LARGE_COPY:
        memcpy(target, source, size)
    else:
        with nogil:
            memcpy(target, source, size)
