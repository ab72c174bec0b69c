"""Rows that a shard in Redis is known to have, so that a write on them need not read them again.

Pure: no I/O. A commit is compare-and-set on the shard's generation, so a plan made on what is kept
here is refused by Redis when others have written meanwhile; nothing wrong is ever stored or told. A
writer who writes the same rows again and again, which is what compare-and-set is for, saves one of
its two round trips.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from rostral_gcs.backends.base import Change, Row

__all__ = ["KnownRows", "Moment"]

Moment = tuple[int, int]
"""Epoch and generation: what a shard held then never changes."""

SIZE_MAX: Final = 8 * 1024 * 1024
"""Bytes of keys and values; with more, it begins anew."""
_ROW_SIZE: Final = 200  # About what a row costs beside its bytes.

_Place = tuple[int, bytes]


class KnownRows:
    """The rows of one moment, as far as they are known; None for one that does not exist.

    Invariant: all of them are of ``_moment``.

    Args:
        leave_out: Numbers of tables whose rows are not kept, since they change in other ways, too.
    """

    def __init__(self, leave_out: Collection[int] = ()) -> None:
        self._leave_out = frozenset(leave_out)
        self._rows: dict[_Place, Row | None] = {}
        self._moment: Moment = (-1, -1)
        self._size = 0

    def find(
        self, moment: Moment, wanted: Mapping[int, Sequence[bytes]]
    ) -> dict[_Place, Row] | None:
        """Those that exist among the wanted, by table; None when not all are known."""
        found: dict[_Place, Row] = {}
        if not any(wanted.values()):
            return found
        if moment != self._moment:
            return None
        for table, keys in wanted.items():
            for key in keys:
                try:
                    row = self._rows[table, key]
                except KeyError:
                    return None
                if row is not None:
                    found[table, key] = row
        return found

    def learn(
        self, moment: Moment, wanted: Mapping[int, Sequence[bytes]], rows: Mapping[_Place, Row]
    ) -> None:
        """Takes in what was read: the wanted keys, and those of them that exist."""
        self._move(moment)
        for table, keys in wanted.items():
            for key in keys if table not in self._leave_out else ():
                self._put((table, key), rows.get((table, key)))

    def apply(self, before: Moment, after: Moment, changes: Iterable[Change]) -> None:
        """Takes in a commit of our own, which led from one moment to the next."""
        if before != self._moment:
            self._move(after)
            return
        self._moment = after
        for change in changes:
            row = None
            if change.value is not None:
                row = Row(change.key, change.value, change.sequence)
            if (change.table, change.key) in self._rows:
                self._put((change.table, change.key), row)

    def _move(self, moment: Moment) -> None:
        if moment != self._moment:
            self._rows.clear()
            self._size = 0
            self._moment = moment

    def _put(self, place: _Place, row: Row | None) -> None:
        size = _ROW_SIZE + len(place[1]) + (len(row.value) if row is not None else 0)
        self._size += size
        if self._size > SIZE_MAX:
            self._rows.clear()
            self._size = size
        self._rows[place] = row
