"""The embedded backend: a SQLite file in WAL mode and a lineage log for each shard.

This file owns the schema and the pragmas, and which rows go where: those of tables that are
appended to into the log (``lineage_log.py``), all others into the database. One connection, used by
the shard's thread alone.

A commit goes into the journal first (``journal.py``), which syncs it if it is of the durable class;
then it is acknowledged, and applied to the database together with others (``unsettled.py``): by
``settle``, or by a call that needs more than rows by key. The other class is written there too, so
that the order of writes holds across both. What a killed process had not applied is applied when
the shard is opened again.

The database itself is committed to with ``synchronous=NORMAL``, which survives the process but not
the machine. Before the journal begins anew one commit goes with ``FULL``, which also syncs what the
others wrote before it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from rostral_gcs.archive.files import ArchiveForm
from rostral_gcs.archive.flusher import Flusher
from rostral_gcs.archive.query import query_rows
from rostral_gcs.archive.schema import RECORD_MEMORY, SCHEMAS, Filter
from rostral_gcs.archive.store import Archive
from rostral_gcs.backends.base import Answer, Change, Columns, Gathered, Opened, Row
from rostral_gcs.backends.journal import Journal
from rostral_gcs.backends.lineage_log import LineageLog
from rostral_gcs.backends.segment import Frame
from rostral_gcs.backends.unsettled import Unsettled
from rostral_gcs.errors import (
    ControlPlaneFullError,
    CorruptError,
    GcsOverloadedError,
    StorageError,
    VersionMismatchError,
)
from rostral_gcs.tables.registry import TABLES

__all__ = ["EmbeddedBackend"]

_FORMAT: Final = 1
# While it is open: what does not know of the journal must not open it then.
_FORMAT_OPEN: Final = 2

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS rows (
    tbl INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (tbl, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    sequence INTEGER PRIMARY KEY, tbl INTEGER NOT NULL, key BLOB NOT NULL, value BLOB
);
CREATE TABLE IF NOT EXISTS answers (
    request_id BLOB PRIMARY KEY, payload BLOB NOT NULL, time_s REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_by_time ON answers (time_s);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""

_PUT: Final = (
    "INSERT INTO rows (tbl, key, value, version) VALUES (?, ?, ?, ?) ON CONFLICT (tbl, key) "
    "DO UPDATE SET value = excluded.value, version = excluded.version"
)
# SQLite's default limit of bound parameters was 999 for long; stay below it.
_READ_CHUNK: Final = 500

# Checked page by page at each start up to this size, which takes a tenth of a second.
_CHECKED_SIZE_MAX: Final = 64 * 1024 * 1024
_TASKS: Final = TABLES["tasks"].number
_APPENDED: Final = frozenset(spec.number for spec in TABLES.values() if spec.appended)


class EmbeddedBackend:
    """A shard's rows in one SQLite file, its lineage in a folder of the same name beside it.

    Args:
        path: The file; made when missing.
        lineage_memory_max: Most bytes of memory for the index of the lineage log; the log is
            flushed to the archive before.
        archive_form: Of the archive's files.
    """

    def __init__(
        self,
        path: Path,
        *,
        lineage_memory_max: int = 256 * 1024 * 1024,
        archive_form: ArchiveForm = "auto",
    ) -> None:
        self._path = path
        records_max = max(8, lineage_memory_max // RECORD_MEMORY)
        # A segment is what is flushed at once, so there must be several below the cap.
        self.log = LineageLog(path.with_suffix(".lineage"), records_max=records_max // 8)
        self.archive = Archive(path.with_suffix(".archive"), archive_form)
        self.flusher = Flusher(self.log, self.archive, records_max=records_max)
        self._lineage_memory_max = lineage_memory_max
        self._journal = Journal(path.with_suffix(".journal"))
        self._unsettled = Unsettled()
        self._last_sequence = 0
        self._connection: sqlite3.Connection | None = None
        self._synchronous = ""

    def listen(self, wake: Callable[[], None]) -> None:
        """Does nothing: the file is ours alone."""

    def refresh(self) -> Opened | None:
        """None: nobody else writes here."""
        return None

    def open(self) -> Opened:
        """Opens the file and replays the write-ahead log that a killed process left."""
        with self._translated():
            # SQLite would make it by the umask; its log files take the mode of this one.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            # check_same_thread: opened by the shard's starter, used by its thread, never by both.
            connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=5.0
            )
            self._connection = connection
            connection.execute("PRAGMA journal_mode=WAL")
            # 64 MiB: a checkpoint copies pages back while the shard waits, so make them rare.
            connection.execute("PRAGMA wal_autocheckpoint=16384")
            connection.execute("PRAGMA cache_size=-65536")
            connection.execute("PRAGMA temp_store=MEMORY")
            if self._path.stat().st_size <= _CHECKED_SIZE_MAX:
                self._check(connection)
            connection.executescript(_SCHEMA)
            found = self._meta("format", _FORMAT)
            if found not in (_FORMAT, _FORMAT_OPEN):
                raise VersionMismatchError(
                    f"{self._path} has format {found}, this version reads {_FORMAT}",
                    hint="use the rostral-gcs version that wrote it",
                )
            self._replay()
            trimmed = self._meta("trimmed_sequence", 0)
            size = connection.execute(
                "SELECT COALESCE(SUM(LENGTH(value)), 0) FROM history"
            ).fetchone()[0]
            self.archive.open()
            log_sequence = self.log.open(after_number=self.archive.last_number)
            # The log's writes do not touch the database.
            self._last_sequence = max(self._meta("last_sequence", 0), log_sequence)
            return Opened(
                last_sequence=self._last_sequence,
                trimmed_sequence=trimmed,
                history_size=size,
            )

    def _check(self, connection: sqlite3.Connection) -> None:
        verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        if verdict != "ok":
            raise CorruptError(
                f"{self._path} is damaged: {verdict[:200]}",
                hint="`rostral-gcs verify` says where; restore it from a backup",
                path=str(self._path),
            )

    def close(self) -> None:
        """Checkpoints and closes, so that one plain file is left."""
        self.flusher.close()
        self.log.close()
        self.archive.close()
        if self._connection is None:
            return
        is_whole = False
        try:
            with self._translated():
                if self._synchronous:  # Else it was never read whole.
                    self.settle()
                    self._sync_all("format", _FORMAT)
                    is_whole = True
        finally:
            self._journal.close(remove=is_whole)
            connection, self._connection = self._connection, None
            with self._translated():
                connection.close()

    def gather(self, request_ids: Sequence[bytes], keys: Mapping[int, Sequence[bytes]]) -> Gathered:
        """Answers and rows, one by one: they cost no round trip here."""
        recalled = {request_id: self.recall(request_id) for request_id in request_ids}
        return Gathered(
            answers={one: payload for one, payload in recalled.items() if payload is not None},
            rows={
                (table, key): row
                for table, part in keys.items()
                for key, row in self.read(table, part).items()
            },
        )

    def read(self, table: int, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that exist among the keys."""
        if table in _APPENDED:
            with self._translated():
                return self._read_appended(table, keys)
        found: dict[bytes, Row] = {}
        keys = self._unsettled.find(table, keys, found)
        with self._translated():
            for at in range(0, len(keys), _READ_CHUNK):
                part = keys[at : at + _READ_CHUNK]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, value, version FROM rows WHERE tbl = ? AND key IN ({marks})"
                for key, value, version in self._db.execute(query, (table, *part)):
                    found[key] = Row(key, value, version)
        return found

    def _read_appended(self, table: int, keys: Sequence[bytes]) -> dict[bytes, Row]:
        found = self.log.read(table, keys)
        if len(found) < len(keys) and self.archive.numbers(table):
            found |= self.archive.read(table, [key for key in keys if key not in found])
        return found

    def query(
        self, table: int, filters: Sequence[Filter], *, limit: int, token: bytes
    ) -> tuple[list[Row], bytes]:
        """A page of rows of log and archive; see ``query_rows``. Any thread may call it."""
        with self._translated():
            return query_rows(self.log, self.archive, table, filters, limit=limit, token=token)

    def scan(
        self, table: int, prefix: bytes, after_key: bytes, limit: int, size_max: int
    ) -> tuple[list[Row], bool]:
        """A page of rows in key order."""
        if table in _APPENDED:
            with self._translated():
                return self.log.scan(table, prefix, after_key, limit, size_max)
        end = _prefix_end(prefix)
        # Two lower bounds, since the prefix itself is a key that the scan must include.
        query = "SELECT key, value, version FROM rows WHERE tbl = ? AND key >= ? AND key > ?"
        arguments: list[object] = [table, prefix, after_key]
        if end is not None:
            query += " AND key < ?"
            arguments.append(end)
        rows: list[Row] = []
        size = 0
        with self._translated():
            cursor = self._settled.execute(query + " ORDER BY key LIMIT ?", (*arguments, limit + 1))
            for key, value, version in cursor:
                if len(rows) == limit or size > size_max:
                    return rows, True
                rows.append(Row(key, value, version))
                size += len(value)
        return rows, False

    def commit(
        self, changes: Sequence[Change], answers: Sequence[Answer], *, durable: bool
    ) -> None:
        """Applies all or nothing in one transaction."""
        if any(change.table in _APPENDED for change in changes):
            appended = [change for change in changes if change.table in _APPENDED]
            changes = [change for change in changes if change.table not in _APPENDED]
            self._append_frames(_frames_of(appended), () if changes else answers)
            if not changes:
                return
        if self._unsettled.is_full:
            self.settle()
        if changes and changes[0].sequence <= self._last_sequence:
            raise StorageError(
                f"{self._path}: sequence {changes[0].sequence} is taken; the newest is "
                f"{self._last_sequence}",
                hint="this is a fault of the server; start it again",
            )
        _ = self._db  # Closed is closed, for the journal too.
        if not self._journal.append(changes, answers, durable=durable):
            self.settle()
            with self._translated():
                self._begin_turn()
            if not self._journal.append(changes, answers, durable=durable):
                # More than the whole journal holds.
                with self._transaction():
                    self._apply(changes, answers)
                self._note(changes)
                return
        self._unsettled.add(changes, answers)
        self._note(changes)

    def can_commit_at_once(
        self, keys: Mapping[int, Sequence[bytes]], *, size: int, last_sequence: int
    ) -> bool:
        """Whether it is one record in the journal, and no more."""
        return not self._unsettled.is_full and self._journal.has_room(size)

    def commit_at_once(
        self, changes: Sequence[Change], answers: Sequence[Answer], *, durable: bool
    ) -> None:
        """As ``commit``."""
        self.commit(changes, answers, durable=durable)

    @property
    def is_settled(self) -> bool:
        """Whether the database has all that was acknowledged."""
        return not self._unsettled

    def settle(self) -> None:
        """Applies to the database what only the journal has.

        Raises:
            StorageError: The disk is full or failed. It stays in the journal, and is tried again.
        """
        if not self._unsettled:
            return
        with self._translated():
            self._set_synchronous("NORMAL")
            self._commit_to_database(
                self._unsettled.changes, list(self._unsettled.answers.values())
            )
        self._unsettled.clear()

    def _note(self, changes: Sequence[Change]) -> None:
        if changes:
            self._last_sequence = changes[-1].sequence

    def _replay(self) -> None:
        """Applies what the last life left in the journal, and begins a new turn."""
        for changes, answers in self._journal.open():
            known = self._meta("last_sequence", 0)
            self._set_synchronous("NORMAL")
            # Of one commit the database has all or nothing.
            fresh = changes if changes and changes[-1].sequence > known else []
            self._commit_to_database(fresh, answers)
        self._begin_turn()

    def _begin_turn(self) -> None:
        """Has the database on disk, all of it, so that the journal may be written over."""
        self._sync_all("format", _FORMAT_OPEN)
        self._journal.begin_turn()

    def _sync_all(self, name: str, number: int) -> None:
        """Puts a number, and syncs with it whatever was written before."""
        self._set_synchronous("FULL")
        self._db.execute("BEGIN IMMEDIATE")
        # The same number in its place would be no change, and sync nothing.
        self._db.execute("DELETE FROM meta WHERE name = ?", (name,))
        self._db.execute("INSERT INTO meta VALUES (?, ?)", (name, number))
        self._db.execute("COMMIT")

    def _commit_to_database(self, changes: Sequence[Change], answers: Sequence[Answer]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._apply(changes, answers)
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def append(self, columns: Sequence[Columns], answers: Sequence[Answer]) -> None:
        """Writes them to the lineage log, in one go."""
        self.flusher.poll()
        if self.flusher.is_full:
            self._check_room(columns)
        frames = [
            Frame(
                table=part.table,
                key_size=part.key_size,
                keys=part.keys,
                sizes=part.sizes,
                values=part.values,
                first_sequence=part.first_sequence,
            )
            for part in columns
        ]
        self._append_frames(frames, answers)

    def _check_room(self, columns: Sequence[Columns]) -> None:
        if self.flusher.is_busy:
            raise GcsOverloadedError(
                f"{self._path}: lineage comes faster than it is flushed",
                hint="try again after a pause",
            )
        if not self.flusher.is_overfull and all(map(_ends_tasks, columns)):
            return  # What ends tasks is the only way out, so it must be let in.
        error = f": {self.flusher.last_error}" if self.flusher.last_error else ""
        raise ControlPlaneFullError(
            f"lineage holds {self.log.record_count} records, all that {self._lineage_memory_max} "
            f"bytes of memory allow, and they cannot be flushed{error}",
            hint="end tasks before submitting more, free the disk, or raise lineage_memory_max",
        )

    def flush(self) -> int:
        """Moves all that is over to the archive, now; returns how many records left the log.

        Raises:
            StorageError: The disk is full or failed.
        """
        with self._translated():
            self.settle()
            # With the log's segments goes what says how far the sequences have come.
            self._put_meta(
                "last_sequence", max(self._meta("last_sequence", 0), self.log.last_sequence)
            )
            return self.flusher.flush_all()

    def _append_frames(self, frames: list[Frame], answers: Sequence[Answer]) -> None:
        frames += [Frame() for _ in range(len(answers) - len(frames))]
        for frame, answer in zip(frames, answers, strict=False):
            frame.answer = answer
        for frame in frames[:-1]:
            frame.more = True
        with self._translated():
            _ = self._db  # Closed is closed, for the log too.
            self.log.append(frames)

    def recall(self, request_id: bytes) -> bytes | None:
        """The remembered payload of a request."""
        payload = self.log.recall(request_id)
        if payload is not None:
            return payload
        unsettled = self._unsettled.answers.get(request_id)
        if unsettled is not None:
            return unsettled.payload
        with self._translated():
            found = self._db.execute(
                "SELECT payload FROM answers WHERE request_id = ?", (request_id,)
            ).fetchone()
        return None if found is None else bytes(found[0])

    def adopt(self, table: int, rows: Sequence[Row], last_sequence: int) -> None:
        """Puts rows with the versions that they have."""
        with self._transaction():
            self._db.executemany(_PUT, [(table, row.key, row.value, row.version) for row in rows])
            for name in ("last_sequence", "trimmed_sequence"):
                self._put_meta(name, max(self._meta(name, 0), last_sequence))
        self._last_sequence = max(self._last_sequence, last_sequence)

    def drop(self, table: int, keys: Sequence[bytes]) -> None:
        """Deletes rows without a trace."""
        with self._transaction():
            self._db.executemany(
                "DELETE FROM rows WHERE tbl = ? AND key = ?", [(table, key) for key in keys]
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._translated():
            self.settle()
            self._set_synchronous("FULL")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def forget(self, before_s: float) -> None:
        """Drops answers older than the time."""
        self.log.forget(before_s)
        with self._translated():
            self._settled.execute("DELETE FROM answers WHERE time_s < ?", (before_s,))

    def history(self, after_sequence: int, limit: int, size_max: int) -> list[Change]:
        """Watchable changes after the sequence."""
        changes: list[Change] = []
        size = 0
        with self._translated():
            cursor = self._settled.execute(
                "SELECT sequence, tbl, key, value FROM history WHERE sequence > ? "
                "ORDER BY sequence LIMIT ?",
                (after_sequence, limit),
            )
            for sequence, table, key, value in cursor:
                changes.append(Change(sequence, table, key, value, True))
                size += len(value or b"")
                if size > size_max:
                    break
        return changes

    def trim(self, up_to_sequence: int) -> int:
        """Drops old history."""
        with self._translated():
            self.settle()
            self._set_synchronous("NORMAL")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                dropped: int = self._db.execute(
                    "SELECT COALESCE(SUM(LENGTH(value)), 0) FROM history WHERE sequence <= ?",
                    (up_to_sequence,),
                ).fetchone()[0]
                self._db.execute("DELETE FROM history WHERE sequence <= ?", (up_to_sequence,))
                self._put_meta("trimmed_sequence", up_to_sequence)
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
        return dropped

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError(f"{self._path} is not open", hint="start the server again")
        return self._connection

    @property
    def _settled(self) -> sqlite3.Connection:
        """The database with all in it that was acknowledged."""
        self.settle()
        return self._db

    def _apply(self, changes: Sequence[Change], answers: Sequence[Answer]) -> None:
        # Of one key the last change counts; the history has them all.
        final = {(change.table, change.key): change for change in changes}
        self._db.executemany(
            _PUT,
            [(c.table, c.key, c.value, c.sequence) for c in final.values() if c.value is not None],
        )
        self._db.executemany(
            "DELETE FROM rows WHERE tbl = ? AND key = ?",
            [place for place, change in final.items() if change.value is None],
        )
        kept = [(c.sequence, c.table, c.key, c.value) for c in changes if c.watchable]
        if kept:
            self._db.executemany("INSERT INTO history VALUES (?, ?, ?, ?)", kept)
        if changes:
            self._put_meta("last_sequence", changes[-1].sequence)
        if answers:
            self._db.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)",
                [(answer.request_id, answer.payload, answer.time_s) for answer in answers],
            )

    def _set_synchronous(self, level: str) -> None:
        if level != self._synchronous:
            self._db.execute(f"PRAGMA synchronous={level}")
            self._synchronous = level

    def _meta(self, name: str, default: int) -> int:
        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, default))
        number: int = self._db.execute(
            "SELECT number FROM meta WHERE name = ?", (name,)
        ).fetchone()[0]
        return number

    def _put_meta(self, name: str, number: int) -> None:
        self._db.execute("UPDATE meta SET number = ? WHERE name = ?", (number, name))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"{self._path}: {error}",
                hint="check that the disk is not full, read-only or damaged",
            ) from error


def _prefix_end(prefix: bytes) -> bytes | None:
    """The smallest key above all keys with the prefix; None when there is none."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes([stripped[-1] + 1])


def _ends_tasks(columns: Columns) -> bool:
    """Whether all that is written makes tasks fit to be flushed."""
    is_over = SCHEMAS[columns.table].is_over
    return columns.table == _TASKS and all(is_over(row.value) for row in columns.rows())


def _frames_of(changes: Sequence[Change]) -> list[Frame]:
    """Frames of single changes, one for each run of one table."""
    frames: list[Frame] = []
    run: list[Change] = []
    for change in [*changes, None]:
        if run and (change is None or change.table != run[0].table):
            frames.append(
                Frame(
                    table=run[0].table,
                    key_size=len(run[0].key),
                    keys=b"".join(one.key for one in run),
                    sizes=[len(one.value or b"") for one in run],
                    values=b"".join(one.value or b"" for one in run),
                    sequences=[one.sequence for one in run],
                )
            )
            run = []
        if change is not None:
            run.append(change)
    return frames
