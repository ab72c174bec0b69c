"""Copy-on-write views of objects, for readers that may write: see tensors.py.

Owns one private mapping of the segment's pages that an object's buffer lies in. The store's bytes
are never changed through it; a page that is written becomes the process's own. The buffer stays
held, so what the untouched pages show does not change either.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int64_t, uint64_t

from rostral_objectstore._native.buffer cimport ObjectBuffer

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset)
    int munmap(void *addr, size_t length)
    enum: PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_NORESERVE
    void *MAP_FAILED

cdef extern from "<unistd.h>" nogil:
    long sysconf(int name)
    enum: _SC_PAGESIZE

cdef uint64_t PAGE_SIZE = sysconf(_SC_PAGESIZE)


@cython.no_gc
cdef class PrivateView:
    """The bytes of an object's buffer, writable for this process alone.

    Raises: MemoryError when the process may not have one more mapping.
    """

    cdef ObjectBuffer source
    cdef void *mapping
    cdef size_t mapping_size
    cdef char *data

    def __init__(self, ObjectBuffer source not None):
        cdef uint64_t offset = source.data - source.segment.a.base
        cdef uint64_t start = offset & ~(PAGE_SIZE - 1)
        cdef size_t size = offset - start + source.size
        cdef void *mapping
        if self.mapping != NULL:
            raise TypeError("a view is made once")
        # Without NORESERVE, pages that nobody will write might be refused.
        mapping = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                       source.segment.a.fd, start)
        if mapping == MAP_FAILED:
            raise MemoryError(f"cannot map {size} bytes of the store once more")
        self.source, self.mapping, self.mapping_size = source, mapping, size
        self.data = <char *>mapping + (offset - start)

    def __dealloc__(self):
        if self.mapping != NULL:
            munmap(self.mapping, self.mapping_size)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.source.size, False, flags)
