"""Room for those who find the store full, and the bytes of spilled objects for those who read them.

The daemon's event loop sees only this: requests come in, are gathered, and are answered when one
working thread (residents.py) has made room for all of them at once, or when there is none to be
made. An object that many want back is read once. Above a share of the store, the oldest objects are
copied to disk before anybody asks.

A call that takes long is answered "not yet" after a moment, and the caller asks again: so a process
whose one thread waits for room does not keep the others from asking for something else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from rostral_objectstore._native import elsewhere, residence
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore.config import StoreConfig
from rostral_objectstore.control import Body
from rostral_objectstore.core.eviction import Candidate, Key
from rostral_objectstore.errors import (
    ObjectStoreError,
    ObjectStoreFullError,
    OutOfDiskError,
)
from rostral_objectstore.layout import CHUNK_BYTES, SlotKind
from rostral_objectstore.residents import Residents
from rostral_objectstore.spill import SpillStore

logger = logging.getLogger("rostral.objectstore.room")

ANSWER_WITHIN_S = 0.25
TICK_S = 0.1
RECLAIM_TICKS = 10
READERS = 4
# Between two looks for room when the last one freed nothing: somebody may have let go.
RETRY_S = (0.001, 0.005, 0.01, 0.02, 0.05)
HOLDERS_NAMED = 3

_T = TypeVar("_T")


@dataclass(eq=False, slots=True)
class _Request:
    """Somebody who waits for room."""

    size_bytes: int
    patient: bool
    """Waits for more than one round."""
    urgent: bool
    """For what exists already."""
    answer: asyncio.Future[bool]
    """Whether it is worth to try again."""

    @property
    def chunk_bytes(self) -> int:
        """What it takes of the store, in whole chunks."""
        return -(-max(self.size_bytes, 1) // CHUNK_BYTES) * CHUNK_BYTES


class Room:
    """Makes room in a store, and brings back what had to leave it.

    Args:
        table: the store daemon's own.
        config: of the store.

    Raises:
        ConfigError: a spill directory cannot be used.
    """

    def __init__(self, table: ObjectTable, config: StoreConfig) -> None:
        self._table, self._config = table, config
        self._spill = _open_spill(config, table.segment.incarnation)
        on_disk = residence.undo_leaving(table)
        elsewhere.undo_reviving(table)
        if self._spill is not None:
            self._spill.recover(on_disk)
        self._residents = Residents(table, self._spill)
        self.cached = self._residents.cached
        self._worker = ThreadPoolExecutor(1, "rostral-room")
        self._readers = ThreadPoolExecutor(READERS, "rostral-restore")
        self._waiting: list[_Request] = []
        self._serving: asyncio.Task[None] | None = None
        self._restoring: dict[Key, asyncio.Task[ObjectStoreError | None]] = {}
        self._upkeep: asyncio.Task[None] | None = None
        self._tick = 0

    def start(self) -> None:
        """Looks after the store from here on, on the running event loop."""
        self._upkeep = asyncio.get_running_loop().create_task(self._look_after())

    async def stop(self, *, keep_files: bool = False) -> None:
        """Ends what is under way, and deletes the spill files or leaves them to the next daemon."""
        tasks = [self._upkeep, self._serving, *self._restoring.values()]
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(
            None, partial(self._close, keep_files=keep_files)
        )

    def _close(self, *, keep_files: bool) -> None:
        self._worker.shutdown()
        self._readers.shutdown()
        self.cached.clear()
        if self._spill is not None:
            self._spill.close(keep=keep_files)

    # ---- room

    async def make(self, size_bytes: int, *, waited_s: float, urgent: bool = False) -> bool:
        """Whether it is worth to try again to put `size_bytes`; False: ask again.

        Args:
            size_bytes: of one object.
            waited_s: for how long the caller has been asking already.
            urgent: it is for what exists already: the last reserve of the disk may be used.

        Raises:
            ObjectStoreFullError: there was no room to be made in all that time.
            OutOfDiskError: nor does a disk take anything.
        """
        loop = asyncio.get_running_loop()
        left_s = self._config.full_timeout_s - waited_s
        request = _Request(size_bytes, left_s > 0, urgent, loop.create_future())
        if request.chunk_bytes > self._table.segment.capacity:
            raise self._full(size_bytes, [])
        self._waiting.append(request)
        if self._serving is None:
            self._serving = loop.create_task(self._serve())
        try:
            await asyncio.wait([request.answer], timeout=ANSWER_WITHIN_S if left_s > 0 else None)
        finally:
            if request in self._waiting:
                self._waiting.remove(request)
        if request.answer.done() and request.answer.result():
            return True
        if left_s > ANSWER_WITHIN_S:
            return False
        raise self._full(size_bytes, await self._in_worker(self._residents.candidates))

    async def _serve(self) -> None:
        """Makes room for all who wait, in rounds, until nobody does."""
        idle_rounds = 0
        try:
            while self._waiting:
                requests = list(self._waiting)
                want_bytes = sum(one.chunk_bytes for one in requests)
                want_bytes = min(want_bytes, self._table.segment.capacity)
                run_bytes = max(one.chunk_bytes for one in requests)
                urgent = any(one.urgent for one in requests)
                free = partial(self._residents.free, want_bytes, run_bytes, urgent=urgent)
                progress = await self._in_worker(free)
                served = self._answer(requests, progress=progress)
                idle_rounds = 0 if served or progress else idle_rounds + 1
                if self._waiting and not served:
                    await asyncio.sleep(RETRY_S[min(idle_rounds, len(RETRY_S) - 1)])
        finally:
            self._serving = None

    def _answer(self, requests: list[_Request], *, progress: bool) -> bool:
        """Tells those who can try again, and those who do not wait. Whether there were any."""
        free_bytes = self._residents.free_bytes()
        answered = False
        for one in requests:
            fits = one.chunk_bytes <= free_bytes and self._residents.fits(0, one.chunk_bytes)
            # A small object may find its place in a slab of its own process that has room now.
            if fits or (progress and one.chunk_bytes == CHUNK_BYTES):
                free_bytes -= one.chunk_bytes
                self._tell(one, worth_a_try=True)
                answered = True
            elif not one.patient and not progress:
                self._tell(one, worth_a_try=False)
                answered = True
        return answered

    def _tell(self, one: _Request, *, worth_a_try: bool) -> None:
        if not one.answer.done():
            one.answer.set_result(worth_a_try)
        if one in self._waiting:
            self._waiting.remove(one)

    def _full(self, size_bytes: int, candidates: list[Candidate]) -> ObjectStoreFullError:
        segment = self._table.segment
        capacity = segment.capacity
        if size_bytes > capacity:
            return ObjectStoreFullError(
                f"an object of {size_bytes} bytes cannot fit: the whole store has {capacity} bytes",
                hint="start the store with more memory (--memory, object_store_memory)",
            )
        used = capacity - self._residents.free_bytes()
        pinned = sum(one.size_bytes for one in candidates if one.pinned)
        text = (
            f"no room in the store for {size_bytes} bytes in one piece: {used} of {capacity} bytes "
            f"are in use, {pinned} of them being read; the largest holders are {self._holders()}"
        )
        hint = "drop references to objects that are no longer needed, or start the store with more"
        disk = self._residents.disk_error
        if disk is None:
            return ObjectStoreFullError(text, hint=f"{hint} memory")
        error = OutOfDiskError(f"{text}; {disk.message}", hint=f"{hint} memory or disk")
        error.path, error.need_bytes, error.free_bytes = disk.path, disk.need_bytes, disk.free_bytes
        return error

    def _holders(self) -> str:
        """The processes that hold the most bytes, for people."""
        held = residence.holdings(self._table)
        largest = sorted(held.items(), key=lambda item: -item[1][1])[:HOLDERS_NAMED]
        named = []
        for slot, (objects, size_bytes) in largest:
            info = self._table.segment.slot_info(slot)
            kind = SlotKind(info["kind"]).name.lower() if info["kind"] else "process"
            named.append(f"{kind} {info['pid']} ({size_bytes} bytes in {objects} objects)")
        return ", ".join(named) or "none"

    # ---- bringing back

    async def restore(self, handle: Handle) -> bool:
        """Whether a spilled object's bytes are back in memory; False: ask again.

        Raises:
            ObjectCorruptError: the disk has lost it.
            ObjectStoreFullError: there is no room for it.
            ObjectStoreError: it cannot be read now.
        """
        key = handle.loc, handle.version
        task = self._restoring.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._restore(handle))
            self._restoring[key] = task
            task.add_done_callback(lambda _: self._restoring.pop(key, None))
        done, _ = await asyncio.wait([task], timeout=ANSWER_WITHIN_S)
        if not done:
            return False
        error = (
            ObjectStoreError("the store is being stopped") if task.cancelled() else task.result()
        )
        if error is None:
            return True
        try:
            raise copy(error)
        finally:
            # The error's traceback has this frame: no circle that would keep the handle.
            del error, task, done

    async def _restore(self, handle: Handle) -> ObjectStoreError | None:
        """Returns rather than raises what went wrong, for all who asked, with nothing attached."""
        try:
            await self._restore_now(handle)
        except ObjectStoreError as error:
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        return None

    async def _restore_now(self, handle: Handle) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        size_bytes = residence.block_size(self._table, handle)
        try:
            while not await loop.run_in_executor(self._readers, self._residents.restore, handle):
                waited_s = loop.time() - began_s
                while not await self.make(size_bytes, waited_s=waited_s, urgent=True):
                    waited_s = loop.time() - began_s
        except OSError as error:
            raise ObjectStoreError(
                f"object {handle.hex()} cannot be read from disk now: {error.strerror or error}",
                hint="it is still there: try again",
            ) from error

    # ---- upkeep

    async def _look_after(self) -> None:
        """Turns the clock of LRU, copies ahead, and gives disk space back."""
        while True:
            await asyncio.sleep(TICK_S)
            self._tick += 1
            self._table.segment.set_tick(self._tick)
            if self._spill is None:
                continue
            try:
                await self._copy_ahead()
                if self._tick % RECLAIM_TICKS == 0:
                    await self._in_worker(self._residents.reclaim)
            except Exception:
                # One failure must not end the upkeep for good; the next round may fare better.
                logger.exception("upkeep of the spilled objects failed")

    async def _copy_ahead(self) -> None:
        """Has as much of the store ready to leave as it is fuller than it should be."""
        segment = self._table.segment
        used_bytes = segment.capacity - self._residents.free_bytes()
        ready_bytes = used_bytes - int(segment.capacity * self._config.spill_threshold)
        # One batch after the other: who waits for room comes in between.
        while ready_bytes > 0 and await self._in_worker(self._residents.copy_ahead, ready_bytes):
            pass

    async def _in_worker(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *args)

    def stats(self) -> Body:
        """What lies on disk, where, and how often things went to and fro."""
        counts = self._residents.counts
        disk = None if self._spill is None else self._spill.stats()
        return {
            "spilled_objects": 0 if disk is None else disk.objects,
            "spilled_bytes": 0 if disk is None else disk.live_bytes,
            "spill_file_bytes": 0 if disk is None else disk.file_bytes,
            "spill_dirs": list(self._config.spill_directories),
            "spill_writes": counts.spilled,
            "evicted": counts.evicted,
            "restored": counts.restored,
            "dropped_copies": counts.dropped,
            "lost": counts.lost,
            "moved_bytes": self._residents.compactor.moved_bytes,
        }


def _open_spill(config: StoreConfig, incarnation: bytes) -> SpillStore | None:
    if not config.spill_directories:
        return None
    return SpillStore(
        config.spill_directories,
        limit_bytes=config.spill_limit_bytes,
        free_share_min=config.spill_free_share_min,
        incarnation=incarnation,
    )
