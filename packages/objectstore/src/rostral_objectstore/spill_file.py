"""The form of a spill file: how sealed objects lie on disk, and what makes one of them believed.

    file header (64 bytes) | entry | entry | ...
    entry: header (128 bytes) | the object's block, padded to 64 bytes

Owns bytes and one file descriptor at a time; which files there are is spill.py's matter. A header
names the life of the store and the number of the file, so that no file is taken for another one.
The reader knows from memory what an entry's header must be, to the last bit, and the checksum of
what follows: a file that was changed, cut, swapped or replaced is noticed before anybody sees its
bytes. All integers are little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from rostral_objectstore._native import failpoints
from rostral_objectstore.checksum import checksum, checksum_of
from rostral_objectstore.core.eviction import Key

FORMAT_VERSION = 1
# magic, version, reserved, life of the store, boot id, number of the file, checksum of these
FILE_HEADER = struct.Struct("<8sII16s16sQQ")
FILE_MAGIC = b"RSTSPILL"
# magic, life of the store, number of the file, id, kind, flags, locator, version, size of the
# block, reserved, checksum of these and the block
ENTRY_HEADER = struct.Struct("<8s16sQ20sIIIIQ44xQ")
ENTRY_MAGIC = b"RSTENTRY"
ALIGNMENT = 64
PAGE_BYTES = 4096
# Large enough for a disk, small enough that the pages are on their way before the next is copied.
STEP_BYTES = 8 << 20
# While one piece is looked at, the disk brings the next.
READ_BYTES = 1 << 20
# Of an object that is waited for without room for it: what the kernel may keep meanwhile.
EXPECTED_BYTES_MAX = 64 << 20
# The kernel takes no more than 1024 pieces in one call.
PIECES_MAX = 512


class Item(NamedTuple):
    """A sealed object to be written. `block` is its verbatim bytes, a buffer."""

    key: Key
    id: bytes
    kind: int
    flags: int
    block: Any


class FileIdentity(NamedTuple):
    """Which file of which life of which store."""

    incarnation: bytes
    number: int


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an object lies on disk, and all that must be found there."""

    key: Key
    id: bytes
    kind: int
    flags: int
    size_bytes: int
    file: int
    offset: int
    checksum: int

    @property
    def stored_bytes(self) -> int:
        """What it takes of the file, header and padding included."""
        return stored_bytes(self.size_bytes)


class FileMismatchError(Exception):
    """A file is not what was written to it; the text says how. Turned into ours by spill.py."""


