"""Walking over all records of one kind: what repair, audits and the choice of victims are made of.

A moment's view without a lock: a record may be freed, and reused for another of its kind, while it
is looked at.
"""
from libc.stdint cimport uint32_t, uint64_t

from rostral_objectstore._native.heap cimport class_size
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.segment cimport Segment, attachment, locator


cdef class Records:
    """Walks over all blocks of the records of one kind. `next` gives their locators, then 0."""

    @staticmethod
    cdef Records over(Segment segment, uint32_t kind):
        cdef Records walk = Records.__new__(Records)
        walk.segment, walk.a, walk.kind = segment, &segment.a, kind
        walk.chunk, walk.block, walk.block_size = 0, 0, 0
        return walk

    cdef uint32_t next(self) noexcept nogil:
        """The next block in use."""
        cdef uint32_t loc = self.next_of_all()
        while loc != 0 and not self.used:
            loc = self.next_of_all()
        return loc

    cdef uint32_t next_of_all(self) noexcept nogil:
        """The next block, in use or not."""
        cdef uint64_t word, used
        cdef uint32_t block
        while self.chunk < self.a.hdr.chunk_count:
            if self.block == 0:
                word = load64(&self.a.chunk_words[self.chunk])
                if self.kind == CHUNK_TASKS and (word & 0xffff) == (CHUNK_RUN | RUN_TASK << 8):
                    self.used = True
                    self.chunk += 1
                    return locator(self.a, self.a.chunks + (self.chunk - 1) * CHUNK_SIZE)
                if (word & 0xff) != self.kind:
                    self.chunk += 1
                    continue
                self.block_size = class_size((word >> 8) & 0x1f)
            if self.block < CHUNK_SIZE // self.block_size:
                block = self.block
                self.block += 1
                used = load64(&self.a.chunk_records[self.chunk].used[block >> 6])
                self.used = used >> (block & 63) & 1
                return locator(
                    self.a,
                    self.a.chunks + self.chunk * CHUNK_SIZE + <uint64_t>block * self.block_size)
            self.block = 0
            self.chunk += 1
        return 0
