"""The heap: blocks of the segment, from 64 bytes to all of it.

The segment is cut into chunks of 64 KiB. A chunk is claimed by one compare-and-swap of its word,
which says who claimed it and for what; a small block is a bit in its chunk's bitmap, a large one a
run of chunks. So an allocation never needs a lock, and what a dead process had claimed can be told
from the words and bits alone. In the manner of mimalloc, a process allocates from chunks of its own
and anybody may free a block of them; here the free is the clearing of a bit, not a push on a list,
because a list would break if the pusher died half way.

Several tricky aspects:
 1. A chunk's pages exist before its word says that it is in use: see pages.pyx.
 2. A large block takes chunks where this process had one of the same length, because it has them
    mapped: several processes that put in turn would else pass theirs round. Failing that the
    lowest free ones, the likeliest to have pages. Slabs take the highest: one small block keeps a
    chunk, and at that end it is in nobody's way who needs many chunks in a row. Records stay for
    ever: the very top is theirs. A queue lies below the slabs, where there are no pages yet: all
    of it but its first chunk must read 0, and mostly is never used.
 3. Freeing a run first turns its head back into CLAIMED by the one who frees, so that nobody can
    see a run whose body already belongs to others.
 4. Only its owner allocates from a slab, so only the owner can know that it stays empty and give
    it back. Who finds the store full asks all (`trim_wanted`).
 5. Who frees another's block of data marks it `freed`, and its owner takes that in later: not while
    any slot says that it is releasing the block. So a process that dies anywhere in a release has
    left a block that nothing else has become of, and the daemon can end the release
    (`end_release`) without knowing how far it had come.
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from rostral_objectstore._native.chunks cimport (
    claim_chunks, claim_highest, claim_run, unclaim)
from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.pages cimport map_chunks
from rostral_objectstore._native.segment cimport (
    ARENA_DATA, ARENA_OBJECTS, Segment, arena, at, attachment, locator, make_wide)

cdef enum:
    # How many of its own chunks an allocation looks through before it claims a new one: bounds the
    # time of a put while most of an arena is full.
    CHUNKS_TRIED = 8
    # How many bitmap words of other than its current chunk a process empties before it looks for
    # chunks to give back, and no less than a quarter as many as it has chunks: a constant share of
    # the cost of the frees.
    EMPTIED_MIN = 16
    # For how many chunks one look at all slots serves when blocks that others freed are taken in.
    COLLECTED_AT_ONCE = 8


cdef uint32_t[32] _SIZES
_SIZES[:] = [
    64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072,
    3584, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384, 20480, 24576, 28672, 32768,
]


cdef uint32_t class_of(uint64_t size) noexcept nogil:
    """The smallest class whose blocks hold `size` bytes (at most LARGEST_BLOCK)."""
    cdef uint32_t low = 0, high = CLASS_COUNT - 1, middle
    while low < high:
        middle = (low + high) >> 1
        if _SIZES[middle] >= size:
            high = middle
        else:
            low = middle + 1
    return low


cdef uint32_t class_size(uint32_t class_) noexcept nogil:
    return _SIZES[class_]


cdef uint64_t initial_word(uint32_t block_size, uint32_t word) noexcept nogil:
    """The bitmap word of an empty slab: blocks that do not fit the chunk count as used for ever."""
    cdef uint32_t blocks = CHUNK_SIZE // block_size
    cdef uint32_t first = word * 64
    if blocks >= first + 64:
        return 0
    if blocks <= first:
        return ~(<uint64_t>0)
    return ~((<uint64_t>1 << (blocks - first)) - 1)


cdef uint32_t allocate_run(
        attachment *a, uint64_t size, uint32_t kind, uint32_t class_) noexcept nogil:
    """A block of whole chunks. Returns its locator, or 0 when there is no room.

    A queue is made of its first chunk: the others' pages are for `push` to take.
    """
    cdef uint64_t count = (size + CHUNK_SIZE - 1) // CHUNK_SIZE
    cdef int64_t first
    if size > a.hdr.chunk_count * CHUNK_SIZE:
        return 0
    first = claim_chunks(a, count, 1 if kind == CHUNK_QUEUE else count)
    return make_run(a, first, count, kind, class_) if first >= 0 else 0


cdef uint32_t allocate_at(attachment *a, uint64_t size, uint64_t first) noexcept nogil:
    """A block for data of more than a slab's, at a given chunk; 0 when that room is taken."""
    cdef uint64_t count = (size + CHUNK_SIZE - 1) // CHUNK_SIZE
    if first >= a.hdr.chunk_count or count > a.hdr.chunk_count - first:
        return 0
    return make_run(a, first, count, CHUNK_RUN, 0) if claim_run(a, first, count, count) else 0


