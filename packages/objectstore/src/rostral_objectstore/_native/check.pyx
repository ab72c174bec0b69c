"""The rules of layout.h, held against a whole segment that is at rest.

For tests and soaks: `check` reads everything, changes nothing, and says in a sentence each what is
not as it should be. At rest means that no process is within a call, and that the dead are buried.
A block that only a process's private memory names (of an aborted object with views) is reported.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp

from rostral_objectstore._native.compound cimport note_head
from rostral_objectstore._native.heap cimport ORPHAN_SLOT, class_size, initial_word
from rostral_objectstore._native.index cimport hash_id, index_find
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport contained as contained_ref, object as object_record
from rostral_objectstore._native.objects cimport holder_bits, is_pinned
from rostral_objectstore._native.records cimport Records
from rostral_objectstore._native.segment cimport (
    Segment, at, attachment, is_object, locator, slot_is_live, wide_of)
from rostral_objectstore._native.table cimport ObjectTable


def check(ObjectTable table not None):
    """What breaks a rule, a sentence each; an empty list is a sound segment."""
    cdef Checker checker = Checker.__new__(Checker)
    checker.segment, checker.a = table.segment, &table.segment.a
    checker.found, checker.blocks, checker.names, checker.counts = [], {}, {}, {}
    checker.chunks()
    checker.slots()
    checker.index()
    checker.objects()
    checker.containers()
    checker.tasks()
    checker.naming()
    return checker.found


cdef class Checker:
    """One look at the segment. Walks its parts in turn and compares in the end."""

    cdef Segment segment
    cdef attachment *a
    cdef list found
    cdef dict blocks  # data blocks in use: locator to size
    cdef dict names   # what names a block: locator to (whose, bytes needed)
    cdef dict counts  # how often sealed values refer to an object, by its locator

    cdef wrong(self, text):
        self.found.append(text)

    # ---- the heap

    cdef chunks(self):
        cdef uint64_t i = 0, word, length
        cdef uint32_t kind
        while i < self.a.hdr.chunk_count:
            word = load64(&self.a.chunk_words[i])
            kind, length = word & 0xff, word >> 32
            if kind in (CHUNK_RUN, CHUNK_QUEUE):
                i += self.run(i, word)
                continue
            if kind == CHUNK_FREE and word != 0:
                self.wrong(f"chunk {i} is free, but its word is {word:#x}")
            elif kind == CHUNK_CLAIMED:
                self.wrong(f"chunk {i} is still claimed by slot {(word >> 16) & 0xffff}")
            elif kind == CHUNK_BODY:
                self.wrong(f"chunk {i} is the body of no run")
            elif kind in (CHUNK_SLAB, CHUNK_OBJECTS, CHUNK_TASKS):
                self.slab(i, word)
            elif kind != CHUNK_FREE:
                self.wrong(f"chunk {i} is of no kind: {word:#x}")
            i += 1

    cdef uint64_t run(self, uint64_t head, uint64_t word):
        """A large block or a queue. Returns how many chunks it has."""
        cdef uint64_t length = word >> 32, i, body
        if length == 0 or head + length > self.a.hdr.chunk_count:
            self.wrong(f"the run at chunk {head} has {length} chunks")
            return 1
        for i in range(1, length):
            body = load64(&self.a.chunk_words[head + i])
            if (body & 0xff) != CHUNK_BODY or body >> 32 != i:
                self.wrong(f"chunk {head + i} is {body:#x}, not body {i} of the run at {head}")
                return i
        if (word & 0xffff) == CHUNK_RUN:
            self.blocks[self.locator_of(head)] = length * CHUNK_SIZE
        elif (word & 0xff) == CHUNK_QUEUE and (
                <queue *>(self.a.chunks + head * CHUNK_SIZE)).magic != QUEUE_MAGIC:
            self.wrong(f"there is no queue in the chunk {head} of a queue")
        return length

    cdef slab(self, uint64_t chunk, uint64_t word):
        cdef uint32_t class_ = (word >> 8) & 0xff, owner = (word >> 16) & 0xffff, size, i
        cdef uint64_t used, freed, unfit
        if class_ >= CLASS_COUNT or word >> 32 != 1:
            self.wrong(f"the slab at chunk {chunk} has the word {word:#x}")
            return
        if owner != ORPHAN_SLOT and not slot_is_live(self.a, owner):
            self.wrong(f"the slab at chunk {chunk} belongs to slot {owner}, which is not live")
        size = class_size(class_)
        for i in range(16):
            used = load64(&self.a.chunk_records[chunk].used[i])
            freed = load64(&self.a.chunk_records[chunk].freed[i])
            unfit = initial_word(size, i)
            if used & unfit != unfit:
                self.wrong(f"chunk {chunk} offers blocks beyond its end")
            if freed & (~used | unfit) != 0 or (freed != 0 and (word & 0xff) != CHUNK_SLAB):
                self.wrong(f"chunk {chunk} has freed blocks that are not in use")
            if (word & 0xff) == CHUNK_SLAB:
                used &= ~unfit & ~freed
                for bit in range(64):
                    if used >> <uint32_t>bit & 1:
                        self.blocks[self.locator_of(chunk) + (i * 64 + bit) * (size >> 6)] = size

    cdef locator_of(self, uint64_t chunk):
        return locator(self.a, self.a.chunks + chunk * CHUNK_SIZE)

    # ---- slots and the index

    cdef slots(self):
        cdef uint32_t i
        cdef slot *s
        for i in range(MAX_SLOTS):
            s = &self.a.slots[i]
            if s.state == SLOT_DEAD or s.state == SLOT_REPAIRED:
                self.wrong(f"slot {i} is dead and not buried")
            if s.state != SLOT_FREE and i >= self.a.hdr.slot_count:
                self.wrong(f"slot {i} is in use, beyond the {self.a.hdr.slot_count} given out")
            if s.releasing != 0:
                self.wrong(f"slot {i} is releasing the block {s.releasing:#x}")
            if s.locking != 0:
                self.wrong(f"slot {i} is locking the index group {s.locking - 1}")
            if s.count_object != 0:
                self.wrong(f"slot {i} is counting for the object {s.count_object:#x}")

    cdef index(self):
        cdef uint64_t group, bucket
        cdef uint32_t i
        cdef object_record *o
        for group in range(self.a.hdr.index_group_count):
            if self.a.index[group].lock != 0:
                self.wrong(f"index group {group} is locked by {self.a.index[group].lock - 1}")
            for i in range(7):
                bucket = self.a.index[group].bucket[i]
                if bucket == 0:
                    continue
                o = <object_record *>at(self.a, <uint32_t>bucket)
                if not is_object(self.a, <uint32_t>bucket):
                    self.wrong(f"index group {group} names {<uint32_t>bucket:#x}, no record")
                elif (o.word & 0xff) == OBJECT_FREE or hash_id(o.id) >> 32 != bucket >> 32:
                    self.wrong(f"index group {group} names a record {<uint32_t>bucket:#x} that "
                               f"has another id or none")

    # ---- objects

    cdef objects(self):
        cdef Records walk = Records.over(self.segment, CHUNK_OBJECTS)
        cdef uint32_t loc = walk.next_of_all()
        cdef object_record *o
        while loc != 0:
            o = <object_record *>at(self.a, loc)
            if (o.word & 0xff) != OBJECT_FREE and walk.used:
                self.record(loc, o)
            elif walk.used:
                self.wrong(f"the record {loc:#x} is in use and has no object, by slot "
                           f"{(o.word >> 16) & 0xffff}")
            elif (o.word & 0xff) != OBJECT_FREE:
                self.wrong(f"the record {loc:#x} is not in use, but has an object")
            self.bits(loc, o, walk.used)
            loc = walk.next_of_all()

    cdef bits(self, uint32_t loc, object_record *o, bint used):
        """Who holds and pins the record."""
        cdef uint32_t i
        cdef uint64_t holders, pins, either
        for i in range(SLOT_WORDS if self.a.hdr.wide else 1):
            holders = o.holders if i == 0 else wide_of(self.a, o).holders[i - 1]
            pins = o.pins if i == 0 else wide_of(self.a, o).pins[i - 1]
            if pins & ~holders:
                self.wrong(f"the record {loc:#x} is pinned by slots that do not hold it")
            if (holders or pins) and not used:
                self.wrong(f"the record {loc:#x} is not in use, and held")
            either = holders | pins
            while either != 0:
                if not slot_is_live(self.a, i * 64 + lowest_bit(either)):
                    self.wrong(f"the record {loc:#x} is held by slot "
                               f"{i * 64 + lowest_bit(either)}, which is not live")
                either &= either - 1

    cdef record(self, uint32_t loc, object_record *o):
        """An object: its state, its id, its block."""
        cdef uint32_t state = o.word & 0xff, flags = (o.word >> 8) & 0xff
        cdef uint32_t owner = (o.word >> 16) & 0xffff
        what = f"object {PyBytes_FromStringAndSize(<char *>o.id, 20).hex()} at {loc:#x}"
        if state > OBJECT_FREED:
            self.wrong(f"{what} is in no state: {state}")
        if state == OBJECT_DELETING:
            self.wrong(f"{what} is still being deleted by slot {owner}")
        if state == OBJECT_CREATED and not slot_is_live(self.a, owner):
            self.wrong(f"{what} is being written by slot {owner}, which is not live")
        if index_find(self.a, o.id, hash_id(o.id)) != loc:
            self.wrong(f"{what} is not found by its id")
        if state != OBJECT_DELETING and o.next != 0:
            self.wrong(f"{what} is not being deleted, but has a next one to delete")
        if IS_READY(o.word) and o.dependents != DEPENDENTS_CLOSED:
            self.wrong(f"{what} is sealed, but tasks could still wait for it")
        if state == OBJECT_FREED:
            if o.data != 0 and not is_pinned(self.a, o):
                self.wrong(f"{what} is freed and not read, and has a block")
        elif (flags & OBJECT_FLAG_INLINE or state == OBJECT_PENDING) and o.data != 0:
            self.wrong(f"{what} has a block that it needs not")
        if state == OBJECT_SEALED and not flags & OBJECT_FLAG_INLINE and o.data == 0:
            self.wrong(f"{what} is sealed and has no bytes")
        if self.kept_by_nobody(o):
            self.wrong(f"{what} is kept by nobody")
        if o.data != 0:
            self.name(o.data, what, 0 if flags & OBJECT_FLAG_SPILLED else o.size)
            if flags & OBJECT_FLAG_COMPOUND and o.data in self.blocks:
                self.references(what, <compound *>at(self.a, o.data), self.blocks[o.data])
                if state == OBJECT_SEALED:
                    self.noted_head(what, o, <compound *>at(self.a, o.data))

    cdef bint kept_by_nobody(self, object_record *o):
        cdef uint32_t i
        for i in range(SLOT_WORDS):
            if holder_bits(self.a, o, i) != 0:
                return False
        return CONTAINERS_COUNT(o.containers) == 0 and not (o.word >> 8) & OBJECT_FLAG_PRODUCER

    cdef noted_head(self, what, object_record *o, compound *c):
        cdef short_head told
        note_head(&told, c, o.size)
        if memcmp(&told, o.value, 2 + told.inband_size if told.inband_size else 1) != 0:
            self.wrong(f"{what} has another head in its record than in its block")

    cdef references(self, what, compound *c, uint64_t size):
        cdef contained_ref *refs = <contained_ref *>(<char *>c + sizeof(compound))
        cdef uint32_t i
        if (c.counted_count > c.contained_count or c.released_count > c.counted_count
                or sizeof(compound) + c.contained_count * sizeof(contained_ref) > size):
            self.wrong(f"{what} counts {c.released_count} to {c.counted_count} of its "
                       f"{c.contained_count} references")
            return
        for i in range(c.released_count, c.counted_count):
            if not is_object(self.a, refs[i].loc) or refs[i].version != <uint32_t>(
                    (<object_record *>at(self.a, refs[i].loc)).word >> 32):
                self.wrong(f"{what} refers to {refs[i].loc:#x}, which is another object by now")
            self.counts[refs[i].loc] = self.counts.get(refs[i].loc, 0) + 1

    cdef containers(self):
        """Every object counts the references to it, in values, and no more."""
        cdef Records walk = Records.over(self.segment, CHUNK_OBJECTS)
        cdef uint32_t loc = walk.next_of_all()
        while loc != 0:
            counted = CONTAINERS_COUNT((<object_record *>at(self.a, loc)).containers)
            if counted != self.counts.get(loc, 0):
                self.wrong(f"the record {loc:#x} counts {counted} references to it, but there are "
                           f"{self.counts.get(loc, 0)}")
            loc = walk.next_of_all()

    # ---- tasks, and what names what

    cdef tasks(self):
        cdef Records walk = Records.over(self.segment, CHUNK_TASKS)
        cdef uint32_t loc = walk.next(), state
        cdef task *t
        while loc != 0:
            t = <task *>at(self.a, loc)
            state = t.word & 0xff
            if state == TASK_FREE or state > TASK_DONE:
                self.wrong(f"the record {loc:#x} is in use and has no task: {t.word:#x}")
            elif state == TASK_CLAIMED and not slot_is_live(self.a, (t.word >> 16) & 0xffff):
                self.wrong(f"the task at {loc:#x} is claimed by a slot that is not live")
            elif t.payload != 0:
                self.name(t.payload, f"the task at {loc:#x}", t.payload_size)
            loc = walk.next()

    cdef name(self, uint32_t block, whose, uint64_t size):
        if block in self.names:
            self.wrong(f"the block {block:#x} is named by {whose} and by {self.names[block][0]}")
        self.names[block] = (whose, size)

    cdef naming(self):
        """Every block in use has one name, and every name a block that is large enough."""
        for block, (whose, size) in self.names.items():
            if block not in self.blocks:
                self.wrong(f"{whose} names {block:#x}, which is no block in use")
            elif self.blocks[block] < size:
                self.wrong(f"{whose} needs {size} bytes, its block has {self.blocks[block]}")
        for block in self.blocks:
            if block not in self.names:
                self.wrong(f"the block {block:#x} of {self.blocks[block]} bytes has no name")
