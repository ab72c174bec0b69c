from libc.stdint cimport uint8_t, uint32_t, uint64_t

from rostral_objectstore._native.layout cimport index_group, object as object_record
from rostral_objectstore._native.segment cimport attachment

cdef uint64_t hash_id(const uint8_t *id) noexcept nogil
cdef index_group *lock_home(attachment *a, uint64_t h) noexcept nogil
cdef void unlock_home(attachment *a, index_group *g) noexcept nogil
cdef void unlock_dead(attachment *a, uint32_t dead) noexcept nogil
cdef uint32_t index_find(attachment *a, const uint8_t *id, uint64_t h) noexcept nogil
cdef bint index_insert(attachment *a, uint32_t loc, uint64_t h) noexcept nogil
cdef void index_remove(attachment *a, object_record *o, uint32_t loc) noexcept nogil
