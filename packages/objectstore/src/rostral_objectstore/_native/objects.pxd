from libc.stdint cimport uint8_t, uint32_t, uint64_t

from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.segment cimport attachment

# making and sealing
cdef uint32_t new_object(
    attachment *a, const uint8_t *id, uint64_t state, uint64_t flags, bint *existed) noexcept nogil
cdef bint begin_write(attachment *a, uint32_t loc) noexcept nogil
cdef bint created_by(attachment *a, object_record *o) noexcept nogil
cdef void add_flag(object_record *o, uint64_t flag) noexcept nogil
cdef bint undo_created(attachment *a, uint32_t loc, uint32_t owner) noexcept nogil
cdef bint seal(attachment *a, uint32_t loc, uint64_t flags) noexcept nogil
cdef bint publish_value(
    attachment *a, uint32_t loc, uint64_t state, uint64_t flags) noexcept nogil
cdef void wake_holders(attachment *a, uint32_t loc, bint everyone) noexcept nogil

# holding
cdef void set_bit(attachment *a, object_record *o) noexcept nogil
cdef uint64_t holder_bits(attachment *a, object_record *o, uint32_t i) noexcept nogil
cdef bint held_by_none(attachment *a, object_record *o) noexcept nogil
cdef bint hold(attachment *a, uint32_t loc, uint32_t version) noexcept nogil
cdef uint32_t meet_deleter(
    attachment *a, uint32_t loc, uint64_t word, uint32_t spins) noexcept nogil
cdef void drop(attachment *a, uint32_t loc) noexcept nogil

# pinning
cdef bint pin(attachment *a, uint32_t loc) noexcept nogil
cdef void unpin(attachment *a, uint32_t loc) noexcept nogil
cdef bint is_pinned(attachment *a, object_record *o) noexcept nogil
cdef void give_back(attachment *a, uint32_t loc) noexcept nogil

# references inside values
cdef void count_references(attachment *a, object_record *o, uint32_t count) noexcept nogil

# deleting
cdef void try_delete(attachment *a, uint32_t loc) noexcept nogil
cdef void settle_deletion(attachment *a, uint32_t loc, uint32_t dead) noexcept nogil
