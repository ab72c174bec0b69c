"""The heap: blocks of the segment, from 64 bytes to all of it.

The segment is cut into chunks of 64 KiB. A chunk is claimed by one compare-and-swap of its word,
which says who claimed it and for what; a small block is a bit in its chunk's bitmap, a large one a
run of chunks. So an allocation never needs a lock, and what a dead process had claimed can be told
from the words and bits alone. In the manner of mimalloc, a process allocates from chunks of its own
and anybody may free a block of them; here the free is the clearing of a bit, not a push on a list,
because a list would break if the pusher died half way.

Several tricky aspects:
 1. Pages that do not exist yet are made by MADV_POPULATE_WRITE when a chunk is claimed: a full
    machine is then an error of that call and not a SIGBUS in the middle of a copy, and one call
    for many pages is several times faster than as many faults.
 2. The lowest free chunks are taken first, because they are the ones most likely to be warm in
    this process.
 3. Freeing a run first turns its head back into CLAIMED by the one who frees, so that nobody can
    see a run whose body already belongs to others.
 4. Only its owner allocates from a slab, so only the owner can know that it stays empty and give
    it back. Who finds the store full asks all (`trim_wanted`).
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.segment cimport (
    Segment, arena, at, attachment, locator, make_pages, make_wide)

cdef enum:
    # How many of its own chunks an allocation looks through before it claims a new one: bounds the
    # time of a put while most of an arena is full.
    CHUNKS_TRIED = 8
    # How many bitmap words of other than its current chunk a process empties before it looks for
    # chunks to give back, and no less than a quarter as many as it has chunks: a constant share of
    # the cost of the frees.
    EMPTIED_MIN = 16


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


cdef int populate_chunks(attachment *a, uint64_t first, uint64_t count) noexcept nogil:
    """Makes the chunks' pages exist and maps them here. -1 when the machine has no memory left."""
    cdef uint64_t i = first, start, done
    cdef uint64_t end = first + count
    while i < end:
        while i < end and a.populated[i]:
            i += 1
        start = i
        while i < end and not a.populated[i]:
            i += 1
        if i > start:
            if make_pages(a, a.chunks + start * CHUNK_SIZE, (i - start) * CHUNK_SIZE) != 0:
                a.machine_full = True
                return -1
            for done in range(start, i):
                a.populated[done] = 1
    return 0


cdef int64_t claim_chunks(attachment *a, uint64_t count) noexcept nogil:
    """Claims `count` chunks in a row, the lowest there are. Returns the first, or -1."""
    cdef uint64_t total = a.hdr.chunk_count
    cdef uint64_t claimed = CHUNK_WORD(CHUNK_CLAIMED, 0, a.my_slot, 0)
    cdef uint64_t hint = load64(&a.hdr.first_free_chunk)
    cdef uint64_t first, i
    cdef int64_t lowest_free
    cdef int attempt
    for attempt in range(2):
        lowest_free = -1
        first = hint if attempt == 0 else 0
        while first + count <= total:
            i = first
            while i < first + count and a.chunk_words[i] == 0:
                i += 1
            if lowest_free < 0 and i > first:
                lowest_free = first
            if i < first + count:
                first = i + 1
                continue
            i = first
            while i < first + count and cas64(&a.chunk_words[i], 0, claimed):
                i += 1
            if i == first + count:
                # Whoever frees a chunk lowers the hint; a lost race here costs one longer search.
                if <uint64_t>lowest_free == first:
                    cas64(&a.hdr.first_free_chunk, hint, first + count)
                elif attempt == 0:
                    cas64(&a.hdr.first_free_chunk, hint, lowest_free)
                if populate_chunks(a, first, count) != 0:
                    for i in range(first, first + count):
                        store64(&a.chunk_words[i], 0)
                    return -1
                return first
            while i > first:
                i -= 1
                store64(&a.chunk_words[i], 0)
        if hint == 0:
            break
    return -1