cdef uint32_t make_run(
        attachment *a, uint64_t first, uint64_t count, uint32_t kind, uint32_t class_
        ) noexcept nogil:
    """Makes chunks that this process has claimed one block."""
    cdef uint64_t i
    if kind == CHUNK_RUN and class_ == RUN_TASK:
        # Whoever walks over the records may look at it from here on: it names nothing yet.
        memset(a.chunks + first * CHUNK_SIZE, 0, sizeof(task))
        store64(<uint64_t *>(a.chunks + first * CHUNK_SIZE), TASK_WORD(TASK_FREE, 0, a.my_slot, 0))
    for i in range(count - 1, 0, -1):
        store64(&a.chunk_words[first + i], CHUNK_WORD(CHUNK_BODY, 0, a.my_slot, i))
        FAILPOINT(a.plan, RUN_STEP_BODIES)
    store64(&a.chunk_words[first], CHUNK_WORD(kind, class_, a.my_slot, count))
    FAILPOINT(a.plan, RUN_STEP_MADE)
    return locator(a, a.chunks + first * CHUNK_SIZE)


cdef void free_run(attachment *a, uint32_t chunk) noexcept nogil:
    cdef uint64_t word = load64(&a.chunk_words[chunk])
    cdef uint64_t count = word >> 32
    cdef uint64_t i
    # The length stays in the word: should we die here, the sweep knows which bodies are left.
    if not cas64(&a.chunk_words[chunk], word, CHUNK_WORD(CHUNK_CLAIMED, 0, a.my_slot, count)):
        return
    FAILPOINT(a.plan, RUN_STEP_TAKEN_BACK)
    # Before the chunks can be another's: from here on the head says whose release this is.
    release32(&a.me.releasing, 0)
    FAILPOINT(a.plan, RUN_STEP_UNSAID)
    for i in range(count - 1, 0, -1):
        unclaim(a, chunk + i)
        FAILPOINT(a.plan, RUN_STEP_BODY_FREED)
    unclaim(a, chunk)
    FAILPOINT(a.plan, RUN_STEP_FREED)


cdef int64_t adopt_orphan(attachment *a, int kind, uint32_t class_) noexcept nogil:
    """A chunk of records that a dead process left behind, or -1.

    Its memory can only serve records of the same kind and size.
    """
    cdef uint64_t orphan = CHUNK_WORD(CHUNK_SLAB + kind, class_, ORPHAN_SLOT, 1)
    cdef uint64_t mine = CHUNK_WORD(CHUNK_SLAB + kind, class_, a.my_slot, 1)
    cdef uint64_t i, left
    if kind == ARENA_DATA or load64(&a.hdr.orphan_chunks) == 0:
        return -1
    for i in range(a.hdr.chunk_count):
        if a.chunk_words[i] == orphan and cas64(&a.chunk_words[i], orphan, mine):
            left = load64(&a.hdr.orphan_chunks)
            if left != 0:
                cas64(&a.hdr.orphan_chunks, left, left - 1)
            FAILPOINT(a.plan, CHUNK_STEP_ADOPTED)
            return i
    return -1


cdef bint add_chunk(attachment *a, arena *r, int kind, uint32_t class_) noexcept nogil:
    """Gives the arena one more chunk and makes it the current one. False when there is no room."""
    cdef int64_t chunk
    cdef uint32_t *grown
    cdef uint32_t word, capacity
    if load32(&a.hdr.trim_wanted) != a.trim_seen:
        trim(a)
    if r.count == r.capacity:
        capacity = r.capacity * 2 if r.capacity else 8
        grown = <uint32_t *>realloc(r.chunks, capacity * sizeof(uint32_t))
        if grown == NULL:
            return False
        r.chunks, r.capacity = grown, capacity
    chunk = adopt_orphan(a, kind, class_)
    if chunk >= 0:
        map_chunks(a, chunk, 1)
    else:
        chunk = claim_highest(a, kind)
        if chunk < 0:
            return False
        if kind == ARENA_OBJECTS and load32(&a.hdr.wide) != 0 and make_wide(a, chunk) != 0:
            a.machine_full = True
            unclaim(a, chunk)
            return False
        if kind != ARENA_DATA:
            # A record's words mean something before its first use: version 0, no holders, no
            # dependents.
            memset(a.chunks + chunk * CHUNK_SIZE, 0, CHUNK_SIZE)
        FAILPOINT(a.plan, CHUNK_STEP_CLAIMED)
        for word in range(16):
            a.chunk_records[chunk].used[word] = initial_word(r.block_size, word)
            a.chunk_records[chunk].freed[word] = 0
        FAILPOINT(a.plan, CHUNK_STEP_FORMATTED)
        store64(&a.chunk_words[chunk], CHUNK_WORD(CHUNK_SLAB + kind, class_, a.my_slot, 1))
        FAILPOINT(a.plan, CHUNK_STEP_SLAB)
    r.chunks[r.count] = <uint32_t>chunk
    r.current = r.count
    r.count += 1
    r.word = 0
    return True


