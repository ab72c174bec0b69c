"""One file of the lineage log: frames of rows as columns, and the index of what lies where.

This file owns the form of a segment file and the index of one. A frame is one request's rows of one
table, written whole; its checksum covers header and payload::

    file     MAGIC, number of the segment                                            16 bytes
    frame    mark, checksum, payload size, first sequence, row count, table, key size, flags, time,
             request id                                                              56 bytes
    payload  keys | value sizes, 4 bytes each | sequences, 8 bytes each, if HAS_SEQUENCES | values |
             answer

All integers are little-endian. A frame without rows carries an answer alone. Frames that belong
together have MORE set but for the last: what a death left without its last one is cut off.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Final

from rostral_gcs.backends.base import Answer, Row
from rostral_gcs.errors import CorruptError, StorageError

__all__ = ["RECORDS_MAX", "Frame", "Segment", "read_frames"]

RECORDS_MAX: Final = 1 << 17
"""Most records in a segment: its index must stay small enough to be dropped at one blow."""

_MAGIC: Final = b"ROSTLOG1"
_FILE: Final = struct.Struct("<8sQ")
_MARK: Final = b"\xf5GCS"
_HEADER: Final = struct.Struct("<4sIIQIHHId16s")
_CHECKED: Final = 8  # The checksum covers what follows mark and checksum.
_MORE: Final = 1
_HAS_SEQUENCES: Final = 2
# Index values are shared by all segments, or each would be an integer object of its own.
_ORDINALS: Final = list(range(RECORDS_MAX))
assert array("I").itemsize == 4
_SWAP: Final = sys.byteorder != "little"


@dataclass(slots=True, kw_only=True)
class Frame:
    """One frame; see the drawing above.

    Attributes:
        table: The table's number; 0 for a frame that carries an answer alone.
        key_size: Bytes of each key.
        keys: The keys, one after the other.
        sizes: The size of each value.
        values: The values, one after the other.
        first_sequence: Of the first row, when the rows' sequences follow one another.
        sequences: Of each row, when they do not.
        answer: The remembered answer of the request that wrote the rows.
        more: The next frame belongs to the same commit.
    """

    table: int = 0
    key_size: int = 0
    keys: bytes = b""
    sizes: Sequence[int] = ()
    values: bytes = b""
    first_sequence: int = 0
    sequences: Sequence[int] | None = None
    answer: Answer | None = None
    more: bool = False

    def encode(self) -> list[bytes]:
        """The parts of the frame as they lie in the file."""
        parts = [self.keys, _packed("I", self.sizes)]
        if self.sequences is not None:
            parts.append(_packed("Q", self.sequences))
        parts.append(self.values)
        answer = self.answer
        if answer is not None:
            parts.append(answer.payload)
        flags = (_MORE if self.more else 0) | (_HAS_SEQUENCES if self.sequences is not None else 0)
        size = sum(map(len, parts))
        header = _HEADER.pack(
            _MARK,
            0,
            size,
            self.first_sequence,
            len(self.sizes),
            self.table,
            self.key_size,
            flags,
            answer.time_s if answer is not None else 0.0,
            answer.request_id if answer is not None else bytes(16),
        )
        checksum = zlib.crc32(header[_CHECKED:])
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        return [header[:4] + checksum.to_bytes(4, "little") + header[_CHECKED:], *parts]

    @property
    def values_offset(self) -> int:
        """Where the values begin, from the start of the frame."""
        sequences_size = 0 if self.sequences is None else 8 * len(self.sizes)
        return _HEADER.size + len(self.keys) + 4 * len(self.sizes) + sequences_size

    def key_list(self) -> list[bytes]:
        """The keys apart."""
        keys, size = self.keys, self.key_size
        return [keys[at : at + size] for at in range(0, len(keys), size)]


def _packed(kind: str, numbers: Sequence[int]) -> bytes:
    packed = array(kind, numbers)
    if _SWAP:
        packed.byteswap()
    return packed.tobytes()


def _unpacked(kind: str, block: bytes | memoryview) -> array[int]:
    numbers = array(kind)
    numbers.frombytes(block)
    if _SWAP:
        numbers.byteswap()
    return numbers


def _frame_at(content: memoryview, at: int) -> tuple[Frame, int] | None:
    """The frame that begins there and where it ends; None when none does, or a damaged one."""
    if at + _HEADER.size > len(content):
        return None
    (mark, checksum, size, first_sequence, count, table, key_size, flags, time_s, request_id) = (
        _HEADER.unpack_from(content, at)
    )
    end = at + _HEADER.size + size
    if mark != _MARK or end > len(content):
        return None
    if zlib.crc32(content[at + _CHECKED : end]) != checksum:
        return None
    part = at + _HEADER.size
    keys = bytes(content[part : part + count * key_size])
    part += count * key_size
    sizes = _unpacked("I", content[part : part + 4 * count])
    part += 4 * count
    sequences: array[int] | None = None
    if flags & _HAS_SEQUENCES:
        sequences = _unpacked("Q", content[part : part + 8 * count])
        part += 8 * count
    values_end = part + sum(sizes)
    payload = bytes(content[values_end:end])
    answer = Answer(request_id, payload, time_s) if payload else None
    return Frame(
        table=table,
        key_size=key_size,
        keys=keys,
        sizes=sizes,
        values=bytes(content[part:values_end]),
        first_sequence=first_sequence,
        sequences=sequences,
        answer=answer,
        more=bool(flags & _MORE),
    ), end


def read_frames(path: Path) -> Iterator[tuple[int, int, Frame]]:
    """Yields start, end and content of each frame of a segment file, up to a tail that is torn.

    Raises:
        CorruptError: A frame is damaged, and a whole one follows it; or it is no segment file.
    """
    with path.open("rb") as file:
        content = memoryview(file.read())
    if len(content) < _FILE.size or bytes(content[: len(_MAGIC)]) != _MAGIC:
        if len(content) < _FILE.size:
            return  # Made, and never written to.
        raise CorruptError(
            f"{path} is no segment of a lineage log",
            hint="restore the directory from a backup",
            path=str(path),
        )
    at = _FILE.size
    while at < len(content):
        found = _frame_at(content, at)
        if found is None:
            if _whole_frame_follows(content, at + 1):
                raise CorruptError(
                    f"{path} is damaged at offset {at}, before frames that are whole",
                    hint="`rostral-gcs verify --cut` keeps what is before it; or restore a backup",
                    path=str(path),
                    offset=at,
                )
            return
        frame, end = found
        yield at, end, frame
        at = end


def _whole_frame_follows(content: memoryview, at: int) -> bool:
    block = bytes(content[at:])
    place = block.find(_MARK)
    while place >= 0:
        if _frame_at(content, at + place) is not None:
            return True
        place = block.find(_MARK, place + 1)
    return False


class Segment:
    """One open segment file and its index.

    Used by one thread, but for ``sync`` and ``values``, which any may call.

    Args:
        path: The file; made by ``create``.
        number: Segments are used in the order of their numbers.
    """

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self.size = 0
        self.is_synced = True
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._indexes: dict[int, dict[bytes, int]] = {}
        self._ordered: dict[int, list[bytes]] = {}
        self._offsets = array("I")
        self._sizes = array("I")
        self._sequences = array("Q")
        self._first_bytes: Counter[tuple[int, int]] = Counter()

    @classmethod
    def create(cls, path: Path, number: int) -> Segment:
        """Makes a new file."""
        segment = cls(path, number)
        os.pwrite(segment._descriptor, _FILE.pack(_MAGIC, number), 0)
        segment.size = _FILE.size
        return segment

    def load(self, frames: Sequence[tuple[int, int, Frame]]) -> None:
        """Takes in what ``read_frames`` found, and cuts off whatever lies behind it."""
        self.size = frames[-1][1] if frames else _FILE.size
        if not frames:
            os.pwrite(self._descriptor, _FILE.pack(_MAGIC, self.number), 0)
        os.ftruncate(self._descriptor, self.size)
        for start, _, frame in frames:
            self._take_in(start, frame)

    def close(self) -> None:
        """Syncs and closes. May be called twice."""
        if self._descriptor >= 0:
            self.sync()
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Closes and deletes the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self.path.unlink(missing_ok=True)

    @property
    def record_count(self) -> int:
        """Records written, overwritten ones included."""
        return len(self._offsets)

    def append(self, frames: Sequence[Frame]) -> None:
        """Writes the frames, all or none.

        Raises:
            StorageError: The disk is full or failed.
        """
        parts = [part for frame in frames for part in frame.encode() if part]
        block = b"".join(parts)
        try:
            self._write(block)
        except OSError as error:
            os.ftruncate(self._descriptor, self.size)
            raise StorageError(
                f"cannot write to {self.path}: {error.strerror}",
                hint="check that the disk is not full, read-only or damaged",
            ) from error
        self.is_synced = False
        start = self.size
        self.size += len(block)
        for frame in frames:
            self._take_in(start, frame)
            start += frame.values_offset + len(frame.values)
            start += len(frame.answer.payload) if frame.answer is not None else 0

    def _write(self, block: bytes) -> None:
        view = memoryview(block)
        at = self.size
        while view:
            written = os.pwrite(self._descriptor, view, at)
            view = view[written:]
            at += written

    def _take_in(self, start: int, frame: Frame) -> None:
        count = len(frame.sizes)
        if not count:
            return
        at = len(self._offsets)
        index = self._indexes.setdefault(frame.table, {})
        index.update(zip(frame.key_list(), _ORDINALS[at : at + count], strict=True))
        starts = list(islice(accumulate(frame.sizes, initial=0), count))
        base = start + frame.values_offset
        self._offsets.extend([base + one for one in starts])
        if 0 not in frame.sizes:
            codes = Counter(map(frame.values.__getitem__, starts))
            self._first_bytes.update({(frame.table, one): codes[one] for one in codes})
        self._sizes.extend(frame.sizes)
        first = frame.first_sequence
        self._sequences.extend(frame.sequences or range(first, first + count))

    def sync(self) -> None:
        """Makes what was appended safe on disk."""
        if not self.is_synced and self._descriptor >= 0:
            # Before, not after: what comes meanwhile is for the next one.
            self.is_synced = True
            os.fdatasync(self._descriptor)

    def count_of(self, table: int, codes: frozenset[int] | None) -> int:
        """About how many records' values begin with one of the bytes; None: with any."""
        return sum(
            count
            for (of_table, code), count in self._first_bytes.items()
            if of_table == table and (codes is None or code in codes)
        )

    def holds(self, table: int, key: bytes) -> bool:
        """Whether a row of that key is in it."""
        index = self._indexes.get(table)
        return index is not None and key in index

    def row(self, table: int, key: bytes) -> Row | None:
        """The newest row of that key in it."""
        index = self._indexes.get(table)
        ordinal = None if index is None else index.get(key)
        if ordinal is None:
            return None
        value = os.pread(self._descriptor, self._sizes[ordinal], self._offsets[ordinal])
        return Row(key, value, self._sequences[ordinal])

    def rows(self, table: int, after: int, count: int) -> list[tuple[int, Row]]:
        """Rows of a table in the order in which they were written, with their numbers.

        Each key once, as it was written last. Any thread may call it.

        Args:
            table: The table's number.
            after: Only rows with a number above it; -1 for all.
            count: Most rows.
        """
        # One step for the interpreter, so that the shard's thread cannot change it meanwhile.
        entries = list(self._indexes.get(table, {}).items())
        wanted = sorted((ordinal, key) for key, ordinal in entries if ordinal > after)[:count]
        if not wanted:
            return []
        start = self._offsets[wanted[0][0]]
        end = self._offsets[wanted[-1][0]] + self._sizes[wanted[-1][0]]
        block = os.pread(self._descriptor, end - start, start)
        found: list[tuple[int, Row]] = []
        for ordinal, key in wanted:
            at = self._offsets[ordinal] - start
            value = block[at : at + self._sizes[ordinal]]
            found.append((ordinal, Row(key, value, self._sequences[ordinal])))
        return found

    @property
    def tables(self) -> list[int]:
        """The tables that it has rows of."""
        return list(self._indexes)

    def keys(self, table: int) -> list[bytes]:
        """All keys of a table, in order. Theirs: not to be changed."""
        index = self._indexes.get(table, {})
        ordered = self._ordered.setdefault(table, [])
        if len(ordered) != len(index):
            # A dict keeps the order of insertion, so what is new is at its end; sorting what is
            # nearly sorted is quick.
            ordered.extend(islice(index, len(ordered), None))
            ordered.sort()
        return ordered

    @property
    def last_sequence(self) -> int:
        """The highest sequence in it; 0 when it is empty."""
        return max(self._sequences, default=0)
