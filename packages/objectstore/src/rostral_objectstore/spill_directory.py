"""A directory that objects are spilled to: whether it may be used, and our own corner of it.

Every store has a folder of its own in the directory, named by a random id of this life of the
store and locked for as long as it lives; so several stores may be given one directory. What a store
that died has left there is removed by the next one that starts. Names come from numbers only, and
nothing is opened through a link.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from rostral_gcs.errors import ConfigError

logger = logging.getLogger("rostral.objectstore.spill")

FOLDER_NAME = re.compile(r"rostral-spill-[0-9a-f]{32}")
FILE_NAME = re.compile(r"[0-9]{10}\.spill")
LOCK_NAME = "lock"


def problems_of(path: str, *, free_share_min: float) -> list[str]:
    """Why objects must not be spilled to the directory; empty when they may."""
    try:
        found = os.lstat(path)
        space = os.statvfs(path)
    except OSError as error:
        return [f"spill directory {path}: {error.strerror}; create it with `mkdir -m 700`"]
    if stat.S_ISLNK(found.st_mode):
        return [f"spill directory {path} is a symbolic link: name what it points to"]
    if not stat.S_ISDIR(found.st_mode):
        return [f"spill directory {path} is not a directory"]
    problems = []
    if found.st_uid != os.geteuid():
        problems.append(f"spill directory {path} belongs to user {found.st_uid}, not to us")
    if found.st_mode & 0o022:
        problems.append(
            f"spill directory {path} has mode {stat.S_IMODE(found.st_mode):o}: others can write "
            "to it; `chmod 700` it"
        )
    if not os.access(path, os.W_OK | os.X_OK) or space.f_flag & os.ST_RDONLY:
        problems.append(f"spill directory {path} cannot be written to")
    if space.f_bavail < space.f_blocks * free_share_min:
        problems.append(
            f"spill directory {path}: its file system has {space.f_bavail * space.f_frsize} bytes "
            f"free, less than {free_share_min:.0%}"
        )
    return problems


class SpillDirectory:
    """Our own folder in one spill directory. Not thread-safe against `close`.

    Args:
        path: the directory, as `problems_of` wants it.
        incarnation: 16 bytes that name this life of the store.

    Raises:
        ConfigError: the folder cannot be made, or another process has it.
    """

    def __init__(self, path: str, incarnation: bytes) -> None:
        self.path = str(Path(path) / f"rostral-spill-{incarnation.hex()}")
        self.failures_in_a_row = 0
        self.retry_at_s = 0.0
        name = os.path.basename(self.path)
        try:
            parent = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"spill directory {path}: {error.strerror}") from error
        try:
            # Whoever makes or removes a folder here has this lock: none is taken for dead before
            # it has locked its own.
            fcntl.flock(parent, fcntl.LOCK_EX)
            _remove_dead(parent, path, keep=name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
            self._folder = _open_folder(name, parent)
            self._lock = _lock_folder(self._folder, self.path)
        except OSError as error:
            raise ConfigError(f"spill directory {path}: {error.strerror}") from error
        finally:
            os.close(parent)

    def create(self, number: int) -> int:
        """A new file, open for writing and reading. OSError; FileExistsError too."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(file_name(number), flags, 0o600, dir_fd=self._folder)

    def open(self, number: int) -> int:
        """A file, for reading. Raises OSError with ELOOP for anything but a plain file of ours."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(file_name(number), flags, dir_fd=self._folder)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            os.close(fd)
            raise OSError(errno.ELOOP, "not a plain file of ours", self.file_path(number))
        return fd

    def remove(self, number: int) -> None:
        """Deletes a file. One that is gone already is fine; what else goes wrong is logged."""
        try:
            os.unlink(file_name(number), dir_fd=self._folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("cannot delete file=%s error=%s", self.file_path(number), error)

    def file_path(self, number: int) -> str:
        """Where the file lies, to tell people."""
        return str(Path(self.path) / file_name(number))

    def space(self) -> tuple[int, int]:
        """(bytes free for us, bytes in all) of its file system. (0, 0) when that fails."""
        try:
            space = os.fstatvfs(self._folder)
        except OSError:
            return 0, 0
        return space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize

    def numbers(self) -> list[int]:
        """The files that are there, of a daemon before us. OSError."""
        return [int(name[:10]) for name in os.listdir(self._folder) if FILE_NAME.fullmatch(name)]

    def leave(self) -> None:
        """Leaves the folder, and all that is in it, to the daemon after us."""
        os.close(self._folder)
        os.close(self._lock)

    def close(self) -> None:
        """Removes the folder and all that is in it."""
        try:
            parent = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                _remove_folder(os.path.basename(self.path), self._folder, parent)
            finally:
                os.close(parent)
        except OSError as error:
            logger.warning("cannot remove folder=%s error=%s", self.path, error)
        self.leave()


def file_name(number: int) -> str:
    """The name of a spill file."""
    return f"{number:010d}.spill"


def _open_folder(name: str, parent: int) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)


def _open_lock(folder: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(LOCK_NAME, flags, 0o600, dir_fd=folder)


def _lock_folder(folder: int, path: str) -> int:
    """The descriptor that keeps the folder ours. ConfigError when another process has it."""
    lock = _open_lock(folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise ConfigError(
            f"spill folder {path} is locked by pid {pid}",
            hint="stop that store, or give this one another directory",
        ) from error
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _remove_dead(parent: int, path: str, keep: str) -> None:
    """Removes the folders of stores that are no more. Those that cannot be are logged.

    `keep` is the folder that a daemon before us left to us.
    """
    for name in os.listdir(parent):
        if name == keep or not FOLDER_NAME.fullmatch(name):
            continue
        try:
            with _opened(_open_folder(name, parent)) as folder:
                if os.fstat(folder).st_uid != os.geteuid():
                    continue
                with _opened(_open_lock(folder)) as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove_folder(name, folder, parent)
        except BlockingIOError:
            continue  # its store lives
        except OSError as error:
            logger.warning("cannot remove folder=%s error=%s", Path(path) / name, error)


def _remove_folder(name: str, folder: int, parent: int) -> None:
    for inside in os.listdir(folder):
        if FILE_NAME.fullmatch(inside):
            os.unlink(inside, dir_fd=folder)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(LOCK_NAME, dir_fd=folder)
    os.rmdir(name, dir_fd=parent)


@contextlib.contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)
