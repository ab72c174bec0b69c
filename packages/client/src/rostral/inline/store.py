"""The store of one process: a segment that nobody else maps."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence

from rostral_objectstore._native import freeing
from rostral_objectstore._native.handle import Handle
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore._native.task import Tasks
from rostral_objectstore.errors import ObjectLostError, ObjectStoreFullError
from rostral_objectstore.layout import SlotKind


class InlineStore:
    """What a StoreClient is to a Runtime, without a daemon.

    Nothing is spilled: a full store is an error at once.

    Args:
        memory_bytes: room for objects; pages are taken as they are used.
        node_id: 16 bytes.
        job_id: 16 bytes.

    Raises: OutOfMemoryError.
    """

    def __init__(self, memory_bytes: int, node_id: bytes, job_id: bytes) -> None:
        cpu_count = len(os.sched_getaffinity(0))
        self.segment = Segment.create(memory_bytes, node_id, cpu_count, huge_pages=False)
        self.slot = self.segment.claim_slot(os.getpid(), 0, SlotKind.DRIVER, bytes(16), job_id)
        self.segment.use_slot(self.slot)
        self.table = ObjectTable(self.segment)
        self.table.set_daemon(restore=_restore, make_room=_make_room)
        self.tasks = Tasks(self.table)

    def free(self, handles: Sequence[Handle]) -> None:
        """Gives the values of objects up, whoever holds them. ValueError for another store's."""
        for handle in handles:
            freeing.free(self.table, handle)

    def close(self) -> None:
        """Gives up every object. Idempotent."""
        self.segment.close()


def _make_room(size_bytes: int) -> None:
    # What only a cycle keeps is garbage.
    if gc.collect() == 0:
        raise ObjectStoreFullError(
            f"no room in the store for {size_bytes} bytes, and inline nothing is spilled",
            hint="drop references, or give it more memory (object_store_memory)",
        )


def _restore(handle: Handle) -> None:
    raise ObjectLostError(f"object {handle.hex()} is not in memory", object_ref_hex=handle.hex())