cdef void give_back_empty(attachment *a, arena *r, bint keep_current) noexcept nogil:
    """Frees the empty chunks of an arena of data blocks."""
    cdef uint32_t i = 0, word
    cdef bint empty
    r.emptied = 0
    collect(a, r, r.count)
    while i < r.count:
        empty = i != r.current or not keep_current
        word = 0
        while empty and word < 16:
            empty = a.chunk_records[r.chunks[i]].used[word] == initial_word(r.block_size, word)
            word += 1
        if empty:
            unclaim(a, r.chunks[i])
            FAILPOINT(a.plan, CHUNK_STEP_GIVEN_BACK)
            r.count -= 1
            r.chunks[i] = r.chunks[r.count]
            if r.current == i:
                r.current = r.word = 0
            elif r.current == r.count:
                r.current = i
        else:
            i += 1


cdef void trim(attachment *a) noexcept nogil:
    """Gives every empty slab of this process back: somebody found the store full."""
    cdef uint32_t class_
    a.trim_seen = load32(&a.hdr.trim_wanted)
    for class_ in range(CLASS_COUNT):
        give_back_empty(a, &a.arenas[ARENA_DATA][class_], False)


cdef uint32_t allocate_slab(attachment *a, int kind, uint32_t class_) noexcept nogil:
    """A block of one of this process's own slabs. Returns its locator, or 0."""
    cdef arena *r = &a.arenas[kind][class_]
    cdef uint32_t loc
    if r.block_size == 0:
        r.block_size = _SIZES[class_]
    loc = take_block(a, r, kind)
    if loc == 0:
        loc = search(a, r, kind, CHUNKS_TRIED)
    if loc == 0 and add_chunk(a, r, kind, class_):
        loc = take_block(a, r, kind)
    if loc == 0:
        # No chunk to be had: only then look through all of our own.
        loc = search(a, r, kind, r.count)
    return loc


cdef uint32_t search(attachment *a, arena *r, int kind, uint32_t limit) noexcept nogil:
    """A block of the current chunk or of those after it, `limit` in all; or 0."""
    cdef uint32_t count = min(limit, r.count), i, loc
    if kind == ARENA_DATA:
        collect(a, r, count)
    for i in range(count):
        r.word = 0
        loc = take_block(a, r, kind)
        if loc != 0:
            return loc
        r.current = (r.current + 1) % r.count
    r.word = 0
    return 0


