"""Queries by column over the log and the archive together, page by page.

This file owns the order of a query and its position: by the number of segment or archive file,
oldest first, and within it by row. It may run on any thread, beside the shard's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from rostral_gcs.archive.schema import SCHEMAS, Filter
from rostral_gcs.archive.store import Archive
from rostral_gcs.backends.base import Row
from rostral_gcs.backends.lineage_log import LineageLog
from rostral_gcs.backends.segment import Segment
from rostral_gcs.errors import InvalidArgumentError

__all__ = ["query_rows"]

# Number of the file, the last row seen in it, and whether it was the log's.
_TOKEN: Final = struct.Struct("<IqB")
# A query that finds little ends its page after this many rows of the log, with what it has.
_EXAMINED_MAX: Final = 50_000


def query_rows(
    log: LineageLog,
    archive: Archive,
    table: int,
    filters: Sequence[Filter],
    *,
    limit: int,
    token: bytes,
) -> tuple[list[Row], bytes]:
    """A page of rows that meet all filters, and where the next begins; empty after the last.

    A page may be short, or empty, though others follow. A row that is flushed or written between
    two pages may come twice.

    Raises:
        InvalidArgumentError: The token is none of ours.
    """
    number, after, of_log = _parse(token)
    rows: list[Row] = []
    examined = 0
    while True:
        live = {segment.number: segment for segment in list(log.segments)}
        later = [one for one in {*live, *archive.numbers(table)} if one >= number]
        if not later:
            return rows, b""
        if min(later) != number:
            number, after = min(later), -1
        segment = live.get(number)
        if (segment is not None) is not of_log:
            # It is in another place than at the last page, or a new one: from its beginning.
            after = -1
        of_log = segment is not None
        room = limit - len(rows)
        if segment is not None:
            page, after, count = _query_segment(log, segment, table, filters, after, room)
            examined += count
        else:
            file = archive.file(table, number)
            found = [] if file is None else file.find(SCHEMAS[table], filters, after, room)
            # Between flush and removal a row is in both, and the log's is the newer.
            page = [row for _, row in found if not _is_live(log, table, row.key)]
            after = found[-1][0] if len(found) == room else -1
        rows += page
        if after < 0:
            number += 1
        if len(rows) >= limit or examined >= _EXAMINED_MAX:
            return rows, _TOKEN.pack(number, after, of_log)


def _query_segment(
    log: LineageLog,
    segment: Segment,
    table: int,
    filters: Sequence[Filter],
    after: int,
    limit: int,
) -> tuple[list[Row], int, int]:
    """Rows, the last number seen (-1 at the end), and how many were looked at."""
    schema = SCHEMAS[table]
    places = {name: at for at, name in enumerate(schema.columns)}
    tests = [(places[one.column], one) for one in filters]
    rows: list[Row] = []
    looked = segment.rows(table, after, _EXAMINED_MAX)
    for count, (number, row) in enumerate(looked, 1):
        if not log.is_newest(segment, table, row.key):
            continue
        if tests:
            cells = schema.cells(row.key, row.value)
            if not all(one.holds(cells[place]) for place, one in tests):
                continue
        rows.append(row)
        if len(rows) == limit:
            return rows, number, count
    return rows, looked[-1][0] if len(looked) == _EXAMINED_MAX else -1, len(looked)


def _is_live(log: LineageLog, table: int, key: bytes) -> bool:
    return any(segment.holds(table, key) for segment in list(log.segments))


def _parse(token: bytes) -> tuple[int, int, bool]:
    if not token:
        return 0, -1, False
    try:
        number, after, of_log = _TOKEN.unpack(token)
    except struct.error as error:
        raise InvalidArgumentError(
            f"page token of {len(token)} bytes is none", hint="give back the one of the page before"
        ) from error
    return number, after, bool(of_log)
