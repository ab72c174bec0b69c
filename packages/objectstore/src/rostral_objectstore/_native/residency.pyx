"""Where the arrays of one GPU are: a table that its device daemon writes and all readers map.

The daemon says in an entry's word that an array's bytes leave the GPU, and then looks who holds the
array's host object; a reader takes hold of that, and then looks at the word. Both are sequentially
consistent, so one of the two sees the other: docs/gpu.md has the protocol.
"""
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "atomics.h" nogil:
    uint64_t load64(const uint64_t *p)
    void store64(uint64_t *p, uint64_t v)

# A line of the table. Readers write `last_used` alone, a hint for LRU; all else is the daemon's.
cdef struct entry:
    uint64_t word       # generation << 8 | state
    uint64_t offset     # from the start of the device's share, in bytes; valid while ON_DEVICE
    uint64_t last_used  # the daemon's clock at the last read
    uint64_t pad

ENTRY_BYTES = sizeof(entry)


cdef class ResidencyTable:
    """Entries in shared memory, numbered from 0.

    Args:
        memory: a writable buffer, the same file in every process.
    """

    cdef Py_buffer view
    cdef entry *entries
    cdef bint is_open
    cdef readonly Py_ssize_t count

    def __cinit__(self, memory):
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.is_open = True
        self.entries = <entry *>self.view.buf
        self.count = self.view.len // sizeof(entry)

    def __dealloc__(self):
        if self.is_open:
            PyBuffer_Release(&self.view)

    cdef entry *_at(self, Py_ssize_t index) except NULL:
        if index < 0 or index >= self.count:
            raise IndexError(f"entry {index} of {self.count}")
        return self.entries + index

    def word(self, Py_ssize_t index):
        """The entry's word, read before whatever the caller reads next."""
        return load64(&self._at(index).word)

    def set_word(self, Py_ssize_t index, uint64_t word):
        """Writes the word; whatever the caller reads next is read after it is visible."""
        store64(&self._at(index).word, word)

    def offset(self, Py_ssize_t index):
        """Where the array begins. Only for who holds it and has seen its word."""
        return load64(&self._at(index).offset)

    def set_offset(self, Py_ssize_t index, uint64_t offset):
        """Says where the array begins; the word that follows publishes it."""
        store64(&self._at(index).offset, offset)

    def last_used(self, Py_ssize_t index):
        """The clock at the entry's last use."""
        return self._at(index).last_used

    def touch(self, Py_ssize_t index, uint64_t clock):
        """Notes a use."""
        self._at(index).last_used = clock
