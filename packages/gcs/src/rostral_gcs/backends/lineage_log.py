"""The lineage log: rows that are appended and read back by key, in files beside the database.

This file owns the segments of one shard: which is written to, in which order they are asked, the
answers that lie in them, and syncing. A commit is one write to one file, which the death of the
process cannot undo; a thread syncs what was written within ``SYNC_INTERVAL_S``, so that the death
of the machine costs no more than that.
"""

from __future__ import annotations

import heapq
import logging
import re
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from rostral_gcs.backends.base import Answer, Row
from rostral_gcs.backends.segment import RECORDS_MAX, Frame, Segment, read_frames
from rostral_gcs.errors import CorruptError, StorageError

__all__ = ["SYNC_INTERVAL_S", "LineageLog"]

logger = logging.getLogger("rostral.gcs.lineage")

SYNC_INTERVAL_S: Final = 0.1
ANSWERS_MAX: Final = 200_000
"""Most answers remembered; with more requests than this in the retry window, the oldest go."""

_SEGMENT_SIZE_MAX: Final = 256 * 1024 * 1024
_NAME: Final = re.compile(r"(\d{8})\.segment")


class LineageLog:
    """One shard's lineage log. Used by the shard's thread.

    Args:
        folder: Where the segments lie; made with the first of them.
        records_max: Most records in a segment.
    """

    def __init__(self, folder: Path, *, records_max: int = RECORDS_MAX) -> None:
        self._folder = folder
        self._records_max = min(records_max, RECORDS_MAX)
        self._segments: list[Segment] = []
        self._answers: dict[bytes, Answer] = {}
        self._syncer: _Syncer | None = None
        self._sealed = False
        # A flushed segment's number is its archive file's, so it is never used again.
        self._last_number = 0

    @property
    def segments(self) -> Sequence[Segment]:
        """Oldest first; the last is the one that is written to."""
        return self._segments

    @property
    def record_count(self) -> int:
        """Records in all segments, overwritten ones included."""
        return sum(segment.record_count for segment in self._segments)

    def open(self, *, after_number: int = 0) -> int:
        """Reads the segments and returns the highest sequence in them.

        Args:
            after_number: New segments get higher numbers than this, as than all that are there.

        Raises:
            CorruptError: A segment is damaged, and it is not a torn tail of the newest.
        """
        paths = sorted(path for path in self._folder.glob("*.segment") if _NAME.match(path.name))
        for path in paths:
            found = _load(path, is_newest=path == paths[-1], answers=self._answers)
            self._segments.append(found)
        self._last_number = max([after_number, *(one.number for one in self._segments)])
        return self.last_sequence

    @property
    def last_sequence(self) -> int:
        """The highest sequence in it; 0 when it is empty."""
        return max((segment.last_sequence for segment in self._segments), default=0)

    def close(self) -> None:
        """Syncs and closes. May be called twice."""
        if self._syncer is not None:
            self._syncer.stop()
            self._syncer = None
        for segment in self._segments:
            segment.close()
        self._segments.clear()
        self._answers.clear()

    def append(self, frames: Sequence[Frame]) -> None:
        """Writes the frames, all or none.

        Raises:
            StorageError: The disk is full or failed.
        """
        count = sum(len(frame.sizes) for frame in frames)
        segment = self._segment_for(count)
        segment.append(frames)
        for frame in frames:
            if frame.answer is not None:
                self._answers[frame.answer.request_id] = frame.answer
        if len(self._answers) > ANSWERS_MAX + ANSWERS_MAX // 10:
            self.forget(0.0)
        if self._syncer is None:
            self._syncer = _Syncer()
        self._syncer.add(segment)

    def seal(self) -> None:
        """Has what is written next go into a new segment."""
        self._sealed = True

    def remove(self, segment: Segment) -> None:
        """Drops a segment whose rows are all elsewhere now, and deletes its file."""
        self._segments.remove(segment)
        segment.remove()

    def distinct_count(self) -> int:
        """Records that are not overwritten. Takes a tenth of a second for a million."""
        keys: dict[int, set[bytes]] = {}
        for segment in self._segments:
            for table in segment.tables:
                keys.setdefault(table, set()).update(segment.keys(table))
        return sum(map(len, keys.values()))

    def is_newest(self, segment: Segment, table: int, key: bytes) -> bool:
        """Whether no later segment has a row of that key. Any thread may ask."""
        return not any(
            later.number > segment.number and later.holds(table, key)
            for later in list(self._segments)
        )

    def read(self, table: int, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows that exist among the keys."""
        found: dict[bytes, Row] = {}
        for key in keys:
            for segment in reversed(self._segments):
                row = segment.row(table, key)
                if row is not None:
                    found[key] = row
                    break
        return found

    def scan(
        self, table: int, prefix: bytes, after_key: bytes, limit: int, size_max: int
    ) -> tuple[list[Row], bool]:
        """A page of rows in key order, as ``Backend.scan``."""
        rows: list[Row] = []
        size = 0
        runs = [_run(segment.keys(table), prefix, after_key) for segment in self._segments]
        last_key: bytes | None = None
        for key in heapq.merge(*runs):
            if key == last_key:
                continue
            if not key.startswith(prefix):
                break
            if len(rows) == limit or size > size_max:
                return rows, True
            last_key = key
            row = self.read(table, [key])[key]
            rows.append(row)
            size += len(row.value)
        return rows, False

    def recall(self, request_id: bytes) -> bytes | None:
        """The remembered payload of a request."""
        answer = self._answers.get(request_id)
        return None if answer is None else answer.payload

    def forget(self, before_s: float) -> None:
        """Drops answers older than the time."""
        # They came in the order of their times, so the old ones are in front.
        for request_id, answer in list(self._answers.items()):
            if answer.time_s >= before_s and len(self._answers) <= ANSWERS_MAX:
                break
            del self._answers[request_id]

    def _segment_for(self, count: int) -> Segment:
        newest = self._segments[-1] if self._segments else None
        if newest is not None and not (
            self._sealed
            or newest.size >= _SEGMENT_SIZE_MAX
            or (newest.record_count and newest.record_count + count > self._records_max)
        ):
            return newest
        number = self._last_number + 1
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            segment = Segment.create(self._folder / f"{number:08d}.segment", number)
        except OSError as error:
            raise StorageError(
                f"cannot make a segment in {self._folder}: {error.strerror}",
                hint="check that the disk is not full or read-only",
            ) from error
        self._segments.append(segment)
        self._last_number = number
        self._sealed = False
        return segment


def _run(ordered: Sequence[bytes], prefix: bytes, after_key: bytes) -> islice[bytes]:
    start = max(bisect_left(ordered, prefix), bisect_right(ordered, after_key) if after_key else 0)
    return islice(ordered, start, None)


def _load(path: Path, *, is_newest: bool, answers: dict[bytes, Answer]) -> Segment:
    frames = _whole_commits(list(read_frames(path)))
    kept = frames[-1][1] if frames else 0
    torn_bytes = path.stat().st_size - kept if frames else 0
    if torn_bytes and not is_newest:
        raise CorruptError(
            f"{path} is damaged at offset {kept}, and segments follow it",
            hint="`rostral-gcs verify --cut` keeps what is before it; or restore a backup",
            path=str(path),
            offset=kept,
        )
    if torn_bytes:
        logger.warning("path=%s cut a torn tail of bytes=%d", path, torn_bytes)
    segment = Segment(path, int(path.name[:8]))
    segment.load(frames)
    for _, _, frame in frames:
        if frame.answer is not None:
            answers[frame.answer.request_id] = frame.answer
    return segment


def _whole_commits(frames: list[tuple[int, int, Frame]]) -> list[tuple[int, int, Frame]]:
    while frames and frames[-1][2].more:
        frames.pop()
    return frames


class _Syncer:
    """A thread that syncs segments soon after they were written to."""

    def __init__(self) -> None:
        self._waiting: dict[int, Segment] = {}
        self._condition = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gcs-lineage-sync", daemon=True)
        self._thread.start()

    def add(self, segment: Segment) -> None:
        """Has the segment synced within the interval."""
        with self._condition:
            if not self._waiting:
                self._condition.notify()
            self._waiting[segment.number] = segment

    def stop(self) -> None:
        """Ends the thread; what waits is synced by closing the segments."""
        self._stopping.set()
        with self._condition:
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._condition:
                while not self._waiting and not self._stopping.is_set():
                    self._condition.wait()
            # What comes in this time is synced with it.
            self._stopping.wait(SYNC_INTERVAL_S)
            with self._condition:
                due = list(self._waiting.values())
                self._waiting.clear()
            for segment in due:
                try:
                    segment.sync()
                except (OSError, ValueError) as error:
                    logger.error("path=%s cannot be synced: %s", segment.path, error)
