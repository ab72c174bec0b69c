"""Backups: a copy of a data directory that a server may be using, and putting one back.

This file owns the manifest, the order of copying, and what a restore refuses. The copy of a running
server's directory is of one moment for each shard's database, and of a little later for its
lineage; what was acknowledged before the backup began is in it.

Segments are copied oldest first and the archive after them: a flush carries over and archives a
segment's rows before it removes it, so a segment that is gone when its turn comes is found in what
is copied later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from rostral_gcs import __version__
from rostral_gcs.backends.journal import whole_part
from rostral_gcs.data_dir import NO_DATA_HINT, RESTORING, lock_directory
from rostral_gcs.errors import (
    AlreadyExistsError,
    ClusterMismatchError,
    CorruptError,
    InvalidPathError,
    NotFoundError,
    StorageError,
    VersionMismatchError,
)

__all__ = ["BackupSummary", "backup", "restore"]

_FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """What was copied.

    Attributes:
        file_count: Files.
        size_bytes: Their bytes.
        cluster_id: Of the store, in hexadecimal.
    """

    file_count: int
    size_bytes: int
    cluster_id: str


def backup(data_dir: Path, target: Path) -> BackupSummary:
    """Copies a data directory, in use or not, to a new folder.

    Raises:
        NotFoundError: It is no data directory.
        AlreadyExistsError: The target exists.
        StorageError: Reading or writing failed; the target does not exist.
    """
    if not (data_dir / "cluster.json").exists():
        raise NotFoundError(f"{data_dir} is no data directory", hint=NO_DATA_HINT)
    if target.exists():
        raise AlreadyExistsError(f"{target} exists already", hint="name a new folder")
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        scratch.mkdir(mode=0o700, parents=True)
        _copy_all(data_dir, scratch)
        summary = _write_manifest(scratch)
        scratch.rename(target)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise StorageError(
            f"cannot back up {data_dir} to {target}: {error}",
            hint="check that there is room and that you may write there",
        ) from error
    return summary


def restore(source: Path, data_dir: Path) -> BackupSummary:
    """Puts a backup into a data directory that no server uses, in the place of what is there.

    Every file is checked before anything is changed.

    Raises:
        DataDirLockedError: A server uses the directory.
        NotFoundError: The source is no backup.
        ClusterMismatchError: The directory is of another cluster than the backup.
        CorruptError: A file of the backup is damaged or missing.
        InvalidPathError: The manifest names a file outside the backup.
        VersionMismatchError: The backup is of another format.
        StorageError: Reading or writing failed.
    """
    manifest = _read_manifest(source)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = lock_directory(data_dir)
        try:
            _check_cluster(data_dir, manifest.cluster_id)
            for entry in manifest.entries:
                _check_entry(source, entry)
            _replace(source, data_dir, manifest)
        finally:
            os.close(lock)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot restore {source} to {data_dir}: {error.strerror}",
            hint="check that there is room, then restore again",
        ) from error
    size = sum(entry.size_bytes for entry in manifest.entries)
    return BackupSummary(len(manifest.entries), size, manifest.cluster_id)


# --- Copying --------------------------------------------------------------------------------------


def _copy_all(data_dir: Path, scratch: Path) -> None:
    _copy_file(data_dir / "cluster.json", scratch / "cluster.json")
    for path in sorted(data_dir.glob("shard-*.sqlite")):
        # Before the database: what is applied meanwhile is then in both, and nothing in neither.
        _copy_journal(path.with_suffix(".journal"), scratch)
        _copy_database(path, scratch / path.name)
        for folder in (path.with_suffix(".lineage"), path.with_suffix(".archive")):
            # Named again and again: new segments come while we copy.
            copied: set[str] = set()
            while fresh := sorted({one.name for one in _kept(folder)} - copied):
                (scratch / folder.name).mkdir(mode=0o700, exist_ok=True)
                for name in fresh:
                    copied.add(name)
                    with contextlib.suppress(FileNotFoundError):
                        _copy_file(folder / name, scratch / folder.name / name)


def _kept(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for path in folder.iterdir():
            if path.suffix in {".segment", ".index", ".parquet", ".sqlite"}:
                yield path


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as reading:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as writing:
            shutil.copyfileobj(reading, writing, _CHUNK)
            writing.flush()
            os.fsync(writing.fileno())


def _copy_journal(source: Path, scratch: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        records = whole_part(source.read_bytes())
        descriptor = os.open(scratch / source.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as writing:
            writing.write(records)
            writing.flush()
            os.fsync(writing.fileno())


def _copy_database(source: Path, target: Path) -> None:
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with (
        contextlib.closing(sqlite3.connect(source, timeout=30.0)) as reading,
        contextlib.closing(sqlite3.connect(target)) as writing,
    ):
        # All pages in one step, so that it is of one moment however much is written meanwhile.
        reading.backup(writing, pages=-1)
        # Else the copy needs a log file beside it.
        writing.execute("PRAGMA journal_mode=DELETE")
    with target.open("rb") as file:
        os.fsync(file.fileno())


# --- The manifest ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Manifest:
    cluster_id: str
    entries: list[_Entry]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _write_manifest(folder: Path) -> BackupSummary:
    cluster_id = json.loads((folder / "cluster.json").read_bytes())["cluster_id"]
    entries = [
        _Entry(path.relative_to(folder).as_posix(), path.stat().st_size, _digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    manifest = {
        "format": _FORMAT,
        "cluster_id": cluster_id,
        "version": __version__,
        "time_s": time.time(),
        "files": [asdict(entry) for entry in entries],
    }
    descriptor = os.open(folder / _MANIFEST, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    return BackupSummary(len(entries), sum(entry.size_bytes for entry in entries), cluster_id)


def _read_manifest(source: Path) -> _Manifest:
    path = source / _MANIFEST
    if not path.exists():
        raise NotFoundError(f"{source} is no backup: it has no {_MANIFEST}", hint="check the path")
    try:
        found = json.loads(path.read_bytes())
        if found["format"] != _FORMAT:
            raise VersionMismatchError(
                f"{source} has format {found['format']}, this version reads {_FORMAT}",
                hint="restore it with the rostral-gcs version that wrote it",
            )
        entries = [
            _Entry(str(one["path"]), int(one["size_bytes"]), str(one["sha256"]))
            for one in found["files"]
        ]
        cluster_id = str(found["cluster_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{path} is damaged: {error!r}", hint="use another backup", path=str(path)
        ) from error
    for entry in entries:
        parts = PurePosixPath(entry.path).parts
        if not parts or parts[0] == "/" or ".." in parts or len(parts) > 2:
            raise InvalidPathError(
                f"the manifest names {entry.path[:80]!r}, outside the backup",
                hint="it is not what `rostral-gcs backup` writes; use another backup",
            )
    return _Manifest(cluster_id, entries)


def _check_entry(source: Path, entry: _Entry) -> None:
    path = source / entry.path
    if path.is_symlink() or not path.is_file():
        raise CorruptError(
            f"{path} is missing from the backup", hint="use another backup", path=str(path)
        )
    size = path.stat().st_size
    if size != entry.size_bytes or _digest(path) != entry.sha256:
        # A file that is cut is damaged where it ends; else only `verify` can say where.
        offset = size if size < entry.size_bytes else 0
        raise CorruptError(
            f"{path} is not as it was written: {size} bytes, {entry.size_bytes} expected",
            hint="`rostral-gcs verify` says more; use another backup",
            path=str(path),
            offset=offset,
        )


def _check_cluster(data_dir: Path, cluster_id: str) -> None:
    path = data_dir / "cluster.json"
    if not path.exists():
        return
    try:
        present = str(json.loads(path.read_bytes())["cluster_id"])
    except (ValueError, KeyError, TypeError):
        return  # What is damaged is what a restore is for.
    if present != cluster_id:
        raise ClusterMismatchError(
            f"{data_dir} is of cluster {present}, the backup of {cluster_id}",
            hint="restore into another directory, or remove what is in this one first",
        )


# --- Putting back ---------------------------------------------------------------------------------


def _replace(source: Path, data_dir: Path, manifest: _Manifest) -> None:
    """Copies beside, then changes over. What a death interrupts, no server opens (RESTORING)."""
    staging = data_dir / ".staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    for entry in manifest.entries:
        target = staging / entry.path
        target.parent.mkdir(mode=0o700, exist_ok=True)
        _copy_file(source / entry.path, target)
    (data_dir / RESTORING).touch(mode=0o600)
    for path in [*data_dir.glob("shard-*"), data_dir / "cluster.json"]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in sorted(staging.iterdir()):
        path.rename(data_dir / path.name)
    staging.rmdir()
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    (data_dir / RESTORING).unlink()
