"""What a runtime needs of a node: in a cluster another process has it, inline this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rostral_objectstore._native.handle import Handle
from rostral_objectstore._native.segment import Segment
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore._native.task import Tasks
from rostral_objectstore.control import Body


class Store(Protocol):
    """An attachment to shared memory."""

    @property
    def segment(self) -> Segment:
        """The memory."""

    @property
    def slot(self) -> int:
        """This process's slot in it."""

    @property
    def table(self) -> ObjectTable:
        """Its objects."""

    @property
    def tasks(self) -> Tasks:
        """Its tasks."""

    def free(self, handles: Sequence[Handle]) -> None:
        """Gives the values of objects up, whoever holds them. ValueError for another store's."""

    def close(self) -> None:
        """Gives up every hold. Idempotent."""


class Scheduler(Protocol):
    """Who decides what may run: queues, actors, and what is known of the cluster."""

    def call(self, method: str, body: Body) -> Body:
        """Asks. Raises what the scheduler does, StoreUnavailableError when it does not answer."""

    def close(self) -> None:
        """Ends the conversation. Idempotent."""
