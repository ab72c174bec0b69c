"""The journal of a shard's database: commits are written and synced here before they are applied.

This file owns the form of the journal's file and what is read back of it after a death. A commit to
the database writes half a dozen pages to a growing file; here it is one record in a file whose
blocks are there already, which syncs in half the time. So a write is acknowledged when its record
is safe, and the database is brought up to it while its caller hears of that (``embedded.py``).

The file grows in steps, is written from its begin to its end, and then from its begin again, once
the database has all that is in it on disk. Each turn has a random name; a record of another turn
ends what is read::

    record   turn, checksum, payload size, up to where the file was synced before it    20 bytes
             payload

All integers are little-endian. The checksum covers all of the record but itself. A record that is
not whole is what a death left: nobody was told of it, unless a later one says that it was synced.
Then the file is damaged, and the server refuses to start.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rostral_gcs.backends.base import Answer, Change
from rostral_gcs.errors import CorruptError, StorageError

__all__ = ["Commit", "Journal", "read_journal", "whole_part"]

Commit = tuple[list[Change], list[Answer]]
"""What one record holds."""

SIZE_MAX: Final = 8 * 1024 * 1024
_STEP: Final = 256 * 1024
_SPARE: Final = 64 * 1024  # More than heads, keys and answers of a few rows take.
_HEAD: Final = struct.Struct("<8sIII")
_TURN_SIZE: Final = 8
_CHECKED: Final = 12  # The checksum covers the turn, and what follows the checksum.
_COUNTS: Final = struct.Struct("<II")
_CHANGE: Final = struct.Struct("<QHHiB")
_ANSWER: Final = struct.Struct("<dHI")


class Journal:
    """One shard's journal. Used by the shard's thread.

    Args:
        path: The file; made at the first record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._turn = os.urandom(_TURN_SIZE)
        self._end = 0
        self._synced = 0
        self._room = 0

    def open(self) -> list[Commit]:
        """What the last life left, oldest first; apply it, and then begin a new turn.

        Raises:
            CorruptError: A record is damaged that somebody was told of.
            StorageError: The file cannot be read.
        """
        return read_journal(self._path)

    def append(
        self, changes: Sequence[Change], answers: Sequence[Answer], *, durable: bool
    ) -> bool:
        """Writes a record, and syncs it and all before it if it must be durable.

        Returns:
            False: there is no room for it; nothing was written. Begin a new turn, or do without.

        Raises:
            StorageError: The disk is full or failed; what was written is not read back.
        """
        payload = _encode(changes, answers)
        size = _HEAD.size + len(payload)
        if self._end + size > SIZE_MAX:
            return False
        head = _HEAD.pack(self._turn, 0, len(payload), self._synced)
        checksum = zlib.crc32(payload, zlib.crc32(head[_CHECKED:], zlib.crc32(self._turn)))
        record = self._turn + checksum.to_bytes(4, "little") + head[_CHECKED:] + payload
        try:
            self._make_room(size)
            _write_all(self._descriptor, record, self._end)
            if durable:
                os.fdatasync(self._descriptor)
        except OSError as error:
            # Its writer hears that it failed, so it must not be read back.
            with contextlib.suppress(OSError):
                os.pwrite(self._descriptor, bytes(_HEAD.size), self._end)
            raise StorageError(
                f"{self._path} cannot be written: {error.strerror}",
                hint="check that the disk is not full, read-only or damaged",
            ) from error
        self._end += size
        if durable:
            self._synced = self._end
        return True

    def has_room(self, size: int) -> bool:
        """Whether a record of a few rows with so many bytes surely fits into this turn."""
        return self._end + size + _SPARE <= SIZE_MAX

    def begin_turn(self) -> None:
        """Writes from the begin again. All that is in it must be on disk elsewhere."""
        self._turn = os.urandom(_TURN_SIZE)
        self._end = self._synced = 0

    def close(self, *, remove: bool) -> None:
        """Closes it; ``remove``: all that is in it is on disk elsewhere. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._room = 0
        if remove:
            self._path.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Writes zeros ahead: a sync of blocks that were never written must also say where."""
        if self._descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o600)
            self._room = os.fstat(self._descriptor).st_size
        while self._room < self._end + size:
            _write_all(self._descriptor, bytes(_STEP), self._room)
            self._room += _STEP


