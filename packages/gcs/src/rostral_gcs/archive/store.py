"""All archive files of one shard: written under the number of a segment, asked newest first.

This file owns their names and the open indexes. A file and its index have the number of the log's
segment that they replace, so writing them a second time, after a death, replaces them.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from rostral_gcs.archive.files import ArchiveFile, ArchiveForm, form_at_hand, open_file
from rostral_gcs.archive.key_index import KeyIndex, write_index
from rostral_gcs.archive.schema import SCHEMAS, Schema
from rostral_gcs.backends.base import Row
from rostral_gcs.errors import StorageError

__all__ = ["Archive"]

_NAME: Final = re.compile(r"(\d{8})-([a-z_]+)\.(sqlite|parquet)")
# Indexes kept open. Opening one costs little more than reading it.
_OPEN_MAX: Final = 128


class Archive:
    """The archive of one shard. Any thread may read; one at a time writes.

    Args:
        folder: Where the files lie; made with the first.
        form: The form of new files.
    """

    def __init__(self, folder: Path, form: ArchiveForm = "auto") -> None:
        self.folder = folder
        self._form = form
        # Newest last. Replaced as a whole, so that readers need no lock.
        self._numbers: dict[int, list[int]] = {table: [] for table in SCHEMAS}
        self._files: dict[tuple[int, int], ArchiveFile] = {}
        self._indexes: dict[Path, KeyIndex] = {}
        self._lock = threading.Lock()

    def open(self) -> None:
        """Finds the files, and removes what a killed process left half written."""
        tables = {schema.name: schema.table for schema in SCHEMAS.values()}
        for path in sorted(self.folder.glob("*")):
            found = _NAME.fullmatch(path.name)
            if found is not None and found[2] in tables:
                self._register(tables[found[2]], int(found[1]), path)
            elif path.suffix == ".new":
                path.unlink()

    def close(self) -> None:
        """Closes the open indexes. May be called twice."""
        with self._lock:
            for index in self._indexes.values():
                index.close()
            self._indexes.clear()
        self._files.clear()
        self._numbers = {table: [] for table in SCHEMAS}

    @property
    def last_number(self) -> int:
        """The highest number of a file; 0 when there is none."""
        return max((number for numbers in self._numbers.values() for number in numbers), default=0)

    def numbers(self, table: int) -> Sequence[int]:
        """The numbers of the table's files, oldest first."""
        return self._numbers.get(table, ())

    def file(self, table: int, number: int) -> ArchiveFile | None:
        """A file, or None."""
        return self._files.get((table, number))

    def write(self, number: int, schema: Schema, rows: Sequence[Row], *, take: bool = True) -> None:
        """Writes a file and its index, safe on disk when it returns; replaces one of that number.

        Args:
            number: Of the file.
            schema: Of its rows.
            rows: Its rows.
            take: Whether readers see it from now on; else once it is given to ``take``.

        Raises:
            StorageError: The disk is full or failed.
        """
        path = self.folder / f"{number:08d}-{schema.name}.{form_at_hand(self._form)}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The index first: a file that is there has one.
            write_index(path.with_suffix(".index"), [row.key for row in rows])
        except OSError as error:
            raise StorageError(
                f"cannot write to {self.folder}: {error.strerror}",
                hint="check that the disk is not full or read-only",
            ) from error
        open_file(path).write(schema, rows)
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if take:
            self._register(schema.table, number, path)

    def remove_unknown(self, below: int, known: Collection[int]) -> None:
        """Deletes files of lower numbers that are none of those: their writers died over them."""
        for path in self.folder.glob("[0-9]*"):
            found = path.name[:8]
            if found.isdecimal() and int(found) < below and int(found) not in known:
                path.unlink(missing_ok=True)

    def read(self, table: int, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The newest row of each key that is archived.

        Raises:
            CorruptError: A file is damaged.
        """
        found: dict[bytes, Row] = {}
        numbers = list(reversed(self.numbers(table)))
        for key in keys:
            for number in numbers:
                row = self._read_one(self._files[table, number], key)
                if row is not None:
                    found[key] = row
                    break
        return found

    def _read_one(self, file: ArchiveFile, key: bytes) -> Row | None:
        with self._lock:
            candidates = self._index(file.path.with_suffix(".index")).candidates(key)
        for number in candidates:
            row = file.get(number)
            if row is not None and row.key == key:
                return row
        return None

    def _index(self, path: Path) -> KeyIndex:
        index = self._indexes.get(path)
        if index is None:
            try:
                index = KeyIndex(path)
            except OSError as error:
                if isinstance(error, StorageError):
                    raise
                raise StorageError(
                    f"cannot open {path}: {error.strerror}",
                    hint="restore the directory from a backup",
                ) from error
            self._indexes[path] = index
            if len(self._indexes) > _OPEN_MAX:
                oldest = next(iter(self._indexes))
                self._indexes.pop(oldest).close()
        return index

    def take(self, table: int, number: int) -> None:
        """Takes in a file that another service has written.

        Raises:
            StorageError: It is not there.
        """
        for suffix in ("sqlite", "parquet"):
            path = self.folder / f"{number:08d}-{SCHEMAS[table].name}.{suffix}"
            if path.exists():
                self._register(table, number, path)
                return
        raise StorageError(
            f"file {number} of table {SCHEMAS[table].name} is not in {self.folder}",
            hint="all services of one store need the same archive_dir; mount it, or restore it",
        )

    def _register(self, table: int, number: int, path: Path) -> None:
        with self._lock:
            stale = self._indexes.pop(path.with_suffix(".index"), None)
            if stale is not None:
                stale.close()
        self._files[table, number] = open_file(path)
        self._numbers[table] = sorted({*self._numbers[table], number})
