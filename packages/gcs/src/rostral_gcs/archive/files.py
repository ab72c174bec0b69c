"""Archive files: rows of one table, written once and never changed, as SQLite or as Parquet.

This file owns what an archive file can do, and the SQLite form; the Parquet form is
``parquet_file.py``. Rows are numbered from 0. A file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

from rostral_gcs.archive.schema import Cell, Filter, Schema
from rostral_gcs.backends.base import Row
from rostral_gcs.errors import ConfigError, CorruptError, StorageError

__all__ = ["ArchiveFile", "ArchiveForm", "SqliteFile", "archive_form", "form_at_hand", "open_file"]

ArchiveForm = Literal["auto", "sqlite", "parquet"]

_FORMS: Final[dict[str, ArchiveForm]] = {
    "auto": "auto",
    "sqlite": "sqlite",
    "parquet": "parquet",
}
_SQL_TYPES: Final = {"bytes": "BLOB", "text": "TEXT", "real": "REAL", "integer": "INTEGER"}


class ArchiveFile(Protocol):
    """A file of rows. Any thread may use it; each method opens it for itself."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    def write(self, schema: Schema, rows: Sequence[Row]) -> None:
        """Writes and syncs a new file.

        Raises:
            StorageError: The disk is full or failed; there is no file.
        """
        ...

    def get(self, number: int) -> Row | None:
        """The row of that number, or None when there are not so many."""
        ...

    def find(
        self, schema: Schema, filters: Sequence[Filter], after: int, limit: int
    ) -> list[tuple[int, Row]]:
        """Rows numbered above ``after`` that meet all filters, in order, with their numbers."""
        ...

    def count(self) -> int:
        """How many rows it has."""
        ...

    def verify(self) -> None:
        """Reads all of it.

        Raises:
            CorruptError: It is damaged.
        """
        ...


def archive_form(name: str) -> ArchiveForm:
    """The form of that name.

    Raises:
        ConfigError: There is none.
    """
    if name in _FORMS:
        return _FORMS[name]
    raise ConfigError(
        f"archive_form is {name[:80]!r}; allowed: auto, sqlite, parquet", hint="choose one of these"
    )


def form_at_hand(form: ArchiveForm) -> Literal["sqlite", "parquet"]:
    """The form to write in: Parquet when pyarrow is installed, unless told otherwise."""
    if form != "auto":
        return form
    return "parquet" if importlib.util.find_spec("pyarrow") is not None else "sqlite"


def open_file(path: Path) -> ArchiveFile:
    """The file of that path, by its suffix; it need not exist yet."""
    if path.suffix == ".parquet":
        # Here, because pyarrow is an extra, and slow to import.
        from rostral_gcs.archive.parquet_file import ParquetFile

        return ParquetFile(path)
    return SqliteFile(path)


class SqliteFile:
    """Rows as a table ``rows`` of a SQLite database.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self._path

    def write(self, schema: Schema, rows: Sequence[Row]) -> None:
        """Writes and syncs a new file."""
        scratch = self._path.with_suffix(".new")
        columns = "".join(f", {name} {_SQL_TYPES[kind]}" for name, kind in schema.columns.items())
        marks = ", ?" * len(schema.columns)
        cells = schema.cells
        try:
            scratch.unlink(missing_ok=True)
            os.close(os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with contextlib.closing(sqlite3.connect(scratch, isolation_level=None)) as database:
                # Nobody reads it before it is renamed, so a journal would be for nobody.
                database.execute("PRAGMA journal_mode=OFF")
                database.execute("PRAGMA synchronous=OFF")
                database.execute("BEGIN")
                database.execute(
                    f"CREATE TABLE rows (number INTEGER PRIMARY KEY, key BLOB, version INTEGER"
                    f"{columns}, value BLOB)"
                )
                database.executemany(
                    f"INSERT INTO rows VALUES (?, ?, ?{marks}, ?)",
                    (
                        (number, row.key, row.version, *cells(row.key, row.value), row.value)
                        for number, row in enumerate(rows)
                    ),
                )
                database.execute("COMMIT")
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
            scratch.rename(self._path)
        except (sqlite3.Error, OSError) as error:
            scratch.unlink(missing_ok=True)
            raise StorageError(
                f"cannot write {self._path}: {error}",
                hint="check that the disk is not full or read-only",
            ) from error

    def get(self, number: int) -> Row | None:
        """The row of that number."""
        with self._open() as database:
            found = database.execute(
                "SELECT key, value, version FROM rows WHERE number = ?", (number,)
            ).fetchone()
        return None if found is None else Row(*found)

    def find(
        self, schema: Schema, filters: Sequence[Filter], after: int, limit: int
    ) -> list[tuple[int, Row]]:
        """Rows that meet the filters."""
        # Column names and operators were checked against the schema; values are bound.
        where = "".join(f" AND {one.column} {one.op} ?" for one in filters)
        values: list[Cell] = [one.value for one in filters]
        with self._open() as database:
            cursor = database.execute(
                f"SELECT number, key, value, version FROM rows WHERE number > ?{where} "
                "ORDER BY number LIMIT ?",
                (after, *values, limit),
            )
            return [(number, Row(key, value, version)) for number, key, value, version in cursor]

    def count(self) -> int:
        """How many rows it has."""
        with self._open() as database:
            found: int = database.execute("SELECT COUNT(*) FROM rows").fetchone()[0]
            return found

    def verify(self) -> None:
        """Checks every page."""
        with self._open() as database:
            verdict = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise self._damaged(verdict)

    def _damaged(self, what: object) -> CorruptError:
        return CorruptError(
            f"{self._path} is damaged: {str(what)[:200]}",
            hint="restore the directory from a backup",
            path=str(self._path),
        )

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(
                sqlite3.connect(f"file:{self._path}?mode=ro&immutable=1", uri=True)
            ) as database:
                yield database
        except sqlite3.Error as error:
            raise self._damaged(error) from error
