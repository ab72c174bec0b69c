"""What a shard's journal has and its database has not yet: rows and answers that reads must see.

Pure: no I/O. Applying one commit takes the database longer than syncing its record, and the next
request is there before it is done. So commits gather here and are applied together, when nobody
waits or when there are many; until then, who looks for a row or an answer by its key finds it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rostral_gcs.backends.base import Answer, Change, Row

__all__ = ["COUNT_MAX", "SIZE_MAX", "Unsettled"]

COUNT_MAX: Final = 128
"""Commits; with more, the one request that then waits for all of them would wait too long."""
SIZE_MAX: Final = 1 << 20
"""Bytes of values."""


class Unsettled:
    """Commits in their order, and what is to be found of them by key.

    Attributes:
        changes: Of all commits.
        answers: Of all commits, by request.
    """

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.answers: dict[bytes, Answer] = {}
        self._rows: dict[tuple[int, bytes], Row | None] = {}
        self._commit_count = 0
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._commit_count)

    @property
    def is_full(self) -> bool:
        """Whether it must be applied before more is added."""
        return self._commit_count >= COUNT_MAX or self._size >= SIZE_MAX

    def add(self, changes: Sequence[Change], answers: Sequence[Answer]) -> None:
        """Takes a commit in."""
        self._commit_count += 1
        self.changes += changes
        for change in changes:
            row = None
            if change.value is not None:
                self._size += len(change.value)
                row = Row(change.key, change.value, change.sequence)
            self._rows[change.table, change.key] = row
        for answer in answers:
            self.answers[answer.request_id] = answer

    def clear(self) -> None:
        """Forgets all: the database has it."""
        self.changes = []
        self.answers = {}
        self._rows = {}
        self._commit_count = self._size = 0

    def find(self, table: int, keys: Sequence[bytes], found: dict[bytes, Row]) -> Sequence[bytes]:
        """Puts the rows that are here into ``found``; the keys that the database must be asked."""
        if not self._rows:
            return keys
        rest: list[bytes] = []
        for key in keys:
            place = table, key
            if place not in self._rows:
                rest.append(key)
            elif (row := self._rows[place]) is not None:
                found[key] = row
        return rest
