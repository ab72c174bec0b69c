"""The object table: what one process does with objects, as Python sees it.

Owns buffers, and how values are written and read. What happens in shared memory is in objects.pyx;
which objects there are, and how their values look inside, is told by layout.h.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from rostral_objectstore._native.buffer cimport ObjectBuffer, new_buffer
from rostral_objectstore._native.compound cimport (
    buffer_start, compound_size, copy_buffers, copy_in, head_size, is_well_formed, lay_out,
    note_head, noted_start, references_in, table_of)
from rostral_objectstore._native.handle cimport Handle, new_handle
from rostral_objectstore._native.heap cimport allocate
from rostral_objectstore._native.index cimport hash_id, index_find
from rostral_objectstore._native.failpoints cimport *
from rostral_objectstore._native.layout cimport *
from rostral_objectstore._native.layout cimport object as object_record
from rostral_objectstore._native.objects cimport (
    add_flag, begin_write, count_references, created_by, drop, hold, holder_bits,
    new_object, pin, seal, set_bit, undo_created, unpin)
from rostral_objectstore._native.pages cimport peek
from rostral_objectstore._native.segment cimport Segment, at, attachment, is_object, wake_slot
from rostral_objectstore._native.shortage cimport bring_back, no_room, recover_lost
from rostral_objectstore._native.waiting cimport (
    all_of_segment, find_misfit, split_sealed, wait_sealed)

from weakref import WeakValueDictionary

from rostral_objectstore.errors import (
    ObjectAlreadyExistsError, ObjectFreedError, ObjectNotFoundError, ObjectStateError,
    StoreClosedError)

# Names that are only cimported are none for Python; other packages import them from here.
globals()["Handle"] = Handle
globals()["ObjectBuffer"] = ObjectBuffer

cdef extern from "<unistd.h>" nogil:
    int usleep(uint32_t microseconds)

cdef enum:
    # A value up to this size is copied out rather than pinned.
    COPIED_MAX = 4096
    # What is read of a large value before it is mapped: enough for the form of a few arrays.
    PEEKED_SIZE = 512
    # How often, and how far apart, a put looks again whether others gave empty slabs back.
    FULL_TRIES = 20
    FULL_PAUSE_US = 1000
    # How often a put asks the daemon for room: others may be quicker to take what it made.
    ROOM_TRIES = 100

STATE_NAMES = ("free", "pending", "created", "sealed", "deleting", "lost", "spilled", "freed")


cdef class ObjectTable:
    """What this process does with objects: create, seal, find, read, wait, hold and drop.

    Nothing here blocks but `wait`, and a put that finds the store full, for some milliseconds.
    Methods that take a Handle trust its hold; methods that make one return it held. All raise
    StoreClosedError after `close` and in a forked child.
    """

    def __init__(self, Segment segment not None):
        self.segment = segment
        self.written = WeakValueDictionary()

    @property
    def buffer_count(self):
        """How many buffers of this process's live: each pins an object."""
        return self.segment.a.buffer_count

    def set_daemon(self, *, restore, make_room):
        """How this process asks the store daemon, which its own table does without.

        Args:
            restore: called with the handle of a spilled object; blocks until its bytes are back in
                memory, or raises.
            make_room: called with a number of bytes that found no room; returns when it is worth
                to try again, or raises ObjectStoreFullError.
        """
        self.restore, self.make_room = restore, make_room

    cdef attachment *_open(self) except NULL:
        if self.segment.a.closed:
            raise StoreClosedError(
                "this process is no longer attached to the store",
                hint="it was closed, or this is a forked child: attach again")
        return &self.segment.a

    cdef _check(self, Handle handle):
        """A list may hold anything: None, and handles of another store."""
        if handle is None:
            raise TypeError("expected a handle, not None")
        if handle.segment is not self.segment:
            raise ValueError(f"object {handle.hex()} belongs to another store")

    cdef uint32_t _allocate(self, uint64_t size) except 0:
        """A block, once others had the time to give their empty slabs back. ObjectStoreFullError.

        The GIL is released while it waits: the caller looks again at whether the store is open.
        """
        cdef attachment *a = &self.segment.a
        cdef uint32_t loc = allocate(a, size), i
        cdef int tries = 0
        if loc != 0 or size > a.hdr.chunk_count * CHUNK_SIZE:
            if loc == 0:
                raise no_room(a, size)
            return loc
        while loc == 0 and self.make_room is not None and tries < ROOM_TRIES:
            tries += 1
            self.make_room(size)
            self._open()
            loc = allocate(a, size)
        if loc != 0:
            return loc
        tries = 0
        add32(&a.hdr.trim_wanted, 1)
        for i in range(MAX_SLOTS):
            if i != a.my_slot and load32(&a.slots[i].sleeping) != 0:
                wake_slot(a, i)
        while loc == 0 and tries < FULL_TRIES:
            tries += 1
            with nogil:
                usleep(FULL_PAUSE_US)
            self._open()
            loc = allocate(a, size)
        if loc == 0:
            raise no_room(a, size)
        return loc

    cdef uint32_t _record(
            self, bytes id, uint64_t state, uint64_t flags, bint *existed) except 0:
        if len(id) != 20:
            raise ValueError(f"an object id has 20 bytes, not {len(id)}")
        return self._new(<const uint8_t *><char *>id, state, flags, existed)

    cdef uint32_t _new(
            self, const uint8_t *id, uint64_t state, uint64_t flags, bint *existed) except 0:
        """`new_object`, once there is room for a record. ObjectStoreFullError."""
        cdef uint32_t loc = new_object(self._open(), id, state, flags, existed), tries = 0
        while loc == 0 and self.make_room is not None and tries < ROOM_TRIES:
            tries += 1
            self.make_room(CHUNK_SIZE)
            loc = new_object(self._open(), id, state, flags, existed)
        if loc == 0:
            raise no_room(self._open(), CHUNK_SIZE)
        return loc

    # ---- writing

    def put(self, object cls, bytes id not None, uint32_t kind, bytes inband not None,
            list buffers not None, list contained not None, uint32_t flags=0):
        """Creates and seals an object in one go. Returns its handle, of class `cls`.

        Args:
            id: 20 bytes.
            kind: how to read it; opaque here.
            inband: the value, or its in-band part when there are buffers.
            buffers: objects with contiguous buffers, copied to 64-byte boundaries.
            contained: handles of the objects that the value refers to; kept as long as this one.
            flags: OBJECT_FLAG_ERROR or 0.

        Raises: ObjectAlreadyExistsError, ObjectStoreFullError, StoreClosedError.
        """
        cdef attachment *a = self._open()
        cdef bint existed = False
        cdef uint32_t loc = self._record(id, OBJECT_CREATED, 0, &existed)
        cdef Handle handle = new_handle(cls, self.segment, loc)
        if existed and not begin_write(a, loc):
            raise self._exists(id)
        self._fill(handle, kind, inband, buffers, contained, flags)
        return handle

    def fill(self, Handle handle not None, uint32_t kind, bytes inband not None,
             list buffers not None, list contained not None, uint32_t flags=0):
        """Writes and seals an object that is expected (PENDING). False: it is sealed already."""
        cdef attachment *a = self._open()
        self._check(handle)
        if not begin_write(a, handle.loc):
            return False
        self._fill(handle, kind, inband, buffers, contained, flags)
        return True

    def fill_at(self, uint32_t loc, uint32_t kind, bytes inband not None, list buffers not None,
                list contained not None, uint32_t flags=0):
        """`fill` for a result of the task that this process runs, or repairs.

        The task keeps the record in place.
        """
        cdef attachment *a = self._open()
        if not begin_write(a, loc):
            return False
        a.held[loc] += 1
        if a.held[loc] == 1:
            set_bit(a, <object_record *>at(a, loc))
        self._fill(new_handle(Handle, self.segment, loc), kind, inband, buffers, contained, flags)
        return True

    cdef _fill(self, Handle handle, uint32_t kind, bytes inband, list buffers, list contained,
               uint32_t flags):
        """Writes and seals an object CREATED by this process, or puts it back to PENDING."""
        cdef attachment *a = &self.segment.a
        cdef object_record *o = <object_record *>at(a, handle.loc)
        cdef uint64_t size = PyBytes_GET_SIZE(inband)
        o.kind = kind
        if not buffers and not contained and size <= INLINE_SIZE:
            o.size = size
            memcpy(o.value, PyBytes_AS_STRING(inband), size)
            seal(a, handle.loc, flags | OBJECT_FLAG_INLINE)
            return
        try:
            if buffers or contained:
                for inner in contained:
                    self._check(inner)
                views = [memoryview(buffer).cast("B") for buffer in buffers]
                sizes = [view.nbytes for view in views]
                size = compound_size(size, sizes, contained)
                store32(&o.data, self._allocate(size))
                FAILPOINT(a.plan, PUT_STEP_NAMED)
                o.size = size
                lay_out(a, <compound *>at(a, o.data), inband, sizes, contained)
                note_head(<short_head *>o.value, <compound *>at(a, o.data), size)
                copy_buffers(a, <compound *>at(a, o.data), 0, views)
                FAILPOINT(a.plan, PUT_STEP_LAID_OUT)
                self._open()
                count_references(a, o, len(contained))
                flags |= OBJECT_FLAG_COMPOUND
            else:
                store32(&o.data, self._allocate(size))
                o.size = size
                copy_in(a, <char *>at(a, o.data), PyBytes_AS_STRING(inband), size)
                FAILPOINT(a.plan, PUT_STEP_COPIED)
        except BaseException:
            if not a.closed:
                undo_created(a, handle.loc, a.my_slot)
            raise
        self._open()  # another thread may have closed it during the copy
        seal(a, handle.loc, flags)

    def create(self, object cls, bytes id not None, uint64_t size, uint32_t kind,
               bytes inband=None, list beside not None=[]):
        """A writable buffer of `size` bytes in the store. Returns (handle, buffer); `seal` it.

        With an `inband` part, the writable buffer is the value's first one, and those `beside` it,
        flat memoryviews, follow, copied at once; without, it is the whole value.
        """
        cdef attachment *a = self._open()
        cdef bint existed = False
        cdef ObjectBuffer buffer
        cdef char *start
        if size > a.hdr.chunk_count * CHUNK_SIZE:
            raise no_room(a, size)
        cdef uint32_t loc = self._record(id, OBJECT_CREATED, 0, &existed)
        cdef Handle handle = new_handle(cls, self.segment, loc)
        cdef object_record *o = <object_record *>at(a, loc)
        if existed and not begin_write(a, loc):
            raise self._exists(id)
        o.kind = kind
        try:
            if inband is None:
                store32(&o.data, self._allocate(size if size else 1))
                FAILPOINT(a.plan, CREATE_STEP_NAMED)
                o.size = size
                start = <char *>at(a, o.data)
            else:
                start = self._create_compound(o, inband, size, beside)
        except BaseException:
            if not a.closed:
                undo_created(a, loc, a.my_slot)
            raise
        buffer = new_buffer(self.segment, loc, start, size, False)
        self.written[loc] = buffer
        return handle, buffer

    cdef char *_create_compound(
            self, object_record *o, bytes inband, uint64_t size, list beside) except NULL:
        cdef list sizes = [size, *[view.nbytes for view in beside]]
        cdef uint64_t total = compound_size(PyBytes_GET_SIZE(inband), sizes, [])
        cdef compound *c
        store32(&o.data, self._allocate(total))
        o.size = total
        c = <compound *>at(&self.segment.a, o.data)
        lay_out(&self.segment.a, c, inband, sizes, [])
        note_head(<short_head *>o.value, c, total)
        copy_buffers(&self.segment.a, c, 1, beside)
        self._open()
        add_flag(o, OBJECT_FLAG_COMPOUND)
        return buffer_start(c, 0)

    def seal(self, Handle handle not None):
        """Publishes an object that this process created.

        Views of the writable buffer must not be written any more.
        """
        self._check(handle)
        self._publish(handle, 0)

    def seal_raw(self, Handle handle not None, uint32_t flags):
        """Publishes bytes that `read_raw` gave elsewhere, with the flags that it gave.

        Raises ValueError when the bytes are not what the flags say, or refer to other objects.
        """
        self._check(handle)
        cdef object_record *o = <object_record *>at(self._open(), handle.loc)
        if flags & ~<uint32_t>(OBJECT_FLAG_ERROR | OBJECT_FLAG_COMPOUND):
            raise ValueError(f"an object cannot be sealed with flags {flags:#x}")
        if flags & OBJECT_FLAG_COMPOUND and (
                o.data == 0 or not is_well_formed(<compound *>at(&self.segment.a, o.data), o.size)):
            raise ValueError(f"the bytes of object {handle.hex()} are not what they should be")
        if flags & OBJECT_FLAG_COMPOUND:
            note_head(<short_head *>o.value, <compound *>at(&self.segment.a, o.data), o.size)
        self._publish(handle, flags)

    cdef _publish(self, Handle handle, uint32_t flags):
        if not seal(self._open(), handle.loc, flags):
            raise self._not_ours(handle, "sealed", "only its creator can seal an object, once")
        self.written.pop(handle.loc, None)

    def abort(self, Handle handle not None):
        """Gives up an object that this process created and has not sealed.

        While a view of its buffer lives, the memory is not used for anything else.
        """
        cdef attachment *a = self._open()
        cdef object_record *o = <object_record *>at(a, handle.loc)
        cdef ObjectBuffer buffer
        self._check(handle)
        buffer = self.written.pop(handle.loc, None)
        if buffer is not None and o.data != 0 and created_by(a, o):
            buffer.block = o.data
            store32(&o.data, 0)
            FAILPOINT(a.plan, ABORT_STEP_UNNAMED)
        if not undo_created(a, handle.loc, a.my_slot):
            raise self._not_ours(
                handle, "aborted", "only its creator can abort an object, before it is sealed")

    def _exists(self, bytes id):
        return ObjectAlreadyExistsError(
            f"object {id.hex()} already exists", hint="objects are immutable: use another id")

    def _not_ours(self, Handle handle, what, hint):
        return ObjectStateError(
            f"object {handle.hex()} is {STATE_NAMES[self.state(handle)]} and cannot be {what}",
            hint=hint)

    # ---- finding and reading

    def expect(self, object cls, bytes id not None):
        """A handle of the object with the id, which may not exist yet: `wait` waits for it."""
        cdef bint existed = False
        cdef uint32_t loc = self._record(id, OBJECT_PENDING, 0, &existed)
        return new_handle(cls, self.segment, loc)

    def find(self, object cls, bytes id not None):
        """A handle of the object with the id, or None when the node does not know it."""
        cdef attachment *a = self._open()
        if len(id) != 20:
            raise ValueError(f"an object id has 20 bytes, not {len(id)}")
        cdef const uint8_t *key = <const uint8_t *><char *>id
        cdef uint32_t loc
        cdef object_record *o
        while True:
            loc = index_find(a, key, hash_id(key))
            if loc == 0:
                return None
            o = <object_record *>at(a, loc)
            if hold(a, loc, load64(&o.word) >> 32):
                if memcmp(o.id, key, 20) == 0:
                    return new_handle(cls, self.segment, loc)
                drop(a, loc)

    def adopt(self, object cls, uint32_t loc, uint32_t version, bytes id not None):
        """A handle from a reference that another process sent. Raises ObjectNotFoundError."""
        if len(id) != 20:
            raise ObjectNotFoundError(f"{id.hex()} is no object's id")
        return self._adopt(cls, loc, version, PyBytes_AS_STRING(id))

    def adopt_packed(self, object cls, bytes packed not None):
        """`adopt` from what Handle.packed gave. Raises ObjectNotFoundError, ValueError."""
        if PyBytes_GET_SIZE(packed) != 28:
            raise ValueError(f"a packed reference has 28 bytes, not {len(packed)}")
        cdef uint32_t *p = <uint32_t *>PyBytes_AS_STRING(packed)
        return self._adopt(cls, p[5], p[6], <char *>p)

    cdef Handle _adopt(self, object cls, uint32_t loc, uint32_t version, const char *id):
        cdef attachment *a = self._open()
        cdef Handle handle
        if is_object(a, loc) and hold(a, loc, version):
            handle = new_handle(cls, self.segment, loc)
            if memcmp(handle.id_bytes, id, 20) == 0:
                return handle
        raise ObjectNotFoundError(
            f"object {id[:20].hex()} is gone from this node",
            hint="keep a reference to what you pass on")

    def share(self, object cls, Handle handle not None):
        """One more handle of the same object."""
        cdef attachment *a = self._open()
        self._check(handle)
        a.held[handle.loc] += 1
        return new_handle(cls, self.segment, handle.loc)

    def adopt_held(self, object cls, uint32_t loc):
        """A handle of an object that another process holds for us: of the running task."""
        cdef attachment *a = self._open()
        if not is_object(a, loc) or not hold(
                a, loc, load64(&(<object_record *>at(a, loc)).word) >> 32):
            raise ObjectNotFoundError(f"the object at locator {loc} is gone from this node")
        return new_handle(cls, self.segment, loc)

    cdef uint64_t _pin_sealed(self, Handle handle) except? 0:
        """Pins a sealed object, back from disk if it must be. Returns its word; 0: not sealed.

        An inline value cannot go away: it is not pinned. Raises ObjectLostError, ObjectFreedError,
        and what the daemon says.
        """
        cdef attachment *a = self._open()
        cdef object_record *o = <object_record *>at(a, handle.loc)
        cdef uint64_t word
        self._check(handle)
        while True:
            word = load64(&o.word)
            if not IS_READY(word):
                return 0
            if (word & 0xff) == OBJECT_LOST:
                recover_lost(self.recover, handle)
                self._open()
                continue
            if (word & 0xff) == OBJECT_FREED:
                raise ObjectFreedError.of(handle.hex())
            o.last_used = a.hdr.tick
            if (word >> 8) & OBJECT_FLAG_INLINE or pin(a, handle.loc):
                return word
            if (load64(&o.word) & 0xff) == OBJECT_SPILLED:
                bring_back(self.restore, self.recover, handle, load64(&o.word))
                self._open()

    def read(self, Handle handle not None):
        """(kind, is_error, in-band value, buffers) of a sealed object; None when it is not sealed.

        The in-band part is bytes when small or when there are buffers, else an ObjectBuffer;
        buffers are ObjectBuffers, read-only, each keeping the object held and in memory. Blocks
        while a spilled object comes back from disk.

        Raises: ObjectLostError, ObjectFreedError, ObjectStoreFullError, StoreUnavailableError.
        """
        cdef uint64_t word = self._pin_sealed(handle)
        cdef attachment *a = &self.segment.a
        cdef object_record *o = <object_record *>at(a, handle.loc)
        cdef uint32_t flags = (word >> 8) & 0xff
        cdef bint error = flags & OBJECT_FLAG_ERROR
        if word == 0:
            return None
        if flags & OBJECT_FLAG_INLINE:
            return o.kind, error, PyBytes_FromStringAndSize(<char *>o.value, o.size), ()
        try:
            return self._read_block(handle.loc, o, error, flags)
        finally:
            unpin(a, handle.loc)

    cdef tuple _read_block(self, uint32_t loc, object_record *o, bint error, uint32_t flags):
        cdef attachment *a = &self.segment.a
        cdef char *block = <char *>at(a, load32(&o.data))
        cdef compound *c = <compound *>block
        cdef short_head *noted = <short_head *>o.value
        cdef char[PEEKED_SIZE] head
        cdef uint64_t *table
        cdef uint64_t start, i
        if not flags & OBJECT_FLAG_COMPOUND:
            if o.size <= COPIED_MAX:
                return o.kind, error, PyBytes_FromStringAndSize(block, o.size), ()
            return o.kind, error, new_buffer(self.segment, loc, block, o.size, True), ()
        if noted.inband_size != 0:
            start = noted_start(noted)
            inband = PyBytes_FromStringAndSize(<char *>noted.inband, noted.inband_size)
            return o.kind, error, inband, [new_buffer(
                self.segment, loc, block + start, o.size - start - noted.padding, True)]
        # With a view of it alive, its pages are likely to have been touched.
        if (o.size > LARGEST_BLOCK and a.held[loc + 1] == 1 and peek(a, block, head, PEEKED_SIZE)
                and head_size(<compound *>head) <= PEEKED_SIZE):
            c = <compound *>head
        table = table_of(c)
        buffers = [new_buffer(self.segment, loc, block + table[2 * i], table[2 * i + 1], True)
                   for i in range(c.buffer_count)]
        inband = PyBytes_FromStringAndSize(<char *>(table + 2 * c.buffer_count), c.inband_size)
        return o.kind, error, inband, buffers

    def read_raw(self, Handle handle not None):
        """(kind, flags, bytes or ObjectBuffer) of a sealed object; None when it is not sealed.

        The bytes as they lie in the store, for `create` and `seal_raw` of another one, or for
        a disk. `flags` are ERROR and COMPOUND. Blocks as `read` does, and raises the same.
        """
        cdef uint64_t word = self._pin_sealed(handle)
        cdef attachment *a = &self.segment.a
        cdef object_record *o = <object_record *>at(a, handle.loc)
        cdef uint32_t flags = (word >> 8) & (OBJECT_FLAG_ERROR | OBJECT_FLAG_COMPOUND)
        if word == 0:
            return None
        if (word >> 8) & OBJECT_FLAG_INLINE:
            return o.kind, flags, PyBytes_FromStringAndSize(<char *>o.value, o.size)
        try:
            return o.kind, flags, new_buffer(self.segment, 
                handle.loc, <char *>at(a, load32(&o.data)), o.size, True)
        finally:
            unpin(a, handle.loc)

    def references(self, Handle handle not None):
        """The ids of the objects that a sealed object's value refers to. Blocks as `read` does."""
        cdef uint64_t word = self._pin_sealed(handle)
        cdef attachment *a = &self.segment.a
        cdef object_record *o = <object_record *>at(a, handle.loc)
        if word == 0 or (word >> 8) & OBJECT_FLAG_INLINE:
            return []
        try:
            if not (word >> 8) & OBJECT_FLAG_COMPOUND:
                return []
            return references_in(<compound *>at(a, load32(&o.data)))
        finally:
            unpin(a, handle.loc)

    def state(self, Handle handle not None):
        """As layout.ObjectState."""
        return load64(&(<object_record *>at(&self.segment.a, handle.loc)).word) & 0xff

    def state_slot(self, Handle handle not None):
        """The slot that brought the object into its state: of a created one, its writer's."""
        return load64(&(<object_record *>at(&self.segment.a, handle.loc)).word) >> 16 & 0xffff

    def is_sealed(self, Handle handle not None):
        """Whether nobody need wait for it: sealed, in memory or on disk, lost or freed since."""
        return bool(IS_READY(load64(&(<object_record *>at(&self.segment.a, handle.loc)).word)))

    def size(self, Handle handle not None):
        """Bytes of a sealed object's value."""
        return (<object_record *>at(&self.segment.a, handle.loc)).size

    def holder_slots(self, Handle handle not None):
        """Slots of the processes that hold the object at this moment."""
        cdef attachment *a = &self.segment.a
        cdef object_record *o = <object_record *>at(&self.segment.a, handle.loc)
        cdef uint32_t i
        cdef uint64_t bits
        slots = []
        for i in range(SLOT_WORDS):
            bits = holder_bits(a, o, i)
            slots += [i * 64 + bit for bit in range(64) if bits >> bit & 1]
        return slots

    def held_elsewhere(self, Handle handle not None):
        """Whether another process, or a sealed object's value, refers to the object."""
        cdef attachment *a = self._open()
        cdef object_record *o = <object_record *>at(a, handle.loc)
        cdef uint32_t i
        cdef uint64_t bits
        if CONTAINERS_COUNT(load64(&o.containers)) != 0:
            return True
        for i in range(SLOT_WORDS):
            bits = holder_bits(a, o, i)
            if i == a.my_slot >> 6:
                bits &= ~(<uint64_t>1 << (a.my_slot & 63))
            if bits != 0:
                return True
        return False

    # ---- waiting

    def wait(self, list handles not None, Py_ssize_t ready_count, int64_t timeout_ns,
             bint stop_at_error=False):
        """Blocks until `ready_count` of the handles' objects are sealed, or the timeout has passed.

        With `stop_at_error`, also until one of them is sealed as an error. A handle that is twice
        in the list counts twice. `timeout_ns` < 0: no timeout. Releases the GIL while it waits.
        Signals are handled; what a handler raises comes out of here. Returns how many were seen
        sealed.
        """
        self._open()
        if not all_of_segment(self.segment, handles):
            for handle in handles:
                self._check(handle)
        return wait_sealed(self.segment, handles, ready_count, timeout_ns, stop_at_error)

    def split(self, list handles not None, Py_ssize_t ready_max):
        """(ready, others): the first `ready_max` handles of sealed objects, and the rest, in order.

        The handles must have passed `first_misfit`.
        """
        self._open()
        return split_sealed(self.segment, handles, ready_max)

    def first_misfit(self, object cls, list handles not None):
        """The index of the first item that is no `cls` of this store, or names an object again.

        -1: there is none. `cls` must be Handle or a subclass of it.
        """
        self._open()
        return find_misfit(self.segment, cls, handles)
