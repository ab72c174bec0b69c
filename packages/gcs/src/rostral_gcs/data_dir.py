"""The data directory: made private, held by one server at a time, named by a cluster id.

This file owns the lock, the cluster id and the names of the shards' files.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Final

from rostral_gcs.archive.files import ArchiveForm
from rostral_gcs.backends.embedded import EmbeddedBackend
from rostral_gcs.errors import ConfigError, DataDirLockedError, StorageError

__all__ = ["NO_DATA_HINT", "RESTORING", "DataDir", "lock_directory"]

RESTORING: Final = "restoring"
"""The file that is there while a restore changes the files over."""

NO_DATA_HINT: Final = (
    "check the path; a store in Redis has none: Redis keeps, copies and flushes what is there"
)
"""What to do where a folder holds no data."""


class DataDir:
    """An open data directory.

    Attributes:
        cluster_id: 16 random bytes made with the directory.
        shard_count: How many shards there are; the store's own table of shards may say more.

    Args:
        path: Made with mode 0700 when missing.
        shard_count: Must be what the directory was made with.
        lineage_memory_max: Of all shards together, see ``GcsConfig``.
        archive_form: Of new files of the archive.

    Raises:
        DataDirLockedError: Another server has it open.
        ConfigError: It was made with another shard count.
        StorageError: It cannot be made or read.
    """

    cluster_id: bytes
    shard_count: int

    def __init__(
        self,
        path: Path,
        *,
        shard_count: int,
        lineage_memory_max: int = 256 * 1024 * 1024,
        archive_form: ArchiveForm = "auto",
    ) -> None:
        self._path = path
        self._shard_count = shard_count
        self._lineage_memory_max = lineage_memory_max
        self._archive_form = archive_form
        self._lock = -1
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = lock_directory(path)
            _check_whole(path)
            self.cluster_id = self._identify(shard_count)
        except OSError as error:
            self.close()
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"cannot use data directory {path}: {error.strerror}",
                hint="choose a directory you may write to",
            ) from error
        except BaseException:
            self.close()
            raise

    def shard_path(self, index: int) -> Path:
        """The file of a shard."""
        return self._path / f"shard-{index:03d}.sqlite"

    def remove_shards(self, first: int) -> None:
        """Deletes the files of shards that are not of the store: of this number or a higher one."""
        for path in self._path.glob("shard-*"):
            number = path.name[len("shard-") :].partition(".")[0]
            if not number.isdecimal() or int(number) < first:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def write_shard_count(self, shard_count: int) -> None:
        """Notes how many shards there are now. The store's own table of shards is the truth."""
        path = self._path / "cluster.json"
        found = json.loads(path.read_bytes())
        if found["shard_count"] != shard_count:
            found.setdefault("made_with", found["shard_count"])
            found["shard_count"] = shard_count
            self._write_identity(found)

    def backend(self, index: int) -> EmbeddedBackend:
        """The storage of a shard, not yet open."""
        return EmbeddedBackend(
            self.shard_path(index),
            lineage_memory_max=self._lineage_memory_max // self._shard_count,
            archive_form=self._archive_form,
        )

    def close(self) -> None:
        """Gives the lock back. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _identify(self, shard_count: int) -> bytes:
        path = self._path / "cluster.json"
        if not path.exists():
            fresh = {"cluster_id": secrets.token_hex(16), "shard_count": shard_count}
            self._write_identity(fresh)
        try:
            found = json.loads(path.read_bytes())
            cluster_id = bytes.fromhex(found["cluster_id"])
            made_with = int(found.get("made_with", found["shard_count"]))
            self.shard_count = int(found["shard_count"])
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{path} is damaged: {error}", hint="restore it from a backup of the directory"
            ) from error
        # One that has grown goes on with the configuration that it was made with.
        if shard_count not in (made_with, self.shard_count):
            raise ConfigError(
                f"data directory {self._path} was made with shard_count {made_with}, asked for "
                f"{shard_count}",
                hint=f"start with {made_with} shards; `rostral-gcs add-shards` adds to them",
                problems=(f"shard_count is {shard_count}; this directory has {made_with}",),
            )
        return cluster_id

    def _write_identity(self, identity: dict[str, object]) -> None:
        path = self._path / "cluster.json"
        scratch = path.with_suffix(".new")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, json.dumps(identity).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        scratch.rename(path)
        self._sync_directory()

    def _sync_directory(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock_directory(path: Path) -> int:
    """Locks a data directory; closing the descriptor unlocks it.

    Raises:
        DataDirLockedError: Another process has it.
        OSError: The lock file cannot be made.
    """
    # The lock is the kernel's, so it goes with its holder however that dies; the pid in the file is
    # only for the message. The file is never removed: another server may have it open.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path / "lock", flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        text = os.pread(descriptor, 32, 0).decode("ascii", errors="replace").strip()
        os.close(descriptor)
        pid = int(text) if text.isdecimal() else 0
        raise DataDirLockedError(
            f"data directory {path} is locked by pid {pid or 'unknown'}",
            hint="stop that server, or use another --data-dir",
            pid=pid,
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _check_whole(path: Path) -> None:
    if (path / RESTORING).exists():
        raise StorageError(
            f"a restore of {path} was interrupted: what is there is not whole",
            hint="run `rostral-gcs restore` again",
        )
