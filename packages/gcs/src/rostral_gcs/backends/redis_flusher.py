"""Flushing from Redis: what is over moves to files, so that a shard's memory stays under its cap.

This file owns when that begins and the order of its steps. A thread takes the oldest keys, writes
those rows of them that are over to a file, tells Redis of the file, and only then deletes the rows,
each if it was not written since. Whichever step a death interrupts, each row is in Redis or in a
file that Redis knows of, and whoever flushes next ends what was begun.

All services of a store may do that; one at a time does, for each shard.
"""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rostral_gcs.archive.schema import SCHEMAS
from rostral_gcs.backends.base import Columns, Row
from rostral_gcs.backends.redis_archive import RedisArchive
from rostral_gcs.backends.redis_archive_layout import (
    CLAIM,
    CLEAR,
    FINISH,
    REGISTER,
    RELEASE,
    FileNote,
)
from rostral_gcs.backends.redis_layout import Keys, Script
from rostral_gcs.backends.redis_work import Call
from rostral_gcs.errors import (
    ControlPlaneFullError,
    GcsError,
    GcsOverloadedError,
    StorageUnavailableError,
)
from rostral_gcs.tables.registry import TABLES

__all__ = ["RedisFlusher"]

logger = logging.getLogger("rostral.gcs.flush")

# A flush begins when this share of the rows allowed is there, and ends below it.
_BEGIN_SHARE: Final = 0.6
# When less than this share of what was looked at could go, there is a pause before the next look.
_GAIN_SHARE_MIN: Final = 0.05
_RETRY_S: Final = 0.5
# Rows of one file at most: they are in our memory while it is written.
_FILE_ROWS_MAX: Final = 50_000
_READ_ROWS: Final = 2000
_BATCHES: Final = 64
_CLEAR_ROWS: Final = 500  # About a millisecond of the server's time.
_CARRY_ROWS: Final = 2000
_CLAIM_MS: Final = 30_000
_WIDTH: Final = struct.Struct("<I")
_VERSION: Final = struct.Struct(">Q")
_TASKS: Final = TABLES["tasks"].number


@dataclass(slots=True)
class _Taken:
    """The oldest batches of a table, and the rows that they name."""

    batches: int = 0
    width: int = 0
    over: list[Row] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)


class _TakenOverError(Exception):
    """Another service flushes this shard now."""


