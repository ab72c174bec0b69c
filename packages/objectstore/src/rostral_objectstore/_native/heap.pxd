from libc.stdint cimport int64_t, uint32_t, uint64_t

from rostral_objectstore._native.segment cimport attachment

cdef enum:
    # Owner of the chunks that a dead process left behind; no process has this slot.
    ORPHAN_SLOT = 0xfffe

cdef uint32_t allocate(attachment *a, uint64_t size) noexcept nogil
cdef uint32_t allocate_at(attachment *a, uint64_t size, uint64_t first) noexcept nogil
cdef uint32_t allocate_record(attachment *a, int arena_kind, uint32_t size) noexcept nogil
cdef uint32_t allocate_run(
    attachment *a, uint64_t size, uint32_t kind, uint32_t class_) noexcept nogil
cdef void release_block(attachment *a, uint32_t loc) noexcept nogil
cdef void release_named(attachment *a, uint32_t *name) noexcept nogil
cdef void trim(attachment *a) noexcept nogil
cdef uint64_t count_free_chunks(attachment *a) noexcept nogil
cdef uint32_t class_of(uint64_t size) noexcept nogil
cdef uint32_t class_size(uint32_t class_) noexcept nogil
cdef uint64_t initial_word(uint32_t block_size, uint32_t word) noexcept nogil
cdef void free_run(attachment *a, uint32_t chunk) noexcept nogil
cdef void collect_chunks(attachment *a, const uint32_t *chunks, uint32_t count) noexcept nogil
cdef void end_release(attachment *a, uint32_t loc, uint32_t dead) noexcept nogil
