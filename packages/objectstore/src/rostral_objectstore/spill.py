"""The objects that lie on disk: which files there are, in which directories, and what is in them.

Many objects share a file, since a disk likes large writes; an object larger than a file has one of
its own. An object that was restored keeps its copy here, so that taking it out of memory again
costs nothing, until the object is deleted. Files of which little is alive are written anew.

Thread-safe. One writes at a time, any number read; nothing but I/O takes long, and no lock that
readers need is held during I/O. What to spill when is decided in room.py.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rostral_objectstore._native import failpoints
from rostral_objectstore.core.eviction import Key
from rostral_objectstore.core.spill_plan import (
    DirectoryView,
    FileView,
    choose_directory,
    plan_upkeep,
    retry_delay_s,
)
from rostral_objectstore.errors import ObjectCorruptError, OutOfDiskError
from rostral_objectstore.spill_directory import SpillDirectory
from rostral_objectstore.spill_file import (
    Entry,
    FileIdentity,
    FileMismatchError,
    Item,
    entries_in,
    expect_entry,
    read_entry,
    stored_bytes,
    write_file_header,
    write_items,
)

logger = logging.getLogger("rostral.objectstore.spill")

FILE_BYTES = 64 << 20
# Of the limit: kept for restoring, which has to write something else out first.
RESERVE_SHARE = 1 / 16
READ_TRIES = 3
READ_PAUSE_S = 0.02
# What the machine lacks, not the file: the object is still there.
PASSING_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN})


class SpillStats(NamedTuple):
    """How much lies on disk."""

    objects: int
    live_bytes: int
    file_bytes: int
    files: int


@dataclass(slots=True)
class _File:
    number: int
    directory: int
    size_bytes: int
    live_bytes: int = 0
    keys: set[Key] = field(default_factory=set)


class SpillStore:
    """The spilled objects of one store.

    Args:
        paths: the directories; each checked by `spill_directory.problems_of`.
        limit_bytes: how much all files together may take; None: what the disks have.
        free_share_min: no file system is filled beyond this share of it, 0 to 1.
        file_bytes: objects are gathered in files of about this size.
        incarnation: 16 bytes that name this life of the store; random if left out.
        clock: seconds, for the time that a directory which failed is left alone.

    Raises:
        ConfigError: a directory cannot be used.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        limit_bytes: int | None = None,
        free_share_min: float = 0.05,
        file_bytes: int = FILE_BYTES,
        incarnation: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_bytes, self._free_share_min = limit_bytes, free_share_min
        self._file_bytes, self._clock = file_bytes, clock
        self._incarnation = os.urandom(16) if incarnation is None else incarnation
        self._boot_id = _boot_id()
        self._directories: list[SpillDirectory] = []
        self._entries: dict[Key, Entry] = {}
        self._files: dict[int, _File] = {}
        self._last_number = 0
        self._open_file: tuple[_File, int] | None = None
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        try:
            for path in paths:
                self._directories.append(SpillDirectory(path, self._incarnation))
        except BaseException:
            self.close()
            raise

    def close(self, *, keep: bool = False) -> None:
        """Deletes all that is spilled, and the folders. Nobody may read or write any more.

        With `keep` they stay, for the daemon that takes this store over.
        """
        with self._writing:
            self._finish_file()
            for directory in self._directories:
                if keep:
                    directory.leave()
                else:
                    directory.close()
            self._directories = []

    def recover(self, live: Container[Key]) -> None:
        """Finds what a daemon before us spilled: of the objects in `live`, that is. Blocks on I/O.

        What cannot be read is logged and left out; its objects are lost.
        """
        for index, directory in enumerate(self._directories):
            try:
                numbers = directory.numbers()
            except OSError as error:
                logger.error("cannot look into folder=%s error=%s", directory.path, error)
                continue
            for number in numbers:
                self._last_number = max(self._last_number, number)
                self._recover_file(index, number, live)

    def _recover_file(self, index: int, number: int, live: Container[Key]) -> None:
        directory = self._directories[index]
        entries: list[Entry] = []
        try:
            fd = directory.open(number)
            try:
                self._files[number] = _File(number, index, os.fstat(fd).st_size)
                for entry in entries_in(fd, self._identity(number)):
                    entries.append(entry)
            finally:
                os.close(fd)
        except (OSError, FileMismatchError) as error:
            logger.error("cannot recover file=%s error=%s", directory.file_path(number), error)
        self._record([entry for entry in entries if entry.key in live])

    # ---- what there is

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def keys(self) -> frozenset[Key]:
        """The objects that have a copy here, at this moment."""
        with self._lock:
            return frozenset(self._entries)

    def stats(self) -> SpillStats:
        """How much lies on disk."""
        with self._lock:
            return SpillStats(
                len(self._entries),
                sum(file.live_bytes for file in self._files.values()),
                sum(file.size_bytes for file in self._files.values()),
                len(self._files),
            )

    @property
    def accepts(self) -> bool:
        """Whether it is worth a try to write now: some directory has not just failed."""
        now_s = self._clock()
        return any(one.retry_at_s <= now_s for one in self._directories)

    def forget(self, keys: Iterable[Key]) -> None:
        """The objects are deleted: their bytes count no more. Empty files go at `upkeep`."""
        with self._lock:
            for key in keys:
                entry = self._entries.pop(key, None)
                if entry is not None:
                    self._disown(entry)

    def _disown(self, entry: Entry) -> None:
        file = self._files[entry.file]
        file.keys.discard(entry.key)
        file.live_bytes -= entry.stored_bytes

    # ---- writing

    def write(self, items: Sequence[Item], *, urgent: bool = False) -> None:
        """Writes the items to one file: all of them, or none. Blocks as long as the disk does.

        Args:
            items: the objects.
            urgent: use the reserve too. With memory and disk full, it is what lets one object
                change places with another.

        Raises:
            OutOfDiskError: no directory takes them: full, over the limit, or failing.
        """
        with self._writing:
            self._write(items, urgent=urgent)

    def _write(self, items: Sequence[Item], *, urgent: bool) -> None:
        need_bytes = sum(stored_bytes(memoryview(item.block).nbytes) for item in items)
        # Words, and not the error: its traceback would keep the items, and they objects in memory.
        failure, tried = "", 0
        for _ in range(len(self._directories)):
            index = self._directory_for(need_bytes, urgent=urgent)
            if index is None:
                break
            try:
                entries = self._write_to(index, items, need_bytes)
            except OSError as error:
                failure, tried = error.strerror or str(error), index
                self._failed(self._directories[index], failure)
                continue
            self._directories[index].failures_in_a_row = 0
            failpoints.hit("spill.written")
            self._record(entries)
            failpoints.hit("spill.recorded")
            return
        raise self._out_of_disk(need_bytes, tried, failure)

    def _directory_for(self, need_bytes: int, *, urgent: bool) -> int | None:
        limit_bytes, free_share_min = self._limit_bytes, self._free_share_min
        if urgent:
            free_share_min /= 2
        elif limit_bytes is not None:
            limit_bytes -= int(limit_bytes * RESERVE_SHARE)
        return choose_directory(
            self._views(),
            need_bytes=need_bytes,
            limit_bytes=limit_bytes,
            free_share_min=free_share_min,
            now_s=self._clock(),
            prefer=None if self._open_file is None else self._open_file[0].directory,
        )

    def _views(self) -> list[DirectoryView]:
        used = [0] * len(self._directories)
        with self._lock:
            for file in self._files.values():
                used[file.directory] += file.size_bytes
        views = []
        for index, directory in enumerate(self._directories):
            free_bytes, total_bytes = directory.space()
            views.append(
                DirectoryView(
                    index=index,
                    used_bytes=used[index],
                    free_bytes=free_bytes,
                    total_bytes=total_bytes,
                    retry_at_s=directory.retry_at_s,
                )
            )
        return views

    def _write_to(self, index: int, items: Sequence[Item], need_bytes: int) -> list[Entry]:
        file, fd = self._file_for(index, need_bytes)
        begin = file.size_bytes
        failpoints.hit("spill.begun")
        try:
            entries = write_items(fd, self._identity(file.number), items, begin)
        except OSError:
            self._cut(file, fd, begin)
            raise
        with self._lock:
            file.size_bytes = begin + need_bytes
        if file.size_bytes >= self._file_bytes:
            self._finish_file()
        return entries

    def _file_for(self, index: int, need_bytes: int) -> tuple[_File, int]:
        """The open file when the items belong there, else a new one. OSError."""
        if self._open_file is not None:
            file = self._open_file[0]
            small = file.size_bytes + need_bytes <= self._file_bytes + self._file_bytes // 2
            if file.directory == index and small:
                return self._open_file
            self._finish_file()
        self._last_number += 1
        number = self._last_number
        directory = self._directories[index]
        fd = directory.create(number)
        try:
            size_bytes = write_file_header(fd, self._identity(number), self._boot_id)
        except BaseException:
            os.close(fd)
            directory.remove(number)
            raise
        file = _File(number, index, size_bytes)
        with self._lock:
            self._files[number] = file
        self._open_file = file, fd
        return self._open_file

    def _finish_file(self) -> None:
        if self._open_file is not None:
            os.close(self._open_file[1])
            self._open_file = None

    def _cut(self, file: _File, fd: int, size_bytes: int) -> None:
        """Takes back what was half written."""
        try:
            os.ftruncate(fd, size_bytes)
        except OSError as error:
            logger.warning("cannot cut a spill file file=%s error=%s", self._path(file), error)
        self._finish_file()
        if not file.keys:
            self._delete(file.number)

    def _record(self, entries: list[Entry]) -> None:
        with self._lock:
            for entry in entries:
                old = self._entries.get(entry.key)
                if old is not None:
                    self._disown(old)
                self._entries[entry.key] = entry
                file = self._files[entry.file]
                file.keys.add(entry.key)
                file.live_bytes += entry.stored_bytes

    def _failed(self, directory: SpillDirectory, failure: str) -> None:
        directory.failures_in_a_row += 1
        delay_s = retry_delay_s(directory.failures_in_a_row)
        directory.retry_at_s = self._clock() + delay_s
        if directory.failures_in_a_row == 1:
            logger.warning(
                "a spill directory fails folder=%s error=%s retry_s=%s",
                directory.path,
                failure,
                delay_s,
            )

    def _out_of_disk(self, need_bytes: int, tried: int, failure: str) -> OutOfDiskError:
        directory = self._directories[tried]
        free_bytes = directory.space()[0]
        if failure:
            why = failure
        elif not self.accepts:
            why = "it failed a moment ago"
        elif self._limit_bytes is not None and free_bytes > need_bytes:
            why = f"over the limit of {self._limit_bytes} bytes for all spill files"
        else:
            why = f"{self._free_share_min:.0%} of the file system are to stay free"
        out = OutOfDiskError(
            f"cannot spill {need_bytes} bytes to {directory.path} ({why}); {free_bytes} bytes "
            "are free there",
            hint="free space on the disk, raise the limit, or name one more spill directory",
        )
        out.path, out.need_bytes, out.free_bytes = directory.path, need_bytes, free_bytes
        return out

    # ---- reading

    def size_bytes(self, key: Key) -> int | None:
        """Bytes of a spilled object's block; None when it is not here."""
        entry = self._entries.get(key)
        return None if entry is None else entry.size_bytes

    def read(self, key: Key, target: Any) -> None:
        """Reads a spilled object into `target`, a writable buffer of its size, and checks it.

        Blocks as long as the disk does.

        Raises:
            ObjectCorruptError: the file is gone or is not what was written, or the disk fails. The
                object is forgotten here.
            OSError: the machine cannot open a file now; the object is still there.
        """
        for tries in range(READ_TRIES):
            entry = self._entry(key)
            try:
                return self._read_entry(entry, target)
            except FileMismatchError as error:
                if self._is_current(entry):
                    raise self._corrupt(entry, str(error)) from error
            except OSError as error:
                # One that `upkeep` wrote anew meanwhile is somewhere else now.
                if self._is_current(entry):
                    if error.errno in PASSING_ERRORS:
                        raise
                    if error.errno != errno.EIO or tries == READ_TRIES - 1:
                        raise self._corrupt(entry, error.strerror or str(error)) from error
                    time.sleep(READ_PAUSE_S)
        raise self._corrupt(self._entry(key), "it was moved again and again")

    def expect(self, key: Key) -> None:
        """Has the disk begin to bring what `read` will be asked for. A hint, silent if it fails."""
        with contextlib.suppress(ObjectCorruptError, OSError):
            entry = self._entry(key)
            with self._opened(entry) as fd:
                expect_entry(fd, entry)

    def _entry(self, key: Key) -> Entry:
        with self._lock:
            entry = self._entries.get(key)
        if entry is None:
            raise ObjectCorruptError(f"the object at {key} has no copy on disk")
        return entry

    def _read_entry(self, entry: Entry, target: Any) -> None:
        with self._opened(entry) as fd:
            read_entry(fd, self._identity(entry.file), entry, target)

    @contextlib.contextmanager
    def _opened(self, entry: Entry) -> Iterator[int]:
        file = self._files.get(entry.file)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "the file is gone")
        fd = self._directories[file.directory].open(entry.file)
        try:
            yield fd
        finally:
            os.close(fd)

    def _is_current(self, entry: Entry) -> bool:
        return self._entries.get(entry.key) is entry

    def _corrupt(self, entry: Entry, why: str) -> ObjectCorruptError:
        file = self._files.get(entry.file)
        path = "" if file is None else self._path(file)
        self.forget([entry.key])
        logger.error(
            "a spilled object is lost object=%s file=%s offset=%s reason=%s",
            entry.id.hex(),
            path,
            entry.offset,
            why,
        )
        error = ObjectCorruptError(
            f"object {entry.id.hex()} was spilled to {path} at byte {entry.offset}, and cannot be "
            f"read back: {why}",
            hint="the disk, or somebody who writes to our files, has lost it",
        )
        error.path, error.offset = path, entry.offset
        return error

    # ---- reclaiming

    def upkeep(self) -> list[Entry]:
        """Deletes files with nothing alive in them, and writes sparse ones anew. Blocks on I/O.

        Returns what lay where of the objects whose copies turned out to be lost.
        """
        with self._writing:
            if self._open_file is not None and not self._open_file[0].keys:
                self._finish_file()
            open_number = self._open_file[0].number if self._open_file is not None else 0
            with self._lock:
                views = [
                    FileView(f.number, f.size_bytes, f.live_bytes, f.number == open_number)
                    for f in self._files.values()
                ]
            plan = plan_upkeep(views, room_bytes=self._file_bytes)
            for number in plan.delete:
                self._delete(number)
            return [entry for number in plan.rewrite for entry in self._rewrite(number)]

    def _rewrite(self, number: int) -> list[Entry]:
        """Writes what is alive in a file into another one, and deletes it. Returns what is lost."""
        with self._lock:
            entries = [self._entries[key] for key in self._files[number].keys]
        items, lost = [], []
        for entry in sorted(entries, key=lambda entry: entry.offset):
            block = bytearray(entry.size_bytes)
            try:
                self.read(entry.key, block)
            except ObjectCorruptError:
                lost.append(entry)
            except OSError:
                return lost
            else:
                items.append(Item(entry.key, entry.id, entry.kind, entry.flags, block))
        try:
            self._write([item for item in items if item.key in self._entries], urgent=True)
        except OutOfDiskError:
            return lost
        failpoints.hit("reclaim.rewritten")
        self._delete(number)
        return lost

    def _delete(self, number: int) -> None:
        """Deletes a file with nothing alive in it."""
        with self._lock:
            if self._files[number].keys:
                return
            file = self._files.pop(number)
        self._directories[file.directory].remove(number)
        failpoints.hit("reclaim.deleted")

    def _identity(self, number: int) -> FileIdentity:
        return FileIdentity(self._incarnation, number)

    def _path(self, file: _File) -> str:
        return self._directories[file.directory].file_path(file.number)


def _boot_id() -> bytes:
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
