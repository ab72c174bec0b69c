"""Pages: which chunks have theirs, which of them this process has mapped, and how bytes get in.

A page of the segment costs three things at its first use: the kernel takes it from the machine and
clears it, each process maps it, and the bytes are copied. benchmarks/bench_pages.py measures them;
docs/design.md has the figures. What follows from them:
 1. A chunk's pages are taken by fallocate before the chunk is used: a full machine is an error of
    that call, never a SIGBUS in the middle of a copy. One bit per chunk, shared,
    says that this was done; the daemon does it ahead of use (`reserve_ahead`).
 2. What is copied into pages that this process has not mapped goes in by pwrite, which neither
    clears nor maps them: twice as fast as mapping first. At the second time they are mapped.
 3. Who gets a large value needs its first bytes, which say how it is read, at once, and the others
    perhaps never: those bytes are read without mapping them (`peek`).
 4. Where huge pages are to be had, only a fault in an advised mapping makes them: then pages are
    made by mapping them, which is far cheaper than all of the above.

Must not know what lies in the chunks.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.segment cimport Segment, attachment, make_pages

cdef extern from "copying.h" nogil:
    void copy_streamed(char *target, const char *source, uint64_t size)

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *addr, size_t length, int advice)

cdef extern from "<unistd.h>" nogil:
    int64_t pwrite(int fd, const void *buffer, size_t size, int64_t offset)
    int64_t pread(int fd, void *buffer, size_t size, int64_t offset)

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, int64_t offset, int64_t length)
    enum: FALLOC_FL_KEEP_SIZE
    enum: FALLOC_FL_PUNCH_HOLE

cdef extern from "<errno.h>" nogil:
    int errno
    enum: EINTR

cdef enum:
    MADV_POPULATE_READ = 22
    # What `populated` says of a chunk; 0: this process has neither written to nor mapped it.
    WRITTEN = 1  # by pwrite: its pages are cleared, so that mapping them many at a time is quick
    MAPPED = 2
    # Calls that hold the kernel's lock of the file do no more than this: half a millisecond.
    STRIDE = 2 << 20
    # Below this, faults cost less than a system call.
    WRITE_MIN = 16 << 10


cdef bint has_pages(attachment *a, uint64_t chunk) noexcept nogil:
    return load64(&a.page_bits[chunk >> 6]) >> (chunk & 63) & 1


cdef int take_pages(attachment *a, uint64_t offset, uint64_t size) noexcept nogil:
    """Makes pages of the file exist, without mapping them. -1: the machine has none left."""
    while fallocate(a.fd, 0, offset, size) != 0:
        if errno != EINTR:
            return -1
    return 0


cdef int reserve_stretch(attachment *a, uint64_t first, uint64_t count) noexcept nogil:
    """Makes the pages of the chunks, and of their records, exist."""
    cdef uint64_t i, begin, end
    begin = a.hdr.chunk_records_offset + first * sizeof(chunk_record)
    end = begin + count * sizeof(chunk_record)
    if take_pages(a, begin, end - begin) != 0:
        return -1
    if load32(&a.hdr.huge_pages):
        if make_pages(a, a.chunks + first * CHUNK_SIZE, count * CHUNK_SIZE) != 0:
            return -1
        for i in range(first, first + count):
            a.populated[i] = MAPPED
    elif take_pages(a, a.hdr.chunks_offset + first * CHUNK_SIZE, count * CHUNK_SIZE) != 0:
        return -1
    for i in range(first, first + count):
        or64(&a.page_bits[i >> 6], <uint64_t>1 << (i & 63))
    return 0


cdef int reserve_chunks(attachment *a, uint64_t first, uint64_t count) noexcept nogil:
    """Sees to it that the chunks' pages exist. -1 when the machine has no memory left."""
    cdef uint64_t i = first, start
    cdef uint64_t end = first + count
    while i < end:
        start = i
        while i < end and not has_pages(a, i) and i - start < STRIDE // CHUNK_SIZE:
            i += 1
        if i == start:
            i += 1
        elif reserve_stretch(a, start, i - start) != 0:
            a.machine_full = True
            return -1
    return 0


cdef void drop_pages(attachment *a, uint64_t chunk) noexcept nogil:
    """Gives the pages of a chunk that this process has claimed back to the machine: it reads 0.

    A chunk without the bit has never been written to since it was made, so it reads 0 anyway.
    """
    if not has_pages(a, chunk):
        return
    while fallocate(a.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    a.hdr.chunks_offset + chunk * CHUNK_SIZE, CHUNK_SIZE) != 0:
        if errno != EINTR:
            memset(a.chunks + chunk * CHUNK_SIZE, 0, CHUNK_SIZE)
            return
    and64(&a.page_bits[chunk >> 6], ~(<uint64_t>1 << (chunk & 63)))


cdef void map_chunks(attachment *a, uint64_t first, uint64_t count) noexcept nogil:
    """Maps chunks whose pages exist. What cannot be mapped now is mapped by faults."""
    cdef uint64_t i = first, start
    cdef uint64_t end = first + count
    cdef int state
    while i < end:
        start, state = i, a.populated[i]
        while i < end and a.populated[i] == state:
            i += 1
        if state == MAPPED:
            continue
        if state != WRITTEN or madvise(
                a.chunks + start * CHUNK_SIZE, (i - start) * CHUNK_SIZE, MADV_POPULATE_READ) != 0:
            make_pages(a, a.chunks + start * CHUNK_SIZE, (i - start) * CHUNK_SIZE)
        while start < i:
            a.populated[start] = MAPPED
            start += 1


