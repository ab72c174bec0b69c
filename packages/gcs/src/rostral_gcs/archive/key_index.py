"""The index of an archive file: from a key to the number of its row, with no keys in memory.

This file owns the form of ``*.index`` files. Entries are a key's fingerprint, 8 bytes, and its row
number, 4 bytes, in order. Fingerprints are spread evenly, so a key's place follows from its
fingerprint to within a few hundred entries and one read finds it::

    MAGIC, count, checksum of the entries      16 bytes
    entries                                    12 bytes each
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

from rostral_gcs.errors import CorruptError

__all__ = ["KeyIndex", "verify_index", "write_index"]

_MAGIC: Final = b"ROSTIDX1"
_HEADER: Final = struct.Struct("<8sII")
_ENTRY_SIZE: Final = 12
_WINDOW: Final = 512


def _fingerprint(key: bytes) -> bytes:
    return blake2b(key, digest_size=8).digest()


def write_index(path: Path, keys: Sequence[bytes]) -> None:
    """Writes and syncs the index of a file whose row ``i`` has the key ``keys[i]``."""
    entries = sorted(
        blake2b(key, digest_size=8).digest() + number.to_bytes(4, "big")
        for number, key in enumerate(keys)
    )
    block = b"".join(entries)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_HEADER.pack(_MAGIC, len(entries), zlib.crc32(block)))
        file.write(block)
        file.flush()
        os.fsync(file.fileno())


def verify_index(path: Path) -> int:
    """Checks the whole file and returns how many rows it has.

    Raises:
        CorruptError: It is damaged.
    """
    content = path.read_bytes()
    if len(content) >= _HEADER.size:
        magic, count, checksum = _HEADER.unpack_from(content)
        block = content[_HEADER.size :]
        whole = len(block) == count * _ENTRY_SIZE and zlib.crc32(block) == checksum
        if magic == _MAGIC and whole:
            return int(count)
    raise CorruptError(
        f"{path} is damaged", hint="restore the directory from a backup", path=str(path)
    )


class KeyIndex:
    """An open index. Threads may share it.

    Args:
        path: The file.

    Raises:
        CorruptError: It is no index.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        header = os.pread(self._descriptor, _HEADER.size, 0)
        size = os.fstat(self._descriptor).st_size
        try:
            magic, self._count, _ = _HEADER.unpack(header)
        except struct.error:
            magic, self._count = b"", 0
        if magic != _MAGIC or size != _HEADER.size + self._count * _ENTRY_SIZE:
            self.close()
            raise CorruptError(
                f"{path} is damaged", hint="restore the directory from a backup", path=str(path)
            )

    def close(self) -> None:
        """Closes. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def candidates(self, key: bytes) -> list[int]:
        """Numbers of rows that may have the key: nearly always the right one, or none."""
        wanted = _fingerprint(key)
        estimate = int.from_bytes(wanted, "big") * self._count >> 64
        reach = _WINDOW
        while True:
            first = max(0, estimate - reach)
            last = min(self._count, estimate + reach)
            window = os.pread(
                self._descriptor,
                (last - first) * _ENTRY_SIZE,
                _HEADER.size + first * _ENTRY_SIZE,
            )
            reaches_down = first == 0 or window[:8] < wanted
            reaches_up = last == self._count or window[-_ENTRY_SIZE:][:8] > wanted
            if reaches_down and reaches_up:
                return _matches(window, wanted)
            reach *= 8


def _matches(window: bytes, wanted: bytes) -> list[int]:
    found: list[int] = []
    at = window.find(wanted)
    while at >= 0:
        if at % _ENTRY_SIZE == 0:
            found.append(int.from_bytes(window[at + 8 : at + _ENTRY_SIZE], "big"))
        at = window.find(wanted, at + 1)
    return found
