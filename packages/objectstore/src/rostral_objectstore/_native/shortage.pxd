from libc.stdint cimport uint64_t

from rostral_objectstore._native.handle cimport Handle
from rostral_objectstore._native.segment cimport attachment

cdef no_room(attachment *a, uint64_t size)
cdef recover_lost(object recover, Handle handle)
cdef bring_back(object restore, object recover, Handle handle, uint64_t word)