cdef int64_t claim_highest(attachment *a) noexcept nogil:
    """Claims the highest free chunk, or returns -1.

    Records stay for ever: at this end of the store they are in nobody's way who needs many chunks
    in a row.
    """
    cdef uint64_t claimed = CHUNK_WORD(CHUNK_CLAIMED, 0, a.my_slot, 0)
    cdef int64_t chunk
    cdef int attempt
    for attempt in range(2):
        chunk = a.highest_hint if attempt == 0 else a.hdr.chunk_count - 1
        while chunk >= 0:
            if a.chunk_words[chunk] == 0 and cas64(&a.chunk_words[chunk], 0, claimed):
                a.highest_hint = chunk
                if populate_chunks(a, chunk, 1) != 0:
                    store64(&a.chunk_words[chunk], 0)
                    return -1
                return chunk
            chunk -= 1
    return -1


cdef void unclaim(attachment *a, uint64_t chunk) noexcept nogil:
    cdef uint64_t hint
    store64(&a.chunk_words[chunk], 0)
    while True:
        hint = load64(&a.hdr.first_free_chunk)
        if hint <= chunk or cas64(&a.hdr.first_free_chunk, hint, chunk):
            return


cdef uint32_t allocate_run(
        attachment *a, uint64_t size, uint32_t kind, uint32_t class_) noexcept nogil:
    """A block of whole chunks. Returns its locator, or 0 when there is no room."""
    cdef uint64_t count = (size + CHUNK_SIZE - 1) // CHUNK_SIZE, i
    cdef int64_t first
    if size > a.hdr.chunk_count * CHUNK_SIZE:
        return 0
    first = claim_chunks(a, count)
    if first < 0:
        return 0
    if kind == CHUNK_RUN and class_ == RUN_TASK:
        # Whoever walks over the records may look at it from here on.
        store64(<uint64_t *>(a.chunks + first * CHUNK_SIZE), TASK_WORD(TASK_FREE, 0, a.my_slot, 0))
    for i in range(count - 1, 0, -1):
        store64(&a.chunk_words[first + i], CHUNK_WORD(CHUNK_BODY, 0, a.my_slot, i))
    store64(&a.chunk_words[first], CHUNK_WORD(kind, class_, a.my_slot, count))
    return locator(a, a.chunks + first * CHUNK_SIZE)