cdef inline uint32_t take_block(attachment *a, arena *r, int kind) noexcept nogil:
    """A block of the current chunk, or 0."""
    cdef uint32_t words = (CHUNK_SIZE // r.block_size + 63) // 64, word, chunk
    cdef uint64_t *used
    cdef uint64_t unused
    cdef int bit
    cdef char *block
    if r.count == 0:
        return 0
    chunk = r.chunks[r.current]
    used = a.chunk_records[chunk].used
    for word in range(r.word, words):
        unused = ~load64(&used[word])
        if unused == 0:
            continue
        bit = lowest_bit(unused)
        block = a.chunks + <uint64_t>chunk * CHUNK_SIZE
        block += (word * 64 + bit) * <uint64_t>r.block_size
        r.word = word
        if kind == ARENA_DATA:
            release64(&used[word], used[word] | <uint64_t>1 << bit)
            FAILPOINT(a.plan, BLOCK_STEP_USED)
        else:
            # Before the bit: a record in use and FREE tells whose hands it is in.
            sign_record(a, <uint64_t *>block)
            FAILPOINT(a.plan, RECORD_STEP_SIGNED)
            or64(&used[word], <uint64_t>1 << bit)
            FAILPOINT(a.plan, RECORD_STEP_USED)
        return locator(a, block)
    r.word = words
    return 0


cdef void collect(attachment *a, arena *r, uint32_t count) noexcept nogil:
    """Takes in what others have freed in the current data chunk and those after it, `count` in all.
    """
    cdef uint32_t[COLLECTED_AT_ONCE] batch
    cdef uint32_t i, size = 0
    for i in range(count):
        batch[size] = r.chunks[(r.current + i) % r.count]
        size += 1
        if size == COLLECTED_AT_ONCE or i + 1 == count:
            collect_chunks(a, batch, size)
            size = 0


cdef void collect_chunks(attachment *a, const uint32_t *chunks, uint32_t count) noexcept nogil:
    """The same for up to COLLECTED_AT_ONCE slabs of data that are this process's, or nobody's.

    The bits are read before the slots: who has freed a block and no longer says so is done with it.
    """
    cdef uint64_t[COLLECTED_AT_ONCE][16] freed
    cdef uint64_t any_freed = 0
    cdef uint64_t *used
    cdef uint32_t i, word, slot_index, loc
    cdef uint32_t slot_count
    for i in range(count):
        for word in range(16):
            freed[i][word] = load64(&a.chunk_records[chunks[i]].freed[word])
            any_freed |= freed[i][word]
    if any_freed == 0:
        return
    slot_count = load32(&a.hdr.slot_count)
    for slot_index in range(slot_count):
        loc = load32(&a.slots[slot_index].releasing)
        for i in range(count if loc != 0 else 0):
            if chunk_of(a, loc) == chunks[i]:
                word = block_of(a, loc)
                freed[i][word >> 6] &= ~(<uint64_t>1 << (word & 63))
    for i in range(count):
        used = a.chunk_records[chunks[i]].used
        for word in range(16):
            if freed[i][word] != 0:
                and64(&a.chunk_records[chunks[i]].freed[word], ~freed[i][word])
                FAILPOINT(a.plan, COLLECT_STEP_TAKEN)
                release64(&used[word], used[word] & ~freed[i][word])
                FAILPOINT(a.plan, COLLECT_STEP_DONE)


cdef inline uint64_t chunk_of(attachment *a, uint32_t loc) noexcept nogil:
    return ((<uint64_t>loc << 6) - a.hdr.chunks_offset) // CHUNK_SIZE


cdef inline uint32_t block_of(attachment *a, uint32_t loc) noexcept nogil:
    """The number of a block in its slab."""
    cdef uint32_t class_ = (load64(&a.chunk_words[chunk_of(a, loc)]) >> 8) & (CLASS_COUNT - 1)
    return ((<uint64_t>loc << 6) - a.hdr.chunks_offset) % CHUNK_SIZE // _SIZES[class_]


cdef inline void sign_record(attachment *a, uint64_t *word) noexcept nogil:
    """The state word of a record that is FREE: the version stays, the slot becomes ours."""
    release64(word, OBJECT_WORD(OBJECT_FREE, 0, a.my_slot, word[0] >> 32))


cdef uint32_t allocate(attachment *a, uint64_t size) noexcept nogil:
    """A block for object data. Returns its locator, or 0 when the store has no room for it."""
    cdef uint32_t loc = allocate_once(a, size)
    if loc == 0:
        trim(a)
        loc = allocate_once(a, size)
    return loc


cdef uint32_t allocate_once(attachment *a, uint64_t size) noexcept nogil:
    if size <= LARGEST_BLOCK:
        return allocate_slab(a, ARENA_DATA, class_of(size))
    return allocate_run(a, size, CHUNK_RUN, 0)


cdef uint32_t allocate_record(attachment *a, int arena_kind, uint32_t size) noexcept nogil:
    """A type-stable record: its memory is as the last record of that size left it.

    But for the state word: FREE, signed by this process, the version kept.
    """
    return allocate_slab(a, arena_kind, class_of(size))


cdef void release_block(attachment *a, uint32_t loc) noexcept nogil:
    """Frees a block of anybody's. The caller has made sure that nothing names the block any more.

    The bit is the last thing of the chunk that is touched: its owner may give it back then.
    """
    cdef uint64_t offset = (<uint64_t>loc << 6) - a.hdr.chunks_offset
    cdef uint32_t chunk = offset // CHUNK_SIZE
    cdef uint64_t word = load64(&a.chunk_words[chunk]), bit, left
    cdef uint32_t kind = word & 0xff, class_ = (word >> 8) & 0xff, block
    cdef chunk_record *record = &a.chunk_records[chunk]
    if kind == CHUNK_RUN or kind == CHUNK_QUEUE:
        free_run(a, chunk)
        return
    if kind < CHUNK_SLAB or kind > CHUNK_TASKS or class_ >= CLASS_COUNT:
        return
    block = (offset % CHUNK_SIZE) // _SIZES[class_]
    bit = <uint64_t>1 << (block & 63)
    if kind != CHUNK_SLAB:
        and64(&record.used[block >> 6], ~bit)
        FAILPOINT(a.plan, RECORD_STEP_FREED)
    elif ((word >> 16) & 0xffff) != a.my_slot:
        or64(&record.freed[block >> 6], bit)
        FAILPOINT(a.plan, RELEASE_STEP_MARKED_FREED)
        return
    else:
        left = record.used[block >> 6] & ~bit
        release64(&record.used[block >> 6], left)
        FAILPOINT(a.plan, RELEASE_STEP_OWN_FREED)
        release32(&a.me.releasing, 0)  # before the chunk can be another's
        note_emptied(a, &a.arenas[ARENA_DATA][class_], chunk, block >> 6, left)
    if ((word >> 16) & 0xffff) == a.my_slot:
        find_first(&a.arenas[kind - CHUNK_SLAB][class_], chunk, block >> 6)


cdef inline void find_first(arena *r, uint32_t chunk, uint32_t word) noexcept nogil:
    """The block just freed is the one most likely in this core's cache: it is the next one."""
    if r.count != 0 and r.chunks[r.current] == chunk and word < r.word:
        r.word = word


cdef inline void note_emptied(
        attachment *a, arena *r, uint32_t chunk, uint32_t word, uint64_t left) noexcept nogil:
    """Looks for chunks to give back once enough words of others than the current have emptied."""
    if left != initial_word(r.block_size, word) or r.count == 0 or r.chunks[r.current] == chunk:
        return
    r.emptied += 1
    if r.emptied >= EMPTIED_MIN and r.emptied * 4 >= r.count:
        give_back_empty(a, r, True)


cdef void release_named(attachment *a, uint32_t *name) noexcept nogil:
    """Wipes out the only name of a data block and frees the block; layout.h, `releasing`."""
    cdef uint32_t loc = name[0]
    release32(&a.me.releasing, loc)
    FAILPOINT(a.plan, RELEASE_STEP_SAID)
    store32(name, 0)
    FAILPOINT(a.plan, RELEASE_STEP_UNNAMED)
    release_block(a, loc)
    release32(&a.me.releasing, 0)
    FAILPOINT(a.plan, RELEASE_STEP_DONE)


cdef void end_release(attachment *a, uint32_t loc, uint32_t dead) noexcept nogil:
    """The daemon: frees a block that a dead process was releasing and that nothing names.

    However far it had come: what it had done is done again. Its own slabs are left to the sweep.
    """
    cdef uint64_t word = load64(&a.chunk_words[chunk_of(a, loc)])
    cdef uint32_t block
    if (word & 0xff) == CHUNK_RUN:
        free_run(a, chunk_of(a, loc))
    elif (word & 0xff) == CHUNK_SLAB and ((word >> 16) & 0xffff) != dead:
        block = block_of(a, loc)
        or64(&a.chunk_records[chunk_of(a, loc)].freed[block >> 6], <uint64_t>1 << (block & 63))


cdef uint64_t count_free_chunks(attachment *a) noexcept nogil:
    cdef uint64_t i, count = 0
    for i in range(a.hdr.chunk_count):
        count += a.chunk_words[i] == 0
    return count


cdef class Heap:
    """Looks at the heap of a segment: for statistics, tests and benchmarks."""

    cdef readonly Segment segment

    def __init__(self, Segment segment not None):
        self.segment = segment

    def allocate(self, uint64_t size):
        """The locator of a new data block, or 0 when there is no room."""
        return allocate(&self.segment.a, size)

    def release(self, uint32_t loc):
        """Frees a block that `allocate` gave."""
        release_block(&self.segment.a, loc)

    def trim(self):
        """Gives this process's empty slabs back to the node."""
        trim(&self.segment.a)

    def chunks_by_kind(self):
        """How many chunks are free, claimed, slabs, objects, tasks, runs, bodies, queues."""
        cdef uint64_t i
        counts = [0] * 8
        for i in range(self.segment.a.hdr.chunk_count):
            counts[load64(&self.segment.a.chunk_words[i]) & 0x7] += 1
        return counts
