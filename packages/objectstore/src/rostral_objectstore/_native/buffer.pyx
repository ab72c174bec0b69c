"""Buffers: bytes of an object, in place, as a Python object that exports them.

A buffer owns a hold and a pin of its object; who makes one says where the bytes are. NumPy arrays
and other views of a buffer keep it alive.
"""
cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer)
from libc.stdint cimport uint32_t, uint64_t

from rostral_objectstore._native.heap cimport release_named
from rostral_objectstore._native.objects cimport drop, pin, unpin
from rostral_objectstore._native.segment cimport Segment, attachment

cdef extern from "copying.h" nogil:
    void copy_past_caches(char *target, const char *source, uint64_t size)


@cython.no_gc
cdef class ObjectBuffer:
    """Bytes of an object, in place.

    While this, or any view of it, lives, the object stays held, and its block where it is.
    """

    def __init__(self):
        raise TypeError("ObjectBuffer is made by the object table")

    def __dealloc__(self):
        cdef attachment *a
        if self.segment is None:
            return
        a = &self.segment.a
        a.buffer_count -= 1
        if not a.closed:
            if self.block != 0:
                release_named(a, &self.block)
            if self.pinned:
                unpin(a, self.loc)
        drop(a, self.loc)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, self.readonly, flags)

    def __len__(self):
        return self.size


cdef ObjectBuffer new_buffer(
        Segment segment, uint32_t loc, char *data, Py_ssize_t size, bint readonly):
    """Holds an object that the caller holds, and pins it: the caller has, or is its creator."""
    cdef ObjectBuffer buffer = room_buffer(segment, loc, data, size, readonly)
    buffer.pinned = pin(&segment.a, loc)
    return buffer


cdef ObjectBuffer room_buffer(
        Segment segment, uint32_t loc, char *data, Py_ssize_t size, bint readonly):
    """A buffer of bytes that are not the object's yet: it holds, but does not pin."""
    cdef ObjectBuffer buffer = ObjectBuffer.__new__(ObjectBuffer)
    segment.a.held[loc] += 1
    segment.a.buffer_count += 1
    buffer.segment, buffer.loc = segment, loc
    buffer.data, buffer.size, buffer.readonly = data, size, readonly
    return buffer


def write_past_caches(target, uint64_t offset, source):
    """Copies a buffer to its place in an object's, without the GIL.

    For bytes that nobody reads before the object is sealed. Raises ValueError when they do not fit.
    """
    cdef Py_buffer to, of
    PyObject_GetBuffer(target, &to, PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(source, &of, PyBUF_SIMPLE)
        try:
            if offset > <uint64_t>to.len or <uint64_t>of.len > to.len - offset:
                raise ValueError(f"{of.len} bytes at {offset} do not fit into {to.len}")
            with nogil:
                copy_past_caches(<char *>to.buf + offset, <char *>of.buf, of.len)
        finally:
            PyBuffer_Release(&of)
    finally:
        PyBuffer_Release(&to)