class RedisFlusher:
    """Flushes one shard. Its methods are for the shard's thread.

    Args:
        archive: Where to.
        keys: The shard's.
        name: Of this service, to be told from others.
        rows_max: Most rows of all appended tables that Redis may hold.
    """

    def __init__(self, archive: RedisArchive, keys: Keys, *, name: bytes, rows_max: int) -> None:
        self._archive = archive
        self._keys = keys
        self._name = name
        self._rows_max = rows_max
        self._file_rows_max = max(1, min(_FILE_ROWS_MAX, rows_max // 8))
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._next_look_s = 0.0
        # Until when another service is taken to be at it.
        self._others_until_s = 0.0
        self._counts: dict[int, int] = {}
        self.last_error = ""

    @property
    def row_count(self) -> int:
        """Rows of all appended tables that are in Redis, as was last heard."""
        return sum(self._counts.values())

    def note(self, table: int, count: int) -> None:
        """How many rows of a table there are now."""
        self._counts[table] = count

    def poll(self) -> None:
        """Begins a flush that is due."""
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread.join()
            self._thread = None
        is_due = self.row_count > self._rows_max * _BEGIN_SHARE
        if is_due and time.monotonic() >= self._next_look_s:
            self._thread = threading.Thread(target=self._run, name="gcs-flush", daemon=True)
            self._thread.start()

    def check_room(self, columns: Sequence[Columns]) -> None:
        """Refuses rows for which there is no room.

        Raises:
            GcsOverloadedError: There soon will be.
            ControlPlaneFullError: There will not, unless tasks end.
        """
        if self.row_count < self._rows_max:
            return
        is_ours = self._thread is not None and self._thread.is_alive()
        if is_ours or time.monotonic() < self._others_until_s:
            raise GcsOverloadedError(
                f"shard {self._keys.meta.decode()}: lineage comes faster than it is flushed",
                hint="try again after a pause",
            )
        if self.row_count < 2 * self._rows_max and all(map(_ends_tasks, columns)):
            return  # What ends tasks is the only way out, so it must be let in.
        error = f": {self.last_error}" if self.last_error else ""
        raise ControlPlaneFullError(
            f"shard {self._keys.meta.decode()} has {self.row_count} rows of lineage in Redis; the "
            f"limit is {self._rows_max}, and they cannot be flushed{error}",
            hint="end tasks before submitting more, free the disk, or raise lineage_memory_max",
        )

    def close(self) -> None:
        """Waits for a flush under way. May be called twice."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def flush_all(self) -> int:
        """Moves all that is over, now; returns how many rows left Redis.

        Raises:
            StorageError: The disk is full or failed, or another service is at it.
        """
        try:
            return self._flush_all()
        except _TakenOverError as error:
            raise StorageUnavailableError(
                f"shard {self._keys.meta.decode()} is being flushed by another service",
                hint="nothing is lost by waiting",
            ) from error

    def _flush_all(self) -> int:
        before = self._count()
        for table in SCHEMAS:
            (length,) = self._ask([("LLEN", self._keys.ages(table))])
            while length > 0:
                batches, _ = self._flush_once(table)
                if not batches:
                    break
                length -= batches
        self._release()
        return before - self._count()

    # --- The thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            gained = looked = 0
            while not self._stopped.is_set():
                count = self._count()
                if count <= self._rows_max * _BEGIN_SHARE or looked > count:
                    break
                table = max(SCHEMAS, key=self._table_count)
                batches, (rows, over) = self._flush_once(table)
                if not batches:
                    break
                looked += rows
                gained += over
            self._count()
            self._release()
            self.last_error = ""
            if gained < looked * _GAIN_SHARE_MIN or not looked:
                self._next_look_s = time.monotonic() + _RETRY_S
        except _TakenOverError:
            self._next_look_s = time.monotonic() + _RETRY_S
            self._others_until_s = time.monotonic() + 2 * _RETRY_S
        except GcsError as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("shard=%s flush failed", self._keys.meta.decode())
            self._fail(repr(error))

    def _fail(self, text: str) -> None:
        self.last_error = text
        self._next_look_s = time.monotonic() + _RETRY_S
        logger.error("shard=%s cannot be flushed: %s", self._keys.meta.decode(), text)

    def _ask(self, work: Sequence[Any]) -> list[Any]:
        return self._archive.ask(work)

    def _count(self) -> int:
        return sum(map(self._table_count, SCHEMAS))

    def _table_count(self, table: int) -> int:
        self.note(table, int(self._ask([("HLEN", self._keys.rows(table))])[0]))
        return self._counts[table]

    def _step(self, script: Script, keys: Sequence[bytes], *arguments: object) -> None:
        """One step, which is refused once another service has taken over."""
        (done,) = self._ask([Call(script, list(keys), [self._name, *arguments])])
        if not done:
            raise _TakenOverError

    def _release(self) -> None:
        self._ask([Call(RELEASE, [self._keys.meta], [self._name])])

    def _flush_once(self, table: int) -> tuple[int, tuple[int, int]]:
        """Flushes some; how many batches, how many rows were looked at, how many left."""
        (number,) = self._ask([Call(CLAIM, [self._keys.meta], [self._name, _CLAIM_MS])])
        if not number:
            raise _TakenOverError
        self._end_open(number)
        taken = self._take(table)
        note = FileNote(table, taken.batches, is_open=True)
        if taken.over:
            self._archive.files.write(number, SCHEMAS[table], taken.over, take=False)
            meta_archive = [self._keys.meta, self._keys.archive]
            self._step(REGISTER, meta_archive, number, note.encode())
            self._clear(table, taken.over)
        self._finish(number, note, list(_packed(taken.width, taken.kept)))
        logger.debug("number=%d flushed rows=%d", number, len(taken.over))
        return taken.batches, (len(taken.over) + len(taken.kept), len(taken.over))

    def _end_open(self, number: int) -> None:
        """Ends what somebody has begun who is dead, or was away for too long."""
        notes = self._archive.notes(self._ask)
        self._archive.files.remove_unknown(number, notes)
        for earlier, note in notes.items():
            if not note.is_open or earlier == number:
                continue
            self._archive.files.take(note.table, earlier)
            file = self._archive.files.file(note.table, earlier)
            assert file is not None
            rows = [row for _, row in file.find(SCHEMAS[note.table], [], -1, _FILE_ROWS_MAX)]
            self._clear(note.table, rows)
            taken = self._take(note.table, batches=note.batches)
            kept = [*taken.kept, *(row.key for row in taken.over)]
            self._finish(earlier, note, list(_packed(taken.width, kept)))

    def _take(self, table: int, *, batches: int | None = None) -> _Taken:
        """The oldest keys and their rows; as many batches, or as many as fill a file."""
        taken = _Taken()
        keys: dict[bytes, None] = {}
        while len(keys) < self._file_rows_max if batches is None else taken.batches < batches:
            at = taken.batches
            last = at + _BATCHES if batches is None else min(at + _BATCHES, batches)
            (found,) = self._ask([("LRANGE", self._keys.ages(table), at, last - 1)])
            for packed in found:
                (taken.width,) = _WIDTH.unpack_from(packed)
                keys.update(dict.fromkeys(_unpacked(bytes(packed))))
                taken.batches += 1
                if batches is None and len(keys) >= self._file_rows_max:
                    break
            if not found:
                break
        self._sort(table, list(keys), taken)
        return taken

    def _sort(self, table: int, keys: Sequence[bytes], taken: _Taken) -> None:
        is_over = SCHEMAS[table].is_over
        for at in range(0, len(keys), _READ_ROWS):
            part = keys[at : at + _READ_ROWS]
            for row in self._archive.live_rows(table, part).values():
                if is_over(row.value):
                    taken.over.append(row)
                else:
                    taken.kept.append(row.key)

    def _clear(self, table: int, rows: Sequence[Row]) -> None:
        # A key that waits for that would come into the index when its row is gone.
        self._archive.put_in_order(table)
        keys = [self._keys.meta, self._keys.rows(table), self._keys.index(table)]
        for at in range(0, len(rows), _CLEAR_ROWS):
            pairs: list[object] = []
            for row in rows[at : at + _CLEAR_ROWS]:
                pairs += (row.key, _VERSION.pack(row.version))
            self._step(CLEAR, keys, *pairs)
            if self._stopped.is_set():
                raise _TakenOverError  # Whoever flushes next ends it.

    def _finish(self, number: int, note: FileNote, carried: Sequence[bytes]) -> None:
        keys = [self._keys.meta, self._keys.archive, self._keys.ages(note.table)]
        done = FileNote(note.table, note.batches, is_open=False)
        self._step(FINISH, keys, number, note.batches, done.encode(), *carried)


def _packed(width: int, keys: Sequence[bytes]) -> Iterator[bytes]:
    for at in range(0, len(keys), _CARRY_ROWS):
        yield _WIDTH.pack(width) + b"".join(keys[at : at + _CARRY_ROWS])


def _unpacked(batch: bytes) -> list[bytes]:
    (width,) = _WIDTH.unpack_from(batch)
    return [batch[at : at + width] for at in range(_WIDTH.size, len(batch), width)]


def _ends_tasks(columns: Columns) -> bool:
    is_over = SCHEMAS[columns.table].is_over
    return columns.table == _TASKS and all(is_over(row.value) for row in columns.rows())
