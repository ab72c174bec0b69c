"""Which objects are in the store's memory, and taking some of them out: one thread's work.

Carries out what core/eviction.py decides, with the primitives of _native/residence.pyx and the
files of spill.py. Every method but `restore` runs on room.py's one working thread, so that nothing
is taken out twice; none touches the event loop. All block, some for as long as a disk does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rostral_objectstore._native import elsewhere, failpoints, headroom, residence
from rostral_objectstore._native.heap import Heap
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore.compactor import Compactor
from rostral_objectstore.core.eviction import Candidate, Key, choose, choose_copies
from rostral_objectstore.errors import (
    ObjectCorruptError,
    ObjectElsewhereError,
    ObjectNotFoundError,
    OutOfDiskError,
)
from rostral_objectstore.layout import CHUNK_BYTES, ObjectState
from rostral_objectstore.spill import SpillStore
from rostral_objectstore.spill_file import Entry, Item

logger = logging.getLogger("rostral.objectstore.room")

# Chunks of records looked at in one go: about two milliseconds in which nobody else runs.
WALK_CHUNKS = 8
# Written in one go: large enough for a disk, small enough that whoever waits soon sees the room.
BATCH_BYTES = 16 << 20
# While at it, so much more of the store than was asked for is freed if that costs no write.
SLACK_SHARE = 1 / 32


class CachedCopies:
    """Copies of objects that are safe on other nodes: kept until their room is wanted.

    A plain dict under the interpreter's lock: any thread may add, the working thread drops.
    """

    def __init__(self) -> None:
        self._handles: dict[Key, Handle] = {}

    def add(self, handle: Handle) -> None:
        """Keeps the object, whoever else lets it go."""
        self._handles[handle.loc, handle.version] = handle

    def drop(self, key: Key) -> None:
        """Lets it go: when nobody else on the node holds it, its memory is free."""
        self._handles.pop(key, None)

    def keys(self) -> frozenset[Key]:
        """What is kept at the moment."""
        return frozenset(tuple(self._handles))

    def clear(self) -> None:
        """Lets all go."""
        self._handles.clear()


@dataclass(slots=True)
class Counts:
    """What has happened since the start."""

    dropped: int = 0
    evicted: int = 0
    spilled: int = 0
    restored: int = 0
    lost: int = 0


class Residents:
    """The objects in memory, and their copies on disk.

    Args:
        table: the store daemon's own.
        spill: where objects are written to; None: they only leave memory if safe elsewhere.
    """

    def __init__(self, table: ObjectTable, spill: SpillStore | None) -> None:
        self.cached = CachedCopies()
        self.counts = Counts()
        self.compactor = Compactor(table)
        self.disk_error: OutOfDiskError | None = None
        self._table, self._spill = table, spill
        # Under the interpreter's lock, like the cached copies: an entry too many or too few is no
        # more than a worse choice.
        self._restored: dict[Key, int] = {}

    # ---- looking

    def fits(self, want_bytes: int, run_bytes: int) -> bool:
        """Whether there are `want_bytes`, and somewhere `run_bytes` in one piece."""
        free, longest = headroom.free_chunks(self._table.segment)
        return free * CHUNK_BYTES >= want_bytes and longest * CHUNK_BYTES >= run_bytes

    def free_bytes(self) -> int:
        """In chunks that nobody has."""
        return headroom.free_chunks(self._table.segment)[0] * CHUNK_BYTES

    def candidates(self, size_bytes_min: int = 0) -> list[Candidate]:
        """Every sealed object that lies in a block of its own."""
        found: list[Candidate] = []
        start = 0
        while True:
            start, some = residence.candidates(self._table, start, WALK_CHUNKS, size_bytes_min)
            found += (Candidate(*one) for one in some)
            if start == 0:
                return found

    # ---- taking out

    def free(self, want_bytes: int, run_bytes: int, *, urgent: bool = False) -> bool:
        """Takes objects out of memory until there is that much room. Whether anything changed.

        With `urgent`, the last reserve of the disk is used too.
        """
        segment = self._table.segment
        self._ask_for_slabs()
        if self.fits(want_bytes, run_bytes) or self._close_gaps(want_bytes, run_bytes):
            return True
        need_bytes = max(want_bytes - self.free_bytes(), run_bytes)
        slack_bytes = int(segment.capacity * SLACK_SHARE)
        on_disk = self._on_disk()
        choice = choose(
            self.candidates(),
            need_bytes=need_bytes + slack_bytes,
            cached=self.cached.keys(),
            on_disk=on_disk,
            can_write=self._spill is not None and self._spill.accepts,
            restored=self._restored,
        )
        freed_bytes = self._drop(choice.drop)
        freed_bytes += sum(one.size_bytes for one in choice.evict if self._evict(one))
        for batch in _batches(choice.spill):
            if freed_bytes >= need_bytes and self.fits(want_bytes, run_bytes):
                break
            written = self._write(batch, urgent=urgent)
            freed_bytes += sum(one.size_bytes for one in written if self._evict(one))
        if freed_bytes == 0:
            freed_bytes += self._evict_copied(need_bytes)
        self._ask_for_slabs()
        logger.debug("freed bytes=%s wanted=%s", freed_bytes, want_bytes)
        fits = self.fits(want_bytes, run_bytes) or self._close_gaps(want_bytes, run_bytes)
        return fits or freed_bytes > 0

    def copy_ahead(self, ready_bytes: int) -> bool:
        """Writes a batch of the oldest objects, which stay in memory. False: nothing to write.

        Args:
            ready_bytes: how much should be able to leave memory with no write.
        """
        if self._spill is None or not self._spill.accepts:
            return False
        copies = choose_copies(
            self.candidates(),
            need_bytes=ready_bytes,
            cached=self.cached.keys(),
            on_disk=self._on_disk(),
        )
        batch = next(_batches(copies), [])
        return bool(batch) and bool(self._write(batch))

    def _on_disk(self) -> frozenset[Key]:
        return frozenset() if self._spill is None else self._spill.keys()

    def _hold(self, key: Key, id: bytes) -> Handle | None:
        try:
            return self._table.adopt(Handle, *key, id)
        except ObjectNotFoundError:
            return None

    def _ask_for_slabs(self) -> None:
        """Has everybody give empty slabs back, ourselves included: restored objects lie in ours."""
        headroom.ask_for_slabs(self._table.segment)
        Heap(self._table.segment).trim()

    def _drop(self, victims: Sequence[Candidate]) -> int:
        for one in victims:
            self.cached.drop(one.key)
        self.counts.dropped += len(victims)
        return sum(one.size_bytes for one in victims)

    def _evict(self, one: Candidate) -> bool:
        """Frees the block of an object that has its copy on disk."""
        handle = self._hold(one.key, one.id)
        if handle is None or not residence.evict(self._table, handle):
            return False
        self.counts.evicted += 1
        self._restored.pop(one.key, None)
        return True

    def _evict_copied(self, need_bytes: int) -> int:
        """When no disk takes anything: what has its copy goes, however young it is."""
        choice = choose(
            self.candidates(),
            need_bytes=need_bytes,
            cached=(),
            on_disk=self._on_disk(),
            can_write=False,
        )
        return sum(one.size_bytes for one in choice.evict if self._evict(one))

    def _write(self, batch: Sequence[Candidate], *, urgent: bool = False) -> list[Candidate]:
        """Writes the objects to disk; as many as it takes. Returns those that have a copy now."""
        written: list[Candidate] = []
        while batch:
            written, self.disk_error = self._try_to_write(batch, urgent=urgent)
            if self.disk_error is None:
                break
            batch = batch[: len(batch) // 2]
        self.counts.spilled += len(written)
        return written

    def _try_to_write(
        self, batch: Sequence[Candidate], *, urgent: bool
    ) -> tuple[list[Candidate], OutOfDiskError | None]:
        """All of them or none; those gone meanwhile, or inline, are left out.

        The error has no traceback: that would hold the items, and they the objects in memory.
        """
        assert self._spill is not None
        items, written = [], []
        for one in batch:
            handle = self._hold(one.key, one.id)
            found = None if handle is None else headroom.peek(self._table, handle)
            if found is not None:
                items.append(Item(one.key, one.id, *found))
                written.append(one)
        try:
            if items:
                self._spill.write(items, urgent=urgent)
        except OutOfDiskError as error:
            return [], error.with_traceback(None)
        return written, None

    def _close_gaps(self, want_bytes: int, run_bytes: int) -> bool:
        """Moves objects until `run_bytes` of what is free lie in one piece, if enough is free."""
        if self.free_bytes() < max(want_bytes, run_bytes):
            return False
        return self.compactor.make_run(-(-run_bytes // CHUNK_BYTES))

    # ---- bringing back

    def restore(self, handle: Handle) -> bool:
        """Reads a spilled object back. False: there is no room. On any thread, one for an object.

        Raises:
            ObjectCorruptError: the disk has lost it; so it says from now on.
            ObjectElsewhereError: it is not on this node.
            OSError: it cannot be read now.
        """
        if self._table.state(handle) != ObjectState.SPILLED:
            return True
        if elsewhere.is_elsewhere(self._table, handle):
            raise ObjectElsewhereError(
                f"the bytes of object {handle.hex()} are on another node, or nowhere any more",
                hint="processes of the cluster read it: they know how to have it brought here",
            )
        key = handle.loc, handle.version
        size_bytes = residence.block_size(self._table, handle)
        buffer = residence.begin_restore(self._table, handle)
        if buffer is None:
            if self._spill is not None:
                # The disk needs longer than it takes to make room: it may begin.
                self._spill.expect(key)
            return False
        failpoints.hit("restore.room")
        try:
            if self._spill is None or self._spill.size_bytes(key) != size_bytes:
                raise ObjectCorruptError(f"object {handle.hex()} has no copy on disk")
            self._spill.read(key, buffer)
        except ObjectCorruptError:
            residence.lose(self._table, handle)
            self.counts.lost += 1
            raise
        failpoints.hit("restore.read")
        if residence.finish_restore(self._table, handle, buffer):
            self.counts.restored += 1
            self._restored[key] = self._table.segment.tick
        return True

    # ---- the disk

    def reclaim(self) -> None:
        """Gives the disk back what belongs to deleted objects."""
        if self._spill is None:
            return
        Heap(self._table.segment).trim()
        keys = list(self._spill.keys())
        if keys:
            gone = headroom.gone(self._table, keys)
            self._spill.forget(gone)
            for key in gone:
                self._restored.pop(key, None)
        for entry in self._spill.upkeep():
            self._lose_copy(entry)

    def _lose_copy(self, entry: Entry) -> None:
        """A copy turned out to be damaged: an object in memory has none now, another is lost."""
        handle = self._hold(entry.key, entry.id)
        if handle is None:
            return
        if residence.lose(self._table, handle):
            self.counts.lost += 1
        else:
            residence.forget_copy(self._table, handle)


def _batches(candidates: Iterable[Candidate]) -> Iterator[list[Candidate]]:
    """In their order, in batches worth a write."""
    batch: list[Candidate] = []
    size_bytes = 0
    for one in candidates:
        batch.append(one)
        size_bytes += one.size_bytes
        if size_bytes >= BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
