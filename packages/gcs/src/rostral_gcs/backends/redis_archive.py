"""Rows of a shard in Redis that have moved to files: found by key and by query.

This file owns what is known of the files and in which order Redis and they are asked. Which files
there are stands in Redis (``redis_archive_layout.py``), so that each service finds what another has
flushed; the files lie in one folder that all of them reach. A row is asked for in Redis first: it
goes from there only after its file is known.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from rostral_gcs.archive.files import ArchiveForm
from rostral_gcs.archive.schema import SCHEMAS, Filter
from rostral_gcs.archive.store import Archive
from rostral_gcs.backends.base import Row
from rostral_gcs.backends.redis_archive_layout import FileNote
from rostral_gcs.backends.redis_layout import Keys, Meta
from rostral_gcs.backends.redis_work import Work
from rostral_gcs.errors import InvalidArgumentError

__all__ = ["Archiving", "RedisArchive", "Side"]

# Whether it is of Redis (1) or of the files, the shard's newest sequence when the query began, and
# for files the number and the last row seen in it. After it, for Redis, the last key seen.
_TOKEN: Final = struct.Struct("<BQIq")
# A query that finds little ends its page after this many rows of Redis, with what it has.
_EXAMINED_MAX: Final = 20_000
_SCAN_ROWS: Final = 1000
_SCAN_BYTES: Final = 4 * 1024 * 1024

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Archiving:
    """Where rows of appended tables go that are over.

    Attributes:
        folder: Of all stores' files, one for each; the same for all services of a store.
        form: Of new files.
        rows_max: Most rows of a shard's appended tables that stay in Redis.
    """

    folder: Path
    form: ArchiveForm
    rows_max: int

    def place(self, cluster_id: bytes, shard: int) -> Path:
        """Where a shard's files lie."""
        return self.folder / cluster_id.hex() / f"shard-{shard:03d}.archive"


