"""Flushing: what is over moves from the log to the archive, so that memory stays under its cap.

This file owns when a segment is flushed and in which order its rows change places. A thread reads
the segment and writes the archive files; the shard's thread then carries over what is not over into
the newest segment, syncs it, and drops the old one. Whichever step a death interrupts, each row is
in the log or in the archive, and a flush that is done again writes the same files.

Segments are flushed oldest first, without exception: if a later one went before, a row of it in the
archive would be hidden by an older row of the same key that is still in the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rostral_gcs.archive.schema import SCHEMAS
from rostral_gcs.archive.store import Archive
from rostral_gcs.backends.base import Row
from rostral_gcs.backends.lineage_log import LineageLog
from rostral_gcs.backends.segment import Frame, Segment
from rostral_gcs.errors import GcsError, StorageError

__all__ = ["Flusher"]

logger = logging.getLogger("rostral.gcs.flush")

# A flush begins when this share of the records allowed is there, and ends below it.
_BEGIN_SHARE: Final = 0.6
# When less than this share of the log could go, what stays is not worth being written again.
_GAIN_SHARE_MIN: Final = 0.05
_RETRY_S: Final = 0.5
_CARRY_ROWS: Final = 8192


@dataclass(slots=True)
class _Outcome:
    """What the thread left of a segment, or why it could not write the archive."""

    segment: Segment
    kept: dict[int, list[Row]] = field(default_factory=dict)
    error: str = ""


class Flusher:
    """Flushes one shard's log. Its methods are for the shard's thread.

    Args:
        log: Flushed from.
        archive: Flushed to.
        records_max: Most records that the log may hold.
    """

    def __init__(self, log: LineageLog, archive: Archive, *, records_max: int) -> None:
        self._log = log
        self._archive = archive
        self._records_max = records_max
        self._thread: threading.Thread | None = None
        self._outcome: _Outcome | None = None
        self._next_look_s = 0.0
        self.last_error = ""

    @property
    def is_full(self) -> bool:
        """Whether the log holds as much as it may."""
        return self._log.record_count >= self._records_max

    @property
    def is_overfull(self) -> bool:
        """Whether it holds so much that even what ends tasks is refused."""
        return self._log.record_count >= 2 * self._records_max

    @property
    def is_busy(self) -> bool:
        """Whether a flush is under way, so that there may soon be room."""
        return self._thread is not None

    def poll(self) -> None:
        """Ends a flush that is through and begins one that is due."""
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._thread.join()
            self._thread = None
            outcome, self._outcome = self._outcome, None
            if outcome is not None:
                self._complete(outcome)
        due = self._log.record_count > self._records_max * _BEGIN_SHARE
        if due and len(self._log.segments) > 1 and time.monotonic() >= self._next_look_s:
            if self._is_worthwhile():
                self._start(self._log.segments[0])
            else:
                self._next_look_s = time.monotonic() + _RETRY_S

    def flush_all(self) -> int:
        """Flushes every segment, now, and waits; returns how many records left the log.

        Raises:
            StorageError: The disk is full or failed.
        """
        self.close()
        before = self._log.record_count
        self._log.seal()
        for segment in list(self._log.segments):
            self._complete(self._examine(segment))
            if self.last_error:
                raise StorageError(
                    f"cannot flush {segment.path}: {self.last_error}",
                    hint="check that the disk is not full, read-only or damaged",
                )
        return before - self._log.record_count

    def close(self) -> None:
        """Waits for a flush under way and ends it. May be called twice."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            outcome, self._outcome = self._outcome, None
            if outcome is not None:
                self._complete(outcome)

    def _is_worthwhile(self) -> bool:
        """Whether enough of the log is over, or overwritten."""
        wanted = _GAIN_SHARE_MIN * self._log.record_count
        over = sum(
            segment.count_of(schema.table, schema.over_codes)
            for segment in self._log.segments
            for schema in SCHEMAS.values()
        )
        return over >= wanted or self._log.record_count - self._log.distinct_count() >= wanted

    def _start(self, segment: Segment) -> None:
        def run() -> None:
            try:
                self._outcome = self._examine(segment)
            except GcsError as error:
                self._outcome = _Outcome(segment, error=str(error))
            except Exception as error:
                logger.exception("segment=%s flush failed", segment.path)
                self._outcome = _Outcome(segment, error=repr(error))

        self._thread = threading.Thread(target=run, name="gcs-flush", daemon=True)
        self._thread.start()

    def _examine(self, segment: Segment) -> _Outcome:
        outcome = _Outcome(segment)
        over: dict[int, list[Row]] = {}
        for table in segment.tables:
            is_over = SCHEMAS[table].is_over
            for _, row in segment.rows(table, -1, segment.record_count):
                if not self._log.is_newest(segment, table, row.key):
                    continue
                rows = over if is_over(row.value) else outcome.kept
                rows.setdefault(table, []).append(row)
        for table, finished in over.items():
            self._archive.write(segment.number, SCHEMAS[table], finished)
        return outcome

    def _complete(self, outcome: _Outcome) -> None:
        segment = outcome.segment
        error = outcome.error
        if not error:
            try:
                self._carry_over(outcome)
            except GcsError as failure:
                error = str(failure)
        self.last_error = error
        if error:
            self._next_look_s = time.monotonic() + _RETRY_S
            logger.error("segment=%s cannot be flushed: %s", segment.path, error)
            return
        logger.debug("segment=%s flushed records=%d", segment.path, segment.record_count)
        self._log.remove(segment)

    def _carry_over(self, outcome: _Outcome) -> None:
        """Appends what stays, under the sequences that it has, and makes it safe."""
        if self._log.segments[-1] is outcome.segment:
            self._log.seal()
        for table, rows in outcome.kept.items():
            # It may have been written anew while the thread was at work.
            still = [row for row in rows if self._log.is_newest(outcome.segment, table, row.key)]
            for at in range(0, len(still), _CARRY_ROWS):
                self._log.append([_frame(table, still[at : at + _CARRY_ROWS])])
        self._log.segments[-1].sync()


def _frame(table: int, rows: Sequence[Row]) -> Frame:
    return Frame(
        table=table,
        key_size=len(rows[0].key),
        keys=b"".join(row.key for row in rows),
        sizes=[len(row.value) for row in rows],
        values=b"".join(row.value for row in rows),
        sequences=[row.version for row in rows],
    )
