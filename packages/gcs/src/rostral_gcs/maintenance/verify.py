"""Looking for damage in a data directory or a backup, file by file.

This file owns what is checked of each kind of file, and cutting a damaged segment. It changes
nothing unless asked to cut.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rostral_gcs.archive.files import open_file
from rostral_gcs.archive.key_index import verify_index
from rostral_gcs.backends.journal import read_journal
from rostral_gcs.backends.segment import read_frames
from rostral_gcs.data_dir import NO_DATA_HINT
from rostral_gcs.errors import CorruptError, GcsError, NotFoundError

__all__ = ["Damage", "check_database", "cut_segment", "verify_folder"]

_SUFFIXES = {".sqlite", ".journal", ".segment", ".index", ".parquet"}
_PAGE = re.compile(r"\bpage (\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged file.

    Attributes:
        path: The file.
        offset: Where in it, in bytes; 0 when that is not known.
        what: What is wrong.
    """

    path: Path
    offset: int
    what: str


def verify_folder(folder: Path) -> tuple[int, list[Damage]]:
    """Checks every file; returns how many there were, and what is damaged.

    Raises:
        NotFoundError: It is neither a data directory nor a backup.
    """
    if not (folder / "cluster.json").exists():
        raise NotFoundError(f"{folder} is neither a data directory nor a backup", hint=NO_DATA_HINT)
    damages: list[Damage] = []
    count = 0
    for path in _files(folder):
        count += 1
        try:
            _verify_file(path)
        except CorruptError as error:
            damages.append(Damage(path, error.offset, error.message))
        except (GcsError, OSError) as error:
            damages.append(Damage(path, 0, str(error)))
    return count, damages


def cut_segment(damage: Damage) -> Path:
    """Keeps what is before the damage in a segment, and what is behind it in a file beside.

    Args:
        damage: As ``verify_folder`` found it.

    Returns:
        The file with what was cut off.

    Raises:
        CorruptError: It is not a segment, or nothing before the damage is whole.
    """
    path = damage.path
    if path.suffix != ".segment" or not damage.offset:
        raise CorruptError(f"{path} cannot be cut", hint="restore it from a backup", path=str(path))
    content = path.read_bytes()
    rest = path.with_suffix(".cut")
    rest.write_bytes(content[damage.offset :])
    rest.chmod(0o600)
    with path.open("r+b") as file:
        file.truncate(damage.offset)
    return rest


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in _SUFFIXES:
            yield path


def _verify_file(path: Path) -> None:
    if path.suffix == ".segment":
        for _ in read_frames(path):
            pass
    elif path.suffix == ".journal":
        try:
            read_journal(path)
        except CorruptError:
            # A server may be writing it over: then another look shows other records.
            read_journal(path)
    elif path.suffix == ".index":
        verify_index(path)
    elif path.parent.suffix == ".archive":
        open_file(path).verify()
    else:
        check_database(path, thorough=True)


def check_database(path: Path, *, thorough: bool) -> None:
    """Checks a shard's database.

    Args:
        path: The file. May be in use.
        thorough: Compare indexes with rows, too; else only that each page is what it should be.

    Raises:
        CorruptError: It is damaged.
    """
    pragma = "integrity_check" if thorough else "quick_check"
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=5.0)) as database:
            page_size = database.execute("PRAGMA page_size").fetchone()[0]
            verdict = str(database.execute(f"PRAGMA {pragma}(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        verdict, page_size = str(error), 0
    if verdict != "ok":
        page = _PAGE.search(verdict)
        offset = (int(page[1]) - 1) * page_size if page else 0
        raise CorruptError(
            f"{path} is damaged at offset {offset}: {verdict[:200]}",
            hint="restore it from a backup",
            path=str(path),
            offset=offset,
        )