cdef void free_run(attachment *a, uint32_t chunk) noexcept nogil:
    cdef uint64_t word = load64(&a.chunk_words[chunk])
    cdef uint64_t count = word >> 32
    cdef uint64_t i
    # The length stays in the word: should we die here, the sweep knows which bodies are left.
    if not cas64(&a.chunk_words[chunk], word, CHUNK_WORD(CHUNK_CLAIMED, 0, a.my_slot, count)):
        return
    for i in range(count - 1, 0, -1):
        unclaim(a, chunk + i)
    unclaim(a, chunk)


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
        populate_chunks(a, chunk, 1)
    else:
        chunk = claim_chunks(a, 1) if kind == ARENA_DATA else claim_highest(a)
        if chunk < 0:
            return False
        if kind == ARENA_OBJECTS and load32(&a.hdr.wide) != 0 and make_wide(a, chunk) != 0:
            a.machine_full = True
            store64(&a.chunk_words[chunk], 0)
            return False
        if kind != ARENA_DATA:
            # A record's words mean something before its first use: version 0, no holders, no
            # dependents.
            memset(a.chunks + chunk * CHUNK_SIZE, 0, CHUNK_SIZE)
        for word in range(16):
            a.chunk_records[chunk].used[word] = initial_word(r.block_size, word)
        store64(&a.chunk_words[chunk], CHUNK_WORD(CHUNK_SLAB + kind, class_, a.my_slot, 1))
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
    while i < r.count:
        empty = i != r.current or not keep_current
        word = 0
        while empty and word < 16:
            empty = a.chunk_records[r.chunks[i]].used[word] == initial_word(r.block_size, word)
            word += 1
        if empty:
            unclaim(a, r.chunks[i])
            r.count -= 1
            r.chunks[i] = r.chunks[r.count]
            if r.current == r.count:
                r.current = i
            elif r.current == i:
                r.current = r.word = 0
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
    cdef uint32_t tried, words, word, chunk
    cdef uint64_t unused
    cdef int bit
    cdef char *block
    if r.block_size == 0:
        r.block_size = _SIZES[class_]
    words = (CHUNK_SIZE // r.block_size + 63) // 64
    tried = 0
    while True:
        if r.count != 0:
            chunk = r.chunks[r.current]
            for word in range(r.word, words):
                unused = ~load64(&a.chunk_records[chunk].used[word])
                if unused != 0:
                    bit = lowest_bit(unused)
                    block = a.chunks + <uint64_t>chunk * CHUNK_SIZE
                    block += (word * 64 + bit) * <uint64_t>r.block_size
                    if kind != ARENA_DATA:
                        # Before the bit: a record in use and FREE tells whose hands it is in.
                        sign_record(a, <uint64_t *>block)
                    or64(&a.chunk_records[chunk].used[word], <uint64_t>1 << bit)
                    r.word = word
                    return locator(a, block)
            tried += 1
            if tried < CHUNKS_TRIED and tried < r.count + 1:
                r.current = (r.current + 1) % r.count
                r.word = 0
                continue
        if add_chunk(a, r, kind, class_):
            continue
        if tried > r.count + 1:
            return 0
        # No chunk to be had: only then look through all of our own.
        tried += 1
        if r.count == 0:
            return 0
        r.current = (r.current + 1) % r.count
        r.word = 0


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

    Clearing the bit is the last thing that touches the chunk: its owner may give it back then.
    """
    cdef uint64_t offset = (<uint64_t>loc << 6) - a.hdr.chunks_offset
    cdef uint32_t chunk = offset // CHUNK_SIZE
    cdef uint64_t word = load64(&a.chunk_words[chunk]), bit, left
    cdef uint32_t kind = word & 0xff, class_ = (word >> 8) & 0xff, block
    cdef arena *r
    if kind == CHUNK_RUN or kind == CHUNK_QUEUE:
        free_run(a, chunk)
        return
    if kind < CHUNK_SLAB or kind > CHUNK_TASKS or class_ >= CLASS_COUNT:
        return
    block = (offset % CHUNK_SIZE) // _SIZES[class_]
    bit = <uint64_t>1 << (block & 63)
    left = and64(&a.chunk_records[chunk].used[block >> 6], ~bit) & ~bit
    if ((word >> 16) & 0xffff) != a.my_slot:
        return
    r = &a.arenas[kind - CHUNK_SLAB][class_]
    if r.count == 0:
        return
    if r.chunks[r.current] == chunk:
        # The block just freed is the one most likely in this core's cache: find it first.
        if (block >> 6) < r.word:
            r.word = block >> 6
    elif kind == CHUNK_SLAB and left == initial_word(r.block_size, block >> 6):
        r.emptied += 1
        if r.emptied >= EMPTIED_MIN and r.emptied * 4 >= r.count:
            give_back_empty(a, r, True)


cdef void release_named(attachment *a, uint32_t *name) noexcept nogil:
    """Wipes out the only name of a data block and frees the block; layout.h, `releasing`."""
    cdef uint32_t loc = name[0]
    cdef uint64_t chunk = ((<uint64_t>loc << 6) - a.hdr.chunks_offset) // CHUNK_SIZE
    # Take the page faults first: a process is most often killed while it is in one, and one that
    # dies between name and bit leaves the block to nobody.
    load64(&a.chunk_words[chunk])
    or64(&a.chunk_records[chunk].used[0], 0)
    release32(&a.me.releasing, loc)
    store32(name, 0)
    release_block(a, loc)
    release32(&a.me.releasing, 0)


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