def stored_bytes(size_bytes: int) -> int:
    """What a block of this size takes of a file."""
    return ENTRY_HEADER.size + -(-size_bytes // ALIGNMENT) * ALIGNMENT


def write_file_header(fd: int, identity: FileIdentity, boot_id: bytes) -> int:
    """Begins a file. Returns the offset of its first entry."""
    fields = (FILE_MAGIC, FORMAT_VERSION, 0, identity.incarnation, boot_id, identity.number)
    packed = FILE_HEADER.pack(*fields, 0)[:-8]
    _write_all(fd, [packed, checksum(packed).to_bytes(8, "little")], 0)
    return FILE_HEADER.size


def write_items(fd: int, identity: FileIdentity, items: Sequence[Item], at: int) -> list[Entry]:
    """Writes the items one after the other from offset `at` on. Blocks as long as the disk does.

    Raises OSError; then nothing that lies from `at` on means anything.
    """
    entries = []
    pieces: list[Any] = []
    pieces_at, pieces_bytes = at, 0
    for item in items:
        block = memoryview(item.block).cast("B")
        header = _entry_header(identity, item, block.nbytes, 0)[:-8]
        digest = checksum(header, block)
        entries.append(
            Entry(
                item.key, item.id, item.kind, item.flags, block.nbytes, identity.number, at, digest
            )
        )
        padding = bytes(-block.nbytes % ALIGNMENT)
        pieces += [header, digest.to_bytes(8, "little"), block, padding]
        at += entries[-1].stored_bytes
        pieces_bytes += entries[-1].stored_bytes
        if pieces_bytes >= STEP_BYTES or len(pieces) > PIECES_MAX - 4:
            _write_all(fd, pieces, pieces_at)
            pieces, pieces_at, pieces_bytes = [], at, 0
    _write_all(fd, pieces, pieces_at)
    return entries


def expect_entry(fd: int, entry: Entry) -> None:
    """Has the disk begin to bring what `read_entry` will read; of large ones the beginning."""
    expected_bytes = min(entry.stored_bytes, EXPECTED_BYTES_MAX)
    os.posix_fadvise(fd, entry.offset, expected_bytes, os.POSIX_FADV_WILLNEED)


def read_entry(fd: int, identity: FileIdentity, entry: Entry, target: Any) -> None:
    """Reads an object's block into `target`, a writable buffer of its size, and checks it.

    Raises FileMismatchError when it is not what was written, then `target` has anything in it;
    OSError when the disk cannot be read.
    """
    block = memoryview(target).cast("B")
    os.posix_fadvise(fd, entry.offset, entry.stored_bytes, os.POSIX_FADV_WILLNEED)
    file_header, header = bytearray(FILE_HEADER.size), bytearray(ENTRY_HEADER.size)
    _read_all(fd, file_header, 0)
    _check_file_header(bytes(file_header), identity)
    _read_all(fd, header, entry.offset)
    item = Item(entry.key, entry.id, entry.kind, entry.flags, b"")
    if header != _entry_header(identity, item, entry.size_bytes, entry.checksum):
        raise FileMismatchError("the entry's header is another one")
    pieces = _read_pieces(fd, block, entry.offset + ENTRY_HEADER.size)
    if checksum_of(chain([header[:-8]], pieces)) != entry.checksum:
        raise FileMismatchError("the checksum is wrong")


def entries_in(fd: int, identity: FileIdentity) -> Iterator[Entry]:
    """What a file says that it holds, for one who comes after its writer; blocks are not read.

    Ends at the first place that is no entry: its writer died there. What is given here is believed
    only once `read_entry` has checked it. Raises FileMismatchError for a file of another store,
    OSError.
    """
    file_header = bytearray(FILE_HEADER.size)
    _read_all(fd, file_header, 0)
    _check_file_header(bytes(file_header), identity)
    at, end = FILE_HEADER.size, os.fstat(fd).st_size
    while at + ENTRY_HEADER.size <= end:
        header = bytearray(ENTRY_HEADER.size)
        _read_all(fd, header, at)
        magic, incarnation, number, id, kind, flags, loc, version, size_bytes, digest = (
            ENTRY_HEADER.unpack(header)
        )
        entry = Entry((loc, version), id, kind, flags, size_bytes, number, at, digest)
        if magic != ENTRY_MAGIC or (incarnation, number) != identity:
            return
        at += entry.stored_bytes
        if at > end:
            return
        yield entry


def _entry_header(identity: FileIdentity, item: Item, size_bytes: int, digest: int) -> bytes:
    return ENTRY_HEADER.pack(
        ENTRY_MAGIC, *identity, item.id, item.kind, item.flags, *item.key, size_bytes, digest
    )


def _check_file_header(header: bytes, identity: FileIdentity) -> None:
    magic, version, _, incarnation, _, number, digest = FILE_HEADER.unpack(header)
    if magic != FILE_MAGIC or version != FORMAT_VERSION or digest != checksum(header[:-8]):
        raise FileMismatchError("this is no spill file of ours")
    if (incarnation, number) != identity:
        raise FileMismatchError(f"this is file {number} of another store, or of another time")


def _write_all(fd: int, pieces: Sequence[Any], at: int) -> None:
    """Writes all of the pieces, whatever the kernel takes at a time.

    Tells the kernel at each step that the pages can go: it begins to write them at once, rather
    than when so much has gathered that every writer has to wait.
    """
    rest = [memoryview(piece) for piece in pieces if len(piece)]
    while rest:
        step, step_bytes = [], 0
        for piece in rest:
            step.append(piece[: STEP_BYTES - step_bytes])
            step_bytes += len(step[-1])
            if step_bytes >= STEP_BYTES:
                break
        written = os.pwritev(fd, step, at)
        # All but the last page: the next write goes on in it, and would wait for the disk, which
        # takes four fifths of the speed (measured).
        whole = (at + written) // PAGE_BYTES * PAGE_BYTES - at
        if whole > 0:
            os.posix_fadvise(fd, at, whole, os.POSIX_FADV_DONTNEED)
        at += written
        rest = _after(rest, written)
        failpoints.hit("spill.partly")


def _after(pieces: list[memoryview], count: int) -> list[memoryview]:
    """What is left of the pieces after their first `count` bytes."""
    for i, piece in enumerate(pieces):
        if count < len(piece):
            return [piece[count:], *pieces[i + 1 :]]
        count -= len(piece)
    return []


def _read_all(fd: int, target: Any, at: int) -> None:
    for _ in _read_pieces(fd, memoryview(target), at):
        pass


def _read_pieces(fd: int, target: memoryview, at: int) -> Iterator[memoryview]:
    """Fills the target; gives each piece as soon as it is there."""
    done = 0
    while done < len(target):
        piece = target[done : done + READ_BYTES]
        count = os.preadv(fd, [piece], at + done)
        if count == 0:
            raise FileMismatchError(f"the file ends at byte {at + done}")
        yield piece[:count]
        done += count
