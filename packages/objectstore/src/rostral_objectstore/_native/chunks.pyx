"""Chunks of the segment: claimed and let go, one or several in a row.

A chunk is claimed by one compare-and-swap of its word, which says who did it; what a process that
died had claimed can be told from the words alone. Owns where a claim looks first, for which the
reasons are in heap.pyx. Must not know what becomes of the chunks.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.pages cimport has_pages, map_chunks, reserve_chunks
from rostral_objectstore._native.segment cimport ARENA_DATA, attachment, former_run

cdef enum:
    # How many places of large blocks a process remembers.
    FORMER_RUNS = 8
    # How many chunks are looked at for one queue's.
    SPARSE_TRIED = 1 << 14


cdef bint claim_run(
        attachment *a, uint64_t first, uint64_t count, uint64_t paged) noexcept nogil:
    """Claims these chunks, all or none; the pages of the first `paged` of them exist then."""
    cdef uint64_t claimed = CHUNK_WORD(CHUNK_CLAIMED, 0, a.my_slot, 0), i = first
    while i < first + count and cas64(&a.chunk_words[i], 0, claimed):
        FAILPOINT(a.plan, RUN_STEP_CLAIMING)
        i += 1
    if i == first + count and reserve_chunks(a, first, paged) == 0:
        return True
    while i > first:
        i -= 1
        unclaim(a, i)
    return False


cdef int64_t claim_former(attachment *a, uint64_t count, uint64_t paged) noexcept nogil:
    """Claims a run of just this length that this process had before. Returns its first, or -1."""
    cdef former_run *run
    cdef uint32_t k, place
    for k in range(FORMER_RUNS):
        place = (a.newest_run + FORMER_RUNS - k) % FORMER_RUNS
        run = &a.former_runs[place]
        if run.count != count or a.chunk_words[run.first] != 0:
            continue
        if claim_run(a, run.first, count, paged):
            a.newest_run = place
            return run.first
    return -1


cdef int64_t claim_chunks(attachment *a, uint64_t count, uint64_t paged) noexcept nogil:
    """Claims `count` chunks in a row: former ones, or the lowest. Returns the first, or -1.

    Where only the first shall have pages: former ones, the highest that have none, or the lowest.
    """
    cdef int64_t first
    a.machine_full = False
    first = claim_former(a, count, paged)
    if first < 0:
        if paged == 1 and count > 1:
            first = claim_sparse(a, count)
        if first < 0:
            first = claim_lowest(a, count, paged)
        if first >= 0:
            a.newest_run = (a.newest_run + 1) % FORMER_RUNS
            a.former_runs[a.newest_run].first = <uint32_t>first
            a.former_runs[a.newest_run].count = <uint32_t>count
    return first


cdef int64_t claim_lowest(attachment *a, uint64_t count, uint64_t paged) noexcept nogil:
    """Claims the lowest `count` free chunks in a row. Returns the first, or -1."""
    cdef uint64_t total = a.hdr.chunk_count
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
            if claim_run(a, first, count, paged):
                # Whoever frees a chunk lowers the hint; a lost race here costs one longer search.
                if <uint64_t>lowest_free == first:
                    cas64(&a.hdr.first_free_chunk, hint, first + count)
                elif attempt == 0:
                    cas64(&a.hdr.first_free_chunk, hint, lowest_free)
                return first
            if a.machine_full:
                return -1
        if hint == 0:
            break
    return -1


cdef int64_t claim_sparse(attachment *a, uint64_t count) noexcept nogil:
    """Claims the highest `count` free chunks in a row of which only the first may have pages.

    The others read 0 as they are. To take pages back the kernel goes through the mappings of every
    attached process: with 900 of those, 1.2 ms for the two chunks of an actor's mailbox. Returns
    the first, or -1: there are none among those looked at, or the machine is full.
    """
    cdef int64_t chunk = min(highest_for(a, ARENA_DATA), <int64_t>load64(&a.hdr.last_free_chunk[0]))
    cdef int64_t lowest = max(-1, chunk - SPARSE_TRIED)
    cdef uint64_t clean = 0
    while chunk > lowest and not a.machine_full:
        if a.chunk_words[chunk] != 0:
            clean = 0
        elif clean + 1 < count:
            clean = 0 if has_pages(a, chunk) else clean + 1
        elif claim_run(a, chunk, count, 1):
            return chunk
        else:
            clean = 0
        chunk -= 1
    return -1


cdef inline int64_t highest_for(attachment *a, int kind) noexcept nogil:
    """Where a search for a slab's chunk begins: data leave the top to the records."""
    cdef int64_t total = a.hdr.chunk_count
    return total - 1 - (total // RECORDS_SHARE if kind == ARENA_DATA else 0)


cdef int64_t claim_highest(attachment *a, int kind) noexcept nogil:
    """Claims a chunk for a slab, the highest that is free, and maps it. Or returns -1."""
    cdef uint64_t *hint = &a.hdr.last_free_chunk[kind != ARENA_DATA]
    cdef uint64_t hinted = load64(hint)
    cdef int64_t top = highest_for(a, kind), chunk
    chunk = claim_below(a, min(top, <int64_t>hinted))
    if chunk < 0 and <int64_t>hinted < top:
        chunk = claim_below(a, top)
    if chunk >= 0:
        # Whoever frees a chunk raises the hint; a lost race costs one longer search.
        cas64(hint, hinted, chunk)
    elif kind == ARENA_DATA:
        chunk = claim_below(a, a.hdr.chunk_count - 1)
    if chunk < 0:
        return -1
    if reserve_chunks(a, chunk, 1) != 0:
        unclaim(a, chunk)
        return -1
    map_chunks(a, chunk, 1)
    return chunk


cdef int64_t claim_below(attachment *a, int64_t chunk) noexcept nogil:
    """Claims the highest free chunk from `chunk` down, or returns -1."""
    cdef uint64_t claimed = CHUNK_WORD(CHUNK_CLAIMED, 0, a.my_slot, 0)
    while chunk >= 0:
        if a.chunk_words[chunk] == 0 and cas64(&a.chunk_words[chunk], 0, claimed):
            return chunk
        chunk -= 1
    return -1


cdef void unclaim(attachment *a, uint64_t chunk) noexcept nogil:
    """Frees a chunk that is in no run any more, and lets it be found."""
    cdef uint64_t hint
    cdef int i
    store64(&a.chunk_words[chunk], 0)
    hint = load64(&a.hdr.first_free_chunk)
    while hint > chunk and not cas64(&a.hdr.first_free_chunk, hint, chunk):
        hint = load64(&a.hdr.first_free_chunk)
    for i in range(2):
        hint = load64(&a.hdr.last_free_chunk[i])
        while hint < chunk and not cas64(&a.hdr.last_free_chunk[i], hint, chunk):
            hint = load64(&a.hdr.last_free_chunk[i])