def read_journal(path: Path, *, is_copy: bool = False) -> list[Commit]:
    """The commits of a journal, oldest first; none when there is no file.

    Args:
        path: The file.
        is_copy: It was copied while somebody wrote to it: what is torn is no damage.

    Raises:
        CorruptError: A record is damaged that somebody was told of.
        StorageError: The file cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror}", hint="check the disk"
        ) from error
    commits: list[Commit] = []
    turn = data[:_TURN_SIZE]
    at = 0
    while (end := _record_end(data, at, turn)) is not None:
        commits.append(_decode(data[at + _HEAD.size : end]))
        at = end
    if not is_copy and at:
        _check_torn(path, data, at, turn)
    return commits


def whole_part(data: bytes) -> bytes:
    """The whole records that a journal begins with."""
    at, turn = 0, data[:_TURN_SIZE]
    while (end := _record_end(data, at, turn)) is not None:
        at = end
    return data[:at]


def _record_end(data: bytes, at: int, turn: bytes) -> int | None:
    """Where the record ends; None if there is no whole one of the turn."""
    if len(data) - at < _HEAD.size or data[at : at + _TURN_SIZE] != turn:
        return None
    _, checksum, size, _ = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + size
    if end > len(data) or not size:
        return None
    found = zlib.crc32(turn)
    found = zlib.crc32(data[at + _CHECKED : end], found)
    return end if found == checksum else None


def _check_torn(path: Path, data: bytes, at: int, turn: bytes) -> None:
    """Refuses a damage that is no crash's work: a later record says that it was synced."""
    later = data.find(turn, at + 1)
    while later >= 0:
        if _record_end(data, later, turn) is not None and _HEAD.unpack_from(data, later)[3] > at:
            raise CorruptError(
                f"{path} is damaged at offset {at}, and records follow it",
                hint="restore a backup; or move the file away, which loses what it alone has",
                path=str(path),
                offset=at,
            )
        later = data.find(turn, later + 1)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], offset + written)


def _encode(changes: Sequence[Change], answers: Sequence[Answer]) -> bytes:
    parts = [_COUNTS.pack(len(changes), len(answers))]
    for change in changes:
        value = change.value
        size = -1 if value is None else len(value)
        parts += (
            _CHANGE.pack(change.sequence, change.table, len(change.key), size, change.watchable),
            change.key,
            value or b"",
        )
    for answer in answers:
        parts += (
            _ANSWER.pack(answer.time_s, len(answer.request_id), len(answer.payload)),
            answer.request_id,
            answer.payload,
        )
    return b"".join(parts)


def _decode(payload: bytes) -> Commit:
    change_count, answer_count = _COUNTS.unpack_from(payload)
    at = _COUNTS.size
    changes: list[Change] = []
    for _ in range(change_count):
        sequence, table, key_size, value_size, watchable = _CHANGE.unpack_from(payload, at)
        at += _CHANGE.size
        key = payload[at : at + key_size]
        at += key_size
        value = None if value_size < 0 else payload[at : at + value_size]
        at += max(0, value_size)
        changes.append(Change(sequence, table, key, value, bool(watchable)))
    answers: list[Answer] = []
    for _ in range(answer_count):
        time_s, id_size, size = _ANSWER.unpack_from(payload, at)
        at += _ANSWER.size
        request_id = payload[at : at + id_size]
        at += id_size
        answers.append(Answer(request_id, payload[at : at + size], time_s))
        at += size
    return changes, answers
