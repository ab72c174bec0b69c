"""Archive files as Parquet: smaller than SQLite's, and read by whatever reads tables.

This file owns the Parquet form and is the only one to import pyarrow, which comes with the extra
``archive``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rostral_gcs.archive.schema import Filter, Schema
from rostral_gcs.backends.base import Row
from rostral_gcs.errors import CorruptError, StorageError

__all__ = ["ParquetFile"]

# A row is read by reading its group: large enough to compress well, small enough to read quickly.
_GROUP_ROWS: Final = 8192
_TYPES: Final = {
    "bytes": pa.binary(),
    "text": pa.string(),
    "real": pa.float64(),
    "integer": pa.int64(),
}
_OWN: Final = ["key", "version", "value"]


class ParquetFile:
    """Rows as a Parquet file with the columns ``key``, ``version``, the schema's and ``value``.

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
        fields = [("key", pa.binary()), ("version", pa.int64())]
        fields += [(name, _TYPES[kind]) for name, kind in schema.columns.items()]
        fields.append(("value", pa.binary()))
        layout = pa.schema(fields)
        scratch = self._path.with_suffix(".new")
        try:
            descriptor = os.open(
                scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
            with os.fdopen(descriptor, "wb") as file:
                with pq.ParquetWriter(
                    file, layout, compression="zstd", write_page_checksum=True
                ) as writer:
                    for at in range(0, len(rows), _GROUP_ROWS):
                        writer.write_table(_table(layout, schema, rows[at : at + _GROUP_ROWS]))
                file.flush()
                os.fsync(file.fileno())
            scratch.rename(self._path)
        except (pa.ArrowException, OSError) as error:
            scratch.unlink(missing_ok=True)
            raise StorageError(
                f"cannot write {self._path}: {error}",
                hint="check that the disk is not full or read-only",
            ) from error

    def get(self, number: int) -> Row | None:
        """The row of that number."""
        group, at = divmod(number, _GROUP_ROWS)
        with self._open() as file:
            if group >= file.num_row_groups:
                return None
            table = file.read_row_group(group, columns=_OWN).slice(at, 1)
            for row in table.to_pylist():
                return Row(row["key"], row["value"], row["version"])
        return None

    def find(
        self, schema: Schema, filters: Sequence[Filter], after: int, limit: int
    ) -> list[tuple[int, Row]]:
        """Rows that meet the filters."""
        del schema  # The file says its columns itself.
        found: list[tuple[int, Row]] = []
        columns = [*_OWN, *{one.column for one in filters}]
        with self._open() as file:
            for group in range(max(0, after + 1) // _GROUP_ROWS, file.num_row_groups):
                base = group * _GROUP_ROWS
                table = file.read_row_group(group, columns=columns)
                numbers = pa.array(range(base, base + table.num_rows))
                table = table.append_column("number", numbers)
                mask = pc.greater(table["number"], after)
                for one in filters:
                    mask = pc.and_(mask, _mask(table[one.column], one))
                for row in table.filter(mask).slice(0, limit - len(found)).to_pylist():
                    found.append((row["number"], Row(row["key"], row["value"], row["version"])))
                if len(found) >= limit:
                    break
        return found

    def count(self) -> int:
        """How many rows it has."""
        with self._open() as file:
            return int(file.metadata.num_rows)

    def verify(self) -> None:
        """Reads every page, checksums included."""
        with self._open() as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with pq.ParquetFile(self._path, page_checksum_verification=True) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise CorruptError(
                f"{self._path} is damaged: {str(error)[:200]}",
                hint="restore the directory from a backup",
                path=str(self._path),
            ) from error


def _table(layout: Any, schema: Schema, rows: Sequence[Row]) -> Any:
    cells = list(zip(*(schema.cells(row.key, row.value) for row in rows), strict=True))
    return pa.table(
        [
            [row.key for row in rows],
            [row.version for row in rows],
            *cells,
            [row.value for row in rows],
        ],
        schema=layout,
    )


def _mask(column: Any, one: Filter) -> Any:
    test = {"=": pc.equal, ">=": pc.greater_equal, "<": pc.less}[one.op]
    return test(column, pa.scalar(one.value, column.type))