class Side(Protocol):
    """A second connection to the shard, for work beside that of its thread."""

    def open(self) -> object:
        """Connects."""
        ...

    def close(self) -> None:
        """Closes."""
        ...

    def ask(self, work: Sequence[Work]) -> list[Any]:
        """Replies to what may be done twice."""
        ...

    @property
    def meta(self) -> Meta:
        """The shard's row, as of the last question."""
        ...

    def live_rows(self, table: int, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that are in Redis."""
        ...

    def scan(
        self, table: int, prefix: bytes, after_key: bytes, limit: int, size_max: int
    ) -> tuple[list[Row], bool]:
        """A page of the rows in Redis."""
        ...


class RedisArchive:
    """The files of one shard.

    Args:
        form: Of new files.
        keys: The shard's.
        make_side: Makes a second connection, not yet open.
    """

    def __init__(self, form: ArchiveForm, keys: Keys, make_side: Callable[[], Side]) -> None:
        self.files = Archive(Path(), form)
        self._keys = keys
        self._make_side = make_side
        self._side: Side | None = None
        self._side_lock = threading.Lock()
        self._known = 0
        self._known_lock = threading.Lock()

    def open(self, folder: Path) -> None:
        """Says where the files lie; the folder is made with the first."""
        self.files.folder = folder

    def close(self) -> None:
        """Closes. May be called twice."""
        with self._side_lock:
            if self._side is not None:
                self._side.close()
                self._side = None
        self.files.close()
        self._known = 0

    def read(
        self,
        table: int,
        keys: Sequence[bytes],
        archived: int,
        ask: Callable[[Sequence[Work]], list[Any]],
    ) -> dict[bytes, Row]:
        """The newest row of each key that is in a file.

        Args:
            table: Its number.
            keys: Not in Redis.
            archived: The newest file's number when they were looked for there.
            ask: Asks Redis.

        Raises:
            StorageError: A file is not there, or damaged.
        """
        self.learn(archived, ask)
        return self.files.read(table, keys)

    def learn(self, archived: int, ask: Callable[[Sequence[Work]], list[Any]]) -> None:
        """Takes in which files there are, up to this number at least."""
        with self._known_lock:
            if archived <= self._known:
                return
        for number, note in self.notes(ask).items():
            if number > self._known:
                self.files.take(note.table, number)
        with self._known_lock:
            self._known = max(self._known, archived)

    def notes(self, ask: Callable[[Sequence[Work]], list[Any]]) -> Mapping[int, FileNote]:
        """All files that Redis knows of, by number."""
        (found,) = ask([("HGETALL", self._keys.archive)])
        pairs = zip(found[::2], found[1::2], strict=True)
        return {int(number): FileNote.decode(bytes(text)) for number, text in sorted(pairs)}

    def live_rows(self, table: int, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that are in Redis, asked for on the second connection."""
        return self.beside(lambda side: side.live_rows(table, keys))

    def put_in_order(self, table: int) -> None:
        """Has the keys of all rows that were appended up to now in the table's index."""
        self.beside(lambda side: side.scan(table, b"", b"", 1, 1))

    def ask(self, work: Sequence[Work]) -> list[Any]:
        """Replies to what may be done twice, on the second connection."""
        return self.beside(lambda side: side.ask(work))

    def beside(self, work: Callable[[Side], _T]) -> _T:
        """Does some work on the second connection; one caller at a time."""
        with self._side_lock:
            if self._side is None:
                side = self._make_side()
                side.open()
                self._side = side
            return work(self._side)

    # --- Queries ---------------------------------------------------------------------------

    def query(
        self, table: int, filters: Sequence[Filter], *, limit: int, token: bytes
    ) -> tuple[list[Row], bytes]:
        """A page of rows that meet all filters: first those in Redis, then those in files.

        In this order none that is flushed meanwhile is missed; it may come twice. Any thread may
        call it.

        Raises:
            InvalidArgumentError: The token is none of ours.
        """
        of_redis, began, number, after, key = _parse(token)
        rows: list[Row] = []
        if of_redis:
            if not token:
                self.beside(lambda side: side.ask([]))
                began = self.beside(lambda side: side.meta.last_sequence)
            rows, key, is_over = self._query_redis(table, filters, limit, key)
            if not is_over:
                return rows, _TOKEN.pack(1, began, 0, -1) + key
        if len(rows) < limit:
            self.beside(lambda side: self.learn(side.meta.archived, side.ask))
            page, number, after = self._query_files(
                table, filters, limit - len(rows), (number, after), began
            )
            rows += page
            if number < 0:
                return rows, b""
        return rows, _TOKEN.pack(0, began, number, after)

    def _query_redis(
        self, table: int, filters: Sequence[Filter], limit: int, after_key: bytes
    ) -> tuple[list[Row], bytes, bool]:
        """Rows, the last key that was looked at, and whether there are no more."""
        schema = SCHEMAS[table]
        places = {name: at for at, name in enumerate(schema.columns)}
        tests = [(places[one.column], one) for one in filters]
        rows: list[Row] = []
        examined = 0
        while examined < _EXAMINED_MAX:
            page, more = self._scan(table, after_key)
            for row in page:
                if len(rows) == limit:
                    return rows, after_key, False
                after_key = row.key
                cells = schema.cells(row.key, row.value) if tests else ()
                if all(one.holds(cells[place]) for place, one in tests):
                    rows.append(row)
            examined += len(page)
            if not more or not page:
                return rows, after_key, True
        return rows, after_key, False

    def _scan(self, table: int, after_key: bytes) -> tuple[list[Row], bool]:
        return self.beside(lambda side: side.scan(table, b"", after_key, _SCAN_ROWS, _SCAN_BYTES))

    def _query_files(
        self,
        table: int,
        filters: Sequence[Filter],
        room: int,
        position: tuple[int, int],
        began: int,
    ) -> tuple[list[Row], int, int]:
        """Rows, and the position after them; a number below 0 after the last file."""
        number, after = position
        for one in self.files.numbers(table):
            if one < number:
                continue
            if one > number:
                after = -1
            file = self.files.file(table, one)
            found = [] if file is None else file.find(SCHEMAS[table], filters, after, room)
            if found:
                keys = [row.key for _, row in found]
                live = self.live_rows(table, keys)
                # What was in Redis when the query began has been told; what came later was not.
                rows = [
                    row for _, row in found if row.key not in live or live[row.key].version > began
                ]
                if len(found) == room:
                    return rows, one, found[-1][0]
                if rows:
                    return rows, one + 1, -1
        return [], -1, -1


def _parse(token: bytes) -> tuple[bool, int, int, int, bytes]:
    if not token:
        return True, 0, 0, -1, b""
    try:
        of_redis, began, number, after = _TOKEN.unpack_from(token)
    except struct.error as error:
        raise InvalidArgumentError(
            f"page token of {len(token)} bytes is none", hint="give back the one of the page before"
        ) from error
    return bool(of_redis), began, number, after, token[_TOKEN.size :]
