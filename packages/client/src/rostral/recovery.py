"""How this process comes by objects that have no bytes on its node: it asks the scheduler.

That brings them from where they are, or has their tasks run again. To whoever reads, it is a read
that takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rostral.object_ref import ObjectRef
from rostral.seams import Scheduler
from rostral_objectstore._native import elsewhere
from rostral_objectstore._native.handle import Handle
from rostral_objectstore._native.table import ObjectTable

AHEAD_MAX = 100
"""What is asked for at once: as many fetches as keep the network busy."""


class Recovery:
    """Brings objects to this node, or has them made again. Thread-safe.

    Attributes:
        ahead: What is about to be read too: those of them that are elsewhere come at the same time.
    """

    def __init__(self, table: ObjectTable, scheduler: Scheduler) -> None:
        self._table, self._scheduler = table, scheduler
        self.ahead: Sequence[ObjectRef[Any]] = ()

    def recover(self, handle: Handle) -> None:
        """Returns when it is worth to look at the object again. Blocks.

        Raises ObjectLostError, ObjectStoreFullError, StoreUnavailableError.
        """
        wanted = [handle.packed(), *self._next_ones(handle)]
        while not self._scheduler.call("bring", {"objects": wanted})["here"]:
            pass

    def _next_ones(self, handle: Handle) -> list[bytes]:
        found: list[bytes] = []
        refs = iter(self.ahead)
        for ref in refs:
            if ref == handle:
                break
        for ref in refs:
            if len(found) == AHEAD_MAX:
                break
            if elsewhere.is_elsewhere(self._table, ref):
                found.append(ref.packed())
        return found
