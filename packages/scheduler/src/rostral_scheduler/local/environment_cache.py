"""A folder of what is dear to make and named by its content: virtual environments, packages.

This file owns the folder's layout and locks. Each entry is ``NAME/``, complete once it has a
``.complete`` file with its size in bytes, beside ``NAME.lock``: whoever uses the entry has the lock
shared, whoever makes or removes it exclusively. Several nodes of a user may share the folder; a
process that dies at any moment leaves at most an entry without its mark, which the next user makes
anew. Which entries go when there are too many is in ``core/environments.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from rostral_scheduler.core.environments import CacheEntry, choose_removals

__all__ = ["Cache", "Lease"]

logger = logging.getLogger("rostral.scheduler.environments")

_MARK: Final = ".complete"
_POLL_S: Final = 0.05


class Lease:
    """An entry in use: it is not removed before ``end``, or the process's end."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def end(self) -> None:
        """The entry may go now. May be called twice."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            # Used until now: that is what "least recently used" looks at.
            with contextlib.suppress(OSError):
                os.utime(self.path / _MARK)
            os.close(lock)


class Cache:
    """One such folder.

    Args:
        folder: Made at first use.
        count_max: Entries that are kept when nobody uses them.
        size_max: Bytes that they may take together.
        mode: Of the folder and its entries: by default, for this user alone.
    """

    def __init__(self, folder: Path, *, count_max: int, size_max: int, mode: int = 0o700) -> None:
        self._folder = folder
        self._mode = mode
        self._count_max = count_max
        self._size_max = size_max

    async def lease(self, name: str, make: Callable[[Path], Awaitable[None]]) -> Lease:
        """The entry of that name; ``make`` fills its folder if it is not there yet.

        Of all who want it at once, in whatever process, one makes it and the others wait.

        Raises: OSError; what ``make`` raises, and then nothing of the entry is left.
        """
        await asyncio.to_thread(self._make_folder)
        path = self._folder / name
        while True:
            lock = self._open_lock(name)
            try:
                is_made = (path / _MARK).exists()
                if _try_lock(lock, fcntl.LOCK_SH if is_made else fcntl.LOCK_EX) and (
                    self._is_current(name, lock)
                ):
                    if is_made and (path / _MARK).exists():
                        os.utime(path / _MARK)
                        return Lease(path, lock)
                    if not is_made and not (path / _MARK).exists():
                        await self._make(path, make)
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
            if not (path / _MARK).exists():
                await asyncio.sleep(_POLL_S)

    def _make_folder(self) -> None:
        if not self._folder.exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(self._mode)

    async def _make(self, path: Path, make: Callable[[Path], Awaitable[None]]) -> None:
        await asyncio.to_thread(_make_empty, path, self._mode)
        try:
            await make(path)
            size = await asyncio.to_thread(_size_of, path)
            (path / _MARK).write_text(str(size))
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    async def trim(self) -> list[str]:
        """Removes entries beyond the limits that nobody uses; returns their names."""
        return await asyncio.to_thread(self._trim)

    def _trim(self) -> list[str]:
        removed = []
        for name in choose_removals(self._entries(), self._count_max, self._size_max):
            lock = self._open_lock(name)
            try:
                if _try_lock(lock, fcntl.LOCK_EX) and self._is_current(name, lock):
                    # The mark first: a half-removed entry must not pass for a whole one.
                    (self._folder / name / _MARK).unlink(missing_ok=True)
                    shutil.rmtree(self._folder / name, ignore_errors=True)
                    (self._folder / f"{name}.lock").unlink(missing_ok=True)
                    removed.append(name)
            finally:
                os.close(lock)
        if removed:
            logger.info("removed unused environments names=%s", ",".join(removed))
        return removed

    def _entries(self) -> list[CacheEntry]:
        entries = []
        for mark in self._folder.glob(f"*/{_MARK}"):
            with contextlib.suppress(OSError, ValueError):
                size, used = int(mark.read_text()), mark.stat().st_mtime
                entries.append(CacheEntry(mark.parent.name, size, used))
        return entries

    def _open_lock(self, name: str) -> int:
        path = self._folder / f"{name}.lock"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _is_current(self, name: str, lock: int) -> bool:
        """Whether others find this very lock: its file is removed with its entry."""
        try:
            return os.stat(self._folder / f"{name}.lock").st_ino == os.fstat(lock).st_ino
        except FileNotFoundError:
            return False


def _make_empty(path: Path, mode: int) -> None:
    """Whoever died while making it has left a part of it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    path.chmod(mode)  # Whatever the umask.


def _try_lock(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _size_of(path: Path) -> int:
    """Bytes on disk of all files below."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
