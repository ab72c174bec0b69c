"""Events: a ring in the segment that tells whoever reads it which objects are sealed and deleted.

Sealers and deleters write to it, and only while somebody reads: else they look at one word of the
header. Nobody waits for a reader: one who is slow is told how many events he missed.

A writer takes a place, then the cell of that place, then writes. One that dies, or sleeps, in
between leaves a hole: readers give it a moment and step over it, and the daemon frees the cell.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport event as event_cell, object as object_record
from rostral_objectstore._native.segment cimport Segment, attachment, wake_slot

cdef enum:
    # How long a reader waits for a writer that has a place and has not written: many times what a
    # write takes, and little for who waits behind it.
    HOLE_NS = 20_000_000

EVENT_MISSED = 0


cdef inline event_cell *cell_of(attachment *a, uint64_t place) noexcept nogil:
    return <event_cell *>(a.base + a.hdr.events_offset) + place % EVENT_COUNT


cdef void publish(attachment *a, uint32_t kind, object_record *o) noexcept nogil:
    """Tells of the object, which is in the caller's hands, and wakes the readers."""
    cdef uint64_t place = add64(&a.hdr.event_tail, 1)
    cdef event_cell *cell = cell_of(a, place)
    cdef uint64_t word = load64(&cell.word), bits
    cdef uint32_t i
    if word & 1 or word >= EVENT_DONE(place):
        return
    if not cas64(&cell.word, word, EVENT_BUSY(place, a.my_slot)):
        return
    cell.kind, cell.size = kind, o.size
    memcpy(cell.id, o.id, 20)
    release64(&cell.word, EVENT_DONE(place))
    for i in range(SLOT_WORDS):
        bits = load64(&a.hdr.subscribers[i])
        while bits != 0:
            wake_slot(a, i * 64 + lowest_bit(bits))
            bits &= bits - 1


cdef void stop_watching(attachment *a, uint32_t slot) noexcept nogil:
    cdef uint32_t i
    and64(&a.hdr.subscribers[slot >> 6], ~(<uint64_t>1 << (slot & 63)))
    # Who begins to read sets his bit and then the word: either we see the bit, or his is later.
    store32(&a.hdr.watched, 0)
    for i in range(SLOT_WORDS):
        if load64(&a.hdr.subscribers[i]) != 0:
            store32(&a.hdr.watched, 1)
            return


def forget(Segment segment not None, uint32_t dead):
    """The daemon: a dead process reads no more, and the cells that it was writing are free."""
    cdef attachment *a = &segment.a
    cdef uint64_t place, word
    cdef event_cell *cell
    stop_watching(a, dead)
    for place in range(EVENT_COUNT):
        cell = cell_of(a, place)
        word = load64(&cell.word)
        if word & 1 and (word >> 1 & 0x3ff) == dead:
            cas64(&cell.word, word, 0)


cdef class EventReader:
    """Reads the events from now on. One thread at a time."""

    cdef Segment segment
    cdef uint64_t place
    cdef int64_t hole_since
    cdef bint is_open

    def __init__(self, Segment segment not None):
        cdef attachment *a = &segment.a
        self.segment, self.hole_since = segment, -1
        self.place = load64(&a.hdr.event_tail)
        self.is_open = True
        a.subscriptions += 1
        or64(&a.hdr.subscribers[a.my_slot >> 6], <uint64_t>1 << (a.my_slot & 63))
        store32(&a.hdr.watched, 1)

    def close(self):
        """Ends the reading. Idempotent."""
        cdef attachment *a = &self.segment.a
        if not self.is_open:
            return
        self.is_open = False
        a.subscriptions -= 1
        if a.subscriptions == 0 and not a.closed:
            stop_watching(a, a.my_slot)

    def __dealloc__(self):
        if self.segment is not None and self.is_open:
            self.close()

    @property
    def waits_for_writer(self):
        """Whether the next event has a place and is not written."""
        return self.hole_since >= 0

    def take(self):
        """All events that are there: (kind, id, size), or (0, b"", how many were missed)."""
        cdef attachment *a = &self.segment.a
        cdef uint64_t tail = load64(&a.hdr.event_tail), missed = 0
        cdef event_cell cell
        found = []
        while self.place < tail:
            if tail - self.place > EVENT_COUNT:
                missed += tail - EVENT_COUNT - self.place
                self.place = tail - EVENT_COUNT
            if read_cell(cell_of(a, self.place), self.place, &cell):
                if missed:
                    found.append((EVENT_MISSED, b"", missed))
                    missed = 0
                found.append((cell.kind, PyBytes_FromStringAndSize(<char *>cell.id, 20), cell.size))
            elif self._is_young():
                break
            else:
                missed += 1
            self.place, self.hole_since = self.place + 1, -1
        if missed:
            found.append((EVENT_MISSED, b"", missed))
        return found

    cdef bint _is_young(self) noexcept:
        """Whether the hole at our place may yet be written."""
        cdef uint64_t word = load64(&cell_of(&self.segment.a, self.place).word)
        if word > EVENT_DONE(self.place) | 0x7ff:
            return False  # overwritten
        if self.hole_since < 0:
            self.hole_since = monotonic_ns()
        return monotonic_ns() - self.hole_since < HOLE_NS


cdef bint read_cell(event_cell *cell, uint64_t place, event_cell *copy) noexcept nogil:
    if load64(&cell.word) != EVENT_DONE(place):
        return False
    memcpy(copy, cell, sizeof(event_cell))
    read_fence()
    return load64(&cell.word) == EVENT_DONE(place)
