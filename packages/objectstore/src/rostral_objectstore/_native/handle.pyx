"""Handles: this process's hold on an object, as a Python object.

A handle owns one of the process's private counts of the object and nothing else; values, waiting
and everything that makes handles are in other modules.
"""
cimport cython
from cpython.object cimport PyObject, PyTypeObject
from cpython.type cimport PyType_Check
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from rostral_objectstore._native.layout cimport load64, object as object_record
from rostral_objectstore._native.objects cimport drop
from rostral_objectstore._native.segment cimport Segment, at


# Nothing that a handle or a buffer refers to can refer back to it, so the cycle collector need not
# look at them; and it must not clear `segment` before `__dealloc__` has used it.
@cython.no_gc
cdef class Handle:
    """Holds one object for this process: while any handle or buffer of it lives, the object stays.

    Made by ObjectTable, not by users. Equal and hashable by id. Dropping the last handle of the
    node deletes the object.
    """

    def __init__(self):
        raise TypeError(
            f"{type(self).__name__} is made by put, create or remote calls, not by hand")

    def __dealloc__(self):
        if self.segment is not None and self.loc != 0:
            drop(&self.segment.a, self.loc)

    def binary(self):
        """The 20 bytes of the object's id."""
        return PyBytes_FromStringAndSize(<char *>self.id_bytes, 20)

    def hex(self):
        """The object's id in 40 hexadecimal digits."""
        return self.binary().hex()

    def packed(self):
        """28 bytes by which another process of this node finds the object: id, locator, version."""
        cdef uint8_t p[28]
        memcpy(p, self.id_bytes, 20)
        memcpy(p + 20, &self.loc, 4)
        memcpy(p + 24, &self.version, 4)
        return PyBytes_FromStringAndSize(<char *>p, 28)

    def __hash__(self):
        cdef int64_t h
        memcpy(&h, self.id_bytes, 8)
        h ^= self.id_bytes[16] | <int64_t>self.id_bytes[17] << 8
        return h if h != -1 else -2

    def __eq__(self, other):
        if not isinstance(other, Handle):
            return NotImplemented
        return memcmp(self.id_bytes, (<Handle>other).id_bytes, 20) == 0

    def __repr__(self):
        return f"{type(self).__name__}({self.hex()})"

    def __reduce__(self):
        raise TypeError(
            f"{type(self).__name__} cannot be pickled: it is this process's hold; pass the id")


cdef tuple NO_ARGUMENTS = ()


cdef Handle new_handle(object cls, Segment segment, uint32_t loc):
    """Wraps one hold that the caller has taken."""
    cdef object_record *o = <object_record *>at(&segment.a, loc)
    cdef Handle handle
    if not PyType_Check(cls):
        raise TypeError(f"the class of a handle must be one, not {cls!r}")
    # As `cls.__new__(cls)`, which takes longer than all the rest.
    handle = <Handle?>(<PyTypeObject *>cls).tp_new(<type>cls, <PyObject *>NO_ARGUMENTS, NULL)
    handle.segment = segment
    handle.loc = loc
    handle.version = load64(&o.word) >> 32
    memcpy(handle.id_bytes, o.id, 20)
    return handle


def name_object(cls, bytes id not None):
    """A handle that only names an object: it holds nothing, and no table takes it for its own.

    Raises ValueError for an id that has not 20 bytes.
    """
    if len(id) != 20:
        raise ValueError(f"an object id has 20 bytes, not {len(id)}")
    cdef Handle handle = cls.__new__(cls)
    memcpy(handle.id_bytes, <const char *>id, 20)
    return handle
