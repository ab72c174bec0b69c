"""The segment: its memfd, its mapping in this process, the client slots, and sleeping through them.

This module owns the mapping and nothing in it but the header and the slots: blocks are the heap's,
objects the table's, tasks and queues theirs. The store daemon formats the segment and hands out
slots; every other process maps what the daemon sent it (OSDI'18 section 4.2.3; layout.h says what
lies where).
"""
import os
import weakref
from pathlib import Path

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from rostral_objectstore._native.failpoints cimport failpoint_plan
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native import failpoints
from rostral_objectstore.errors import LayoutVersionError, OutOfMemoryError, SegmentError

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    enum: PROT_NONE, PROT_READ, PROT_WRITE
    enum: MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED
    void *MAP_FAILED

cdef extern from "<unistd.h>" nogil:
    int close_fd "close"(int fd)

cdef extern from "<errno.h>" nogil:
    int errno
    enum: EINTR, EINVAL

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, int64_t offset, int64_t length)

cdef extern from "parts.h" nogil:
    uint64_t place_parts(header *h, uint64_t chunk_count)
    bint same_parts(const header *h, const header *other)

cdef enum:
    MADV_HUGEPAGE = 14
    MADV_POPULATE_WRITE = 23
    HUGE_PAGE = 2 << 20
    INDEX_FIRST_BYTES = INDEX_FIRST_GROUPS * 64

_live = weakref.WeakSet()


def _detach_in_child():
    # A forked child shares the slot of its parent: whatever it released would be the parent's.
    for segment in list(_live):
        (<Segment>segment).a.closed = True


os.register_at_fork(after_in_child=_detach_in_child)


