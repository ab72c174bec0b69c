# The process's own view of the segment: what every other module of this folder works on.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from rostral_objectstore._native.failpoints cimport failpoint_plan
from rostral_objectstore._native.layout cimport (
    OBJECT_SIZE, chunk_record, header, index_group, slot, wide_record)

# What the blocks of an arena are for.
cdef enum:
    ARENA_DATA = 0
    ARENA_OBJECTS = 1
    ARENA_TASKS = 2

# Blocks of one size that this process allocates from. Only this process sets bits in these chunks.
cdef struct arena:
    uint32_t *chunks
    uint32_t count
    uint32_t capacity
    uint32_t current  # index into chunks
    uint32_t word     # bitmap words below have no free bit, as far as we know
    uint32_t block_size
    uint32_t emptied  # bitmap words emptied since the last look for empty chunks

# Where a block of whole chunks of this process lay.
cdef struct former_run:
    uint32_t first
    uint32_t count

cdef struct attachment:
    failpoint_plan *plan  # NULL: no failpoint is armed
    char *base
    header *hdr
    slot *slots
    slot *me
    index_group *index
    uint64_t *chunk_words
    uint64_t *page_bits
    chunk_record *chunk_records
    char *chunks
    char *chunks_end
    uint32_t my_slot
    int fd
    bint machine_full  # the machine had no page left for the last claim of chunks
    uint32_t trim_seen # header's trim_wanted as this process has last obeyed it
    uint32_t subscriptions # readers of events in this process
    bint counts_awake  # daemons do not: they never spin
    bint closed        # after close() or in a forked child: nothing may be changed any more
    # by locator of an object's record: how many of our handles and buffers hold it; by the next
    # locator, which is no record's: how many of our buffers pin it
    uint32_t *held
    uint8_t *populated # by chunk: whether this process has its pages mapped; see pages.pyx
    uint64_t buffer_count # buffers of this process that live
    arena arenas[3][32]
    former_run former_runs[8]  # see heap.pyx
    uint32_t newest_run  # index into former_runs

cdef class Segment:
    cdef attachment a
    cdef size_t size, held_size
    cdef _widen(self)
    cdef object __weakref__
    @staticmethod
    cdef Segment _map(int fd, size_t size)
    cdef _locate(self)
    cdef slot *_slot(self, uint32_t index) except NULL

cdef inline void *at(attachment *a, uint32_t loc) noexcept nogil:
    return a.base + (<uint64_t>loc << 6)

cdef inline uint32_t locator(attachment *a, void *p) noexcept nogil:
    return <uint32_t>((<char *>p - a.base) >> 6)

cdef inline wide_record *wide_of(attachment *a, void *o) noexcept nogil:
    return <wide_record *>(a.base + a.hdr.wide_offset) + (<char *>o - a.chunks) // OBJECT_SIZE

cdef int make_pages(attachment *a, char *start, uint64_t size) noexcept nogil
cdef int make_wide(attachment *a, uint64_t chunk) noexcept nogil
cdef bint is_object(attachment *a, uint32_t loc) noexcept nogil
cdef bint slot_is_live(attachment *a, uint32_t index) noexcept nogil
cdef void wake_slot(attachment *a, uint32_t index) noexcept nogil
cdef bint may_spin(attachment *a) noexcept nogil
cdef void set_awake(attachment *a) noexcept nogil
cdef void clear_awake(attachment *a) noexcept nogil
cdef void poke_scheduler(attachment *a) noexcept nogil