cdef uint64_t write_in(
        attachment *a, char *target, const char *source, uint64_t size) noexcept nogil:
    """Copies by pwrite. Returns how many bytes it did: all, but for errors that nobody expects."""
    cdef uint64_t done = 0
    cdef int64_t wrote
    while done < size:
        wrote = pwrite(
            a.fd, source + done, min(size - done, <uint64_t>STRIDE), target + done - a.base)
        if wrote > 0:
            done += wrote
        elif wrote == 0 or errno != EINTR:
            break
    return done


cdef void copy_into(attachment *a, char *target, const char *source, uint64_t size) noexcept nogil:
    """memcpy into a block whose pages exist, in the quickest way there is for each of its pages.

    Nobody may read there before something published later than this says so.
    """
    cdef uint64_t first, last, i, part, done
    if size < WRITE_MIN or target < a.chunks or target + size > a.chunks_end:
        memcpy(target, source, size)
        return
    first, last = (target - a.chunks) // CHUNK_SIZE, (target + size - 1 - a.chunks) // CHUNK_SIZE
    i = first
    while i <= last:
        if a.populated[i] != 0 or load32(&a.hdr.huge_pages):
            while i <= last and (a.populated[i] != 0 or load32(&a.hdr.huge_pages)):
                i += 1
            map_chunks(a, first, i - first)
            part = min(size, <uint64_t>(a.chunks + i * CHUNK_SIZE - target))
            copy_streamed(target, source, part)
        else:
            while i <= last and a.populated[i] == 0:
                a.populated[i] = WRITTEN
                i += 1
            part = min(size, <uint64_t>(a.chunks + i * CHUNK_SIZE - target))
            done = write_in(a, target, source, part)
            memcpy(target + done, source + done, part - done)
        target, source, size, first = target + part, source + part, size - part, i


cdef bint peek(attachment *a, const char *start, char *copy, uint64_t size) noexcept nogil:
    """Copies the first bytes of a block of whole chunks, unless this process has mapped them.

    Measured: 1 us, where the first touch of such a block took 5, much of it for a page table that
    holds nothing else yet. False: they are better read in place.
    """
    if a.populated[(start - a.chunks) // CHUNK_SIZE] == MAPPED:
        return False
    return pread(a.fd, copy, size, start - a.base) == <int64_t>size


def reserve_ahead(
        Segment segment not None, uint64_t low, uint64_t high, uint64_t step, uint32_t steps=1):
    """The daemon: takes pages for chunks that will be used next, a step at a time.

    Ends early when somebody takes or frees a large block: who writes to it needs the kernel's lock
    of the file more. Releases the GIL once for all steps: a thread that takes it back for each
    waits, beside one that computes, a switch interval every time.

    Args:
        low: bytes of free chunks, the lowest there are, that shall have pages: for large blocks.
        high: the same from the highest down, for small blocks and for records each.
        step: bytes to make at once.
        steps: how many steps to make at most.

    Returns: bytes made; 0 when all is as it shall be; -1 when the machine has no memory left.
    """
    cdef attachment *a = &segment.a
    cdef uint64_t made = 0, count, lowest
    cdef int failed = 0
    if a.closed:
        return 0
    with nogil:
        lowest = load64(&a.hdr.first_free_chunk)
        while steps > 0 and load64(&a.hdr.first_free_chunk) == lowest:
            steps -= 1
            count = 0
            failed = reserve_step(
                a, low // CHUNK_SIZE, high // CHUNK_SIZE, step // CHUNK_SIZE, &count)
            if failed != 0 or count == 0:
                break
            made += count * CHUNK_SIZE
    return -1 if failed else made


cdef int reserve_step(
        attachment *a, uint64_t low, uint64_t high, uint64_t step, uint64_t *count) noexcept nogil:
    """One stretch of at most `step` chunks; `count` is how many. -1: no memory left."""
    cdef uint64_t first = 0
    cdef int i
    find_low(a, low, step, &first, count)
    for i in range(2):
        if count[0] == 0:
            find_high(a, load64(&a.hdr.last_free_chunk[i]), high, step, &first, count)
    return 0 if count[0] == 0 else reserve_stretch(a, first, count[0])


cdef void find_low(
        attachment *a, uint64_t wanted, uint64_t step, uint64_t *first, uint64_t *count
        ) noexcept nogil:
    """The first stretch of free chunks without pages, among the lowest `wanted` free chunks."""
    cdef uint64_t i = load64(&a.hdr.first_free_chunk), seen = 0
    while i < a.hdr.chunk_count and seen < wanted:
        if load64(&a.chunk_words[i]) == 0:
            seen += 1
            if not has_pages(a, i):
                if count[0] == 0:
                    first[0] = i
                count[0] += 1
        if count[0] != 0 and (count[0] == step or first[0] + count[0] != i + 1):
            return
        i += 1


cdef void find_high(
        attachment *a, uint64_t begin, uint64_t wanted, uint64_t step, uint64_t *first,
        uint64_t *count) noexcept nogil:
    """The same from a chunk down."""
    cdef uint64_t i = begin + 1, seen = 0
    while i > 0 and seen < wanted:
        i -= 1
        if load64(&a.chunk_words[i]) == 0:
            seen += 1
            if not has_pages(a, i):
                first[0] = i
                count[0] += 1
        if count[0] != 0 and (count[0] == step or first[0] != i):
            return


def first_free(Segment segment not None):
    """Where the lowest free chunk is, about: it moves when somebody takes a large block."""
    return load64(&segment.a.hdr.first_free_chunk)


def reserved_bytes(Segment segment not None):
    """Bytes of the chunks whose pages exist."""
    cdef attachment *a = &segment.a
    cdef uint64_t i, count = 0
    for i in range((a.hdr.chunk_count + 63) // 64):
        count += bit_count(load64(&a.page_bits[i]))
    return count * CHUNK_SIZE