cdef class Segment:
    """One process's mapping of the node's segment.

    Made by `Segment.create` (the store daemon) or `Segment.attach` (everybody else). The mapping
    lives as long as this object, which every handle and buffer of it keeps alive.
    """

    def __init__(self):
        raise TypeError("Segment is made by Segment.create or Segment.attach")

    def __cinit__(self):
        memset(&self.a, 0, sizeof(attachment))
        self.a.fd = -1
        self.a.my_slot = NO_SLOT

    def __dealloc__(self):
        cdef int kind, class_
        if self.a.base != NULL:
            munmap(self.a.base, self.size)
        if self.a.held != NULL:
            munmap(self.a.held, self.held_size)
        free(self.a.populated)
        for kind in range(3):
            for class_ in range(32):
                free(self.a.arenas[kind][class_].chunks)
        if self.a.fd >= 0:
            close_fd(self.a.fd)  # not os.close: at the end of the interpreter there is no `os`

    @staticmethod
    def create(size_t size, bytes node_id, uint32_t cpu_count, *, bint huge_pages=True):
        """Makes a segment of `size` bytes, rounded up to 64 KiB. Raises OutOfMemoryError.

        With `huge_pages` it is made of huge pages where the system gives them to who asks.
        """
        import fcntl

        cdef uint64_t chunk_count = (size + CHUNK_SIZE - 1) // CHUNK_SIZE
        cdef header parts
        memset(&parts, 0, sizeof(header))
        cdef uint64_t total = place_parts(&parts, chunk_count)
        if parts.wide_offset >> 6 > 0xfffffffful:
            raise SegmentError(
                f"a store of {size} bytes is too large",
                hint="256 GiB is the most a segment can hold")

        fd = os.memfd_create("rostral-segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # A memfd is born with mode 0777: without this, others could open it through /proc.
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, total)
            # Neither we nor a reader can cut pages away under another process's feet.
            fcntl.fcntl(
                fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            if fallocate(fd, 0, 0, <int64_t>(parts.index_offset + INDEX_FIRST_BYTES)) != 0:
                raise OutOfMemoryError(f"no memory for the tables of a store of {size} bytes")
        except BaseException:
            os.close(fd)
            raise
        cdef Segment self = Segment._map(fd, total)
        cdef header *h = self.a.hdr
        h[0] = parts
        h.layout_version = LAYOUT_VERSION
        h.cpu_count = cpu_count
        h.last_free_chunk[0] = chunk_count - 1 - chunk_count // RECORDS_SHARE
        h.last_free_chunk[1] = chunk_count - 1
        h.huge_pages = huge_pages and gives_huge_pages()
        h.scheduler_slot = NO_SLOT
        if len(node_id) != 16:
            raise ValueError(f"a node id has 16 bytes, not {len(node_id)}")
        memcpy(h.node_id, <char *>node_id, 16)
        cdef bytes incarnation = os.urandom(16)
        memcpy(h.incarnation, <char *>incarnation, 16)
        store64(&h.magic, SEGMENT_MAGIC)
        self._locate()
        return self

    @staticmethod
    def attach(int fd, uint32_t slot_index):
        """Maps the segment behind `fd` as the process that has the slot.

        The descriptor is taken over: it is closed with the mapping, or by an error here.
        Raises SegmentError, LayoutVersionError, OutOfMemoryError.
        """
        cdef Segment self = Segment.adopt(fd)
        if slot_index >= MAX_SLOTS:
            raise SegmentError(f"there are {MAX_SLOTS} slots, no number {slot_index}")
        self.use_slot(slot_index)
        return self

    @staticmethod
    def adopt(int fd):
        """`attach` for a store daemon that takes over from a dead one; `use_slot` follows."""
        cdef size_t size = os.fstat(fd).st_size
        if size < 4096:
            os.close(fd)
            raise SegmentError(f"the segment has {size} bytes, which is less than its header")
        cdef Segment self = Segment._map(fd, size)
        cdef header *h = self.a.hdr
        if h.magic != SEGMENT_MAGIC or h.layout_version != LAYOUT_VERSION:
            raise LayoutVersionError(
                f"the store's segment has layout {h.layout_version}, "
                f"this process knows {LAYOUT_VERSION}",
                hint="install the same version of rostral-objectstore on both sides",
            )
        if h.segment_size != size:
            raise SegmentError(f"the segment says {h.segment_size} bytes but has {size}")
        # All pointers come of these fields, and whoever maps the segment can write to them.
        cdef header found = h[0], parts
        memset(&parts, 0, sizeof(header))
        if found.chunk_count > size // CHUNK_SIZE or (
            place_parts(&parts, found.chunk_count) != size or not same_parts(&found, &parts)
        ):
            raise SegmentError(
                f"the segment's header says what no store of {found.chunk_count} chunks would",
                hint="a process has written to it that should not: restart the store")
        self._locate()
        return self

    @staticmethod
    cdef Segment _map(int fd, size_t size):
        cdef Segment self = Segment.__new__(Segment)
        self.a.fd = fd
        self.size = size
        self.a.base = map_aligned(fd, size)
        if self.a.base == NULL:
            raise OutOfMemoryError(f"cannot map a segment of {size} bytes")
        self.a.hdr = <header *>self.a.base
        _live.add(self)
        return self

    cdef _locate(self):
        cdef header *h = self.a.hdr
        self.a.slots = <slot *>(self.a.base + h.slots_offset)
        self.a.index = <index_group *>(self.a.base + h.index_offset)
        # Its pages exist; a fault on each would make the first use of most ids slow.
        madvise(self.a.index, INDEX_FIRST_BYTES, MADV_POPULATE_WRITE)
        self.a.chunk_words = <uint64_t *>(self.a.base + h.chunk_words_offset)
        self.a.page_bits = <uint64_t *>(self.a.base + h.page_bits_offset)
        self.a.chunk_records = <chunk_record *>(self.a.base + h.chunk_records_offset)
        self.a.chunks = self.a.base + h.chunks_offset
        self.a.plan = <failpoint_plan *><size_t>failpoints.arm_from_environment()
        self.a.chunks_end = self.a.chunks + h.chunk_count * CHUNK_SIZE
        # Two counters for each possible object record; pages appear as they are touched.
        self.held_size = (h.wide_offset >> 6) * sizeof(uint32_t)
        cdef void *held = mmap(
            NULL, self.held_size, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if held == MAP_FAILED:
            raise OutOfMemoryError("cannot map the table of held objects")
        self.a.held = <uint32_t *>held
        self.a.populated = <uint8_t *>_zeroed(h.chunk_count)
        if h.huge_pages:
            madvise(self.a.chunks, h.chunk_count * CHUNK_SIZE, MADV_HUGEPAGE)

    def use_slot(self, uint32_t index):
        """From here on this process acts as the slot (of the daemon: its own)."""
        self.a.my_slot = index
        self.a.me = &self.a.slots[index]
        self.a.trim_seen = load32(&self.a.hdr.trim_wanted)
        self.a.counts_awake = self.a.me.kind not in (KIND_STORE, KIND_SCHEDULER)
        set_awake(&self.a)

    def close(self):
        """Nothing is changed in the segment from here on; the mapping stays while it is read."""
        if not self.a.closed and self.a.me != NULL:
            clear_awake(&self.a)
        self.a.closed = True
        if self.a.fd >= 0:
            close_fd(self.a.fd)
            self.a.fd = -1

    @property
    def closed(self):
        return self.a.closed

    @property
    def fd(self):
        return self.a.fd

    @property
    def slot(self):
        return self.a.my_slot

    @property
    def node_id(self):
        return PyBytes_FromStringAndSize(<char *>self.a.hdr.node_id, 16)

    @property
    def incarnation(self):
        """16 random bytes, which no other segment has."""
        return PyBytes_FromStringAndSize(<char *>self.a.hdr.incarnation, 16)

    @property
    def is_watched(self):
        """Whether some process reads the events."""
        return bool(load32(&self.a.hdr.watched))

    @property
    def capacity(self):
        """Bytes that objects can take, all bookkeeping of the heap included."""
        return self.a.hdr.chunk_count * CHUNK_SIZE

    @property
    def cpu_count(self):
        return self.a.hdr.cpu_count

    cdef slot *_slot(self, uint32_t index) except NULL:
        if index >= MAX_SLOTS:
            raise IndexError(f"there are {MAX_SLOTS} slots, no number {index}")
        return &self.a.slots[index]

    # ---- slots -----------------------------------------------------------------------------------

    def claim_slot(self, uint32_t pid, uint64_t start_time, uint32_t kind,
                   bytes worker_id not None, bytes job_id not None):
        """The store daemon: gives a process a free slot. Its index, or -1 when all are taken.

        Raises OutOfMemoryError when there is no memory for the holder bits of a slot above 63.
        """
        cdef uint32_t index
        cdef slot *s
        if len(worker_id) != 16 or len(job_id) != 16:
            raise ValueError("worker_id and job_id have 16 bytes each")
        for index in range(MAX_SLOTS):
            s = &self.a.slots[index]
            if s.state == SLOT_FREE:
                if index >= 64 and load32(&self.a.hdr.wide) == 0:
                    self._widen()
                s.pid, s.start_time, s.kind = pid, start_time, kind
                s.generation += 1
                memcpy(s.worker_id, <char *>worker_id, 16)
                memcpy(s.job_id, <char *>job_id, 16)
                s.sleeping = s.wait_loc = s.claiming = s.running = s.blocked = 0
                s.releasing = s.locking = s.count_object = 0
                s.queue = s.queue_ack = s.idle = 0
                s.finished_count = 0
                if index >= self.a.hdr.slot_count:
                    store32(&self.a.hdr.slot_count, index + 1)
                store32(&s.state, SLOT_LIVE)
                return index
        return -1

    cdef _widen(self):
        """Makes the wide records of every chunk of objects, and of those that come."""
        cdef uint64_t chunk, kind
        store32(&self.a.hdr.wide, 1)
        for chunk in range(self.a.hdr.chunk_count):
            kind = load64(&self.a.chunk_words[chunk]) & 0xff
            if kind in (CHUNK_OBJECTS, CHUNK_CLAIMED) and make_wide(&self.a, chunk) != 0:
                store32(&self.a.hdr.wide, 0)
                raise OutOfMemoryError("the machine has no memory for a 64th client of the store")

    def set_slot_state(self, uint32_t index, uint32_t state):
        """The daemons: moves a slot along FREE, LIVE, DEAD, REPAIRED."""
        store32(&self._slot(index).state, state)
        if state == SLOT_DEAD:
            and64(&self.a.hdr.awake[index >> 6], ~(<uint64_t>1 << (index & 63)))

    def slot_info(self, uint32_t index):
        """A dict of one slot's fields, read one by one without a lock."""
        cdef slot *s = self._slot(index)
        return {
            "slot": index, "state": s.state, "pid": s.pid, "start_time": s.start_time,
            "kind": s.kind, "generation": s.generation,
            "worker_id": PyBytes_FromStringAndSize(<char *>s.worker_id, 16),
            "job_id": PyBytes_FromStringAndSize(<char *>s.job_id, 16), "sleeping": s.sleeping,
            "claiming": s.claiming, "running": s.running, "blocked": s.blocked, "queue": s.queue,
            "queue_ack": s.queue_ack, "idle": s.idle, "finished_count": s.finished_count,
        }

    def slots_in_state(self, uint32_t state):
        """Indexes of the slots in the state."""
        cdef uint32_t index
        return [index for index in range(MAX_SLOTS) if load32(&self.a.slots[index].state) == state]

    def work_state(self, uint32_t index):
        """(queue, queue_ack, running, blocked, idle) of a worker: what the scheduler decides by."""
        cdef slot *s = self._slot(index)
        return (load32(&s.queue), load32(&s.queue_ack), load32(&s.running), load32(&s.blocked),
                load32(&s.idle))

    def assign_queue(self, uint32_t index, uint32_t queue_loc):
        """The scheduler: grants a worker a ready queue, or withdraws it (0), and wakes it."""
        store32(&self._slot(index).queue, queue_loc)
        wake_slot(&self.a, index)

    def set_scheduler(self, uint32_t index):
        """The scheduler's slot: whom others poke, and who repairs after a death."""
        store32(&self.a.hdr.scheduler_slot, index)

    @property
    def scheduler_slot(self):
        return load32(&self.a.hdr.scheduler_slot)

    def set_tick(self, uint32_t tick):
        """The store daemon: advances the clock by which objects were last used."""
        store32(&self.a.hdr.tick, tick)

    @property
    def tick(self):
        """The clock by which objects were last used."""
        return load32(&self.a.hdr.tick)

    @property
    def spilled_deleted(self):
        """How many objects with a copy on disk were deleted so far, modulo 2**32."""
        return load32(&self.a.hdr.spilled_deleted)

    def set_starved(self, bint starved):
        """The scheduler says whether some queue has tasks that no resources are free for."""
        store32(&self.a.hdr.starved, starved)

    # ---- sleeping and waking ---------------------------------------------------------------------

    def poke(self, uint32_t index):
        """Wakes the process of the slot if it sleeps. Never blocks."""
        self._slot(index)
        wake_slot(&self.a, index)

    def poke_scheduler(self):
        poke_scheduler(&self.a)

    def futex_value(self):
        """Read before looking at what would be waited for; see wait_poke."""
        return load32(&self.a.me.futex)

    def wait_poke(self, uint32_t seen, int64_t timeout_ns):
        """Sleeps without the GIL until a poke later than the reading of `seen`. True if poked."""
        cdef slot *me = self.a.me
        cdef int error
        with nogil:
            add32(&me.sleeping, 1)
            error = 0
            if load32(&me.futex) == seen:
                error = futex_wait(&me.futex, seen, timeout_ns)
            sub32(&me.sleeping, 1)
        if error == EINTR:
            PyErr_CheckSignals()
        return load32(&me.futex) != seen


cdef void *_zeroed(size_t size) except NULL:
    cdef void *p = calloc(size + 1, 1)
    if p == NULL:
        raise MemoryError
    return p


cdef inline uint64_t round_up(uint64_t value, uint64_t unit) noexcept nogil:
    return (value + unit - 1) // unit * unit


def gives_huge_pages():
    """Whether the system makes huge pages for shared memory that asks for them."""
    folder = Path("/sys/kernel/mm/transparent_hugepage")
    try:
        settings = [(folder / "shmem_enabled").read_text()]
        # Since Linux 6.13 each size has its own, which may refer to the other.
        of_size = folder / f"hugepages-{HUGE_PAGE >> 10}kB" / "shmem_enabled"
        if of_size.exists() and "[inherit]" not in (setting := of_size.read_text()):
            settings = [setting]
    except OSError:
        return False
    return any(word in settings[0] for word in ("[advise]", "[always]", "[within_size]", "[force]"))


cdef char *map_aligned(int fd, size_t size) noexcept nogil:
    """Maps the file at a multiple of the size of a huge page, without which it can have none."""
    cdef char *reserved = <char *>mmap(
        NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    cdef char *base
    cdef uint64_t head
    if <void *>reserved == MAP_FAILED:
        return NULL
    base = <char *>round_up(<uint64_t>reserved, HUGE_PAGE)
    if mmap(base, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED:
        munmap(reserved, size + HUGE_PAGE)
        return NULL
    head = base - reserved
    if head != 0:
        munmap(reserved, head)
    size = round_up(size, 4096)
    munmap(base + size, HUGE_PAGE - head)
    return base


cdef int make_pages(attachment *a, char *start, uint64_t size) noexcept nogil:
    """Makes pages of the segment exist and maps them here. 0, or not 0: no memory left."""
    if madvise(start, size, MADV_POPULATE_WRITE) == 0:
        return 0
    if errno != EINVAL:
        return -1
    # Linux before 5.14 does not know the advice: take the pages, and let faults map them.
    return fallocate(a.fd, 0, start - a.base, size)


cdef int make_wide(attachment *a, uint64_t chunk) noexcept nogil:
    return make_pages(a, a.base + a.hdr.wide_offset + chunk * WIDE_CHUNK, WIDE_CHUNK)


cdef bint is_object(attachment *a, uint32_t loc) noexcept nogil:
    """Whether an object's record can lie at a locator that came from outside."""
    cdef uint64_t offset = <uint64_t>loc << 6
    if offset < a.hdr.chunks_offset or offset >= a.hdr.wide_offset or offset % OBJECT_SIZE:
        return False
    return (load64(&a.chunk_words[(offset - a.hdr.chunks_offset) // CHUNK_SIZE]) & 0xff
            ) == CHUNK_OBJECTS


cdef bint slot_is_live(attachment *a, uint32_t index) noexcept nogil:
    return index < MAX_SLOTS and load32(&a.slots[index].state) == SLOT_LIVE


cdef void wake_slot(attachment *a, uint32_t index) noexcept nogil:
    """Bumps the slot's futex word, and enters the kernel only if its process sleeps."""
    cdef slot *s = &a.slots[index]
    add32(&s.futex, 1)
    if load32(&s.sleeping) != 0:
        futex_wake(&s.futex, 0x7fffffff)


cdef bint may_spin(attachment *a) noexcept nogil:
    """Whether this process, whose awake bit is set, has a core to spin on."""
    cdef uint32_t i, count = 0
    for i in range(SLOT_WORDS):
        if a.hdr.awake[i] != 0:
            count += bit_count(a.hdr.awake[i])
    return count <= a.hdr.cpu_count


cdef void set_awake(attachment *a) noexcept nogil:
    if not a.counts_awake or a.closed:
        return
    or64(&a.hdr.awake[a.my_slot >> 6], <uint64_t>1 << (a.my_slot & 63))


cdef void clear_awake(attachment *a) noexcept nogil:
    and64(&a.hdr.awake[a.my_slot >> 6], ~(<uint64_t>1 << (a.my_slot & 63)))


cdef void poke_scheduler(attachment *a) noexcept nogil:
    cdef uint32_t index = load32(&a.hdr.scheduler_slot)
    if index != NO_SLOT:
        wake_slot(a, index)
