"""Where the next spill file goes, and which files are not worth their place any more.

Owns decisions only: spill.py knows the directories and files, and does what is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

RETRY_DELAY_S_MIN = 0.25
RETRY_DELAY_S_MAX = 8.0
# Below this share of live bytes a file is written anew without the dead ones.
LIVE_SHARE_MIN = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryView:
    """One spill directory as it is now."""

    index: int
    used_bytes: int
    """By our own files."""
    free_bytes: int
    """Of its file system, for us."""
    total_bytes: int
    """Of its file system."""
    retry_at_s: float = 0.0
    """It failed, and is left alone until then; 0: it did not fail."""


class FileView(NamedTuple):
    """One spill file as it is now."""

    number: int
    size_bytes: int
    live_bytes: int
    open_for_writing: bool


class Upkeep(NamedTuple):
    """Numbers of files: to be deleted, and to be written anew without what is dead in them."""

    delete: tuple[int, ...]
    rewrite: tuple[int, ...]


def choose_directory(
    directories: Sequence[DirectoryView],
    *,
    need_bytes: int,
    limit_bytes: int | None,
    free_share_min: float,
    now_s: float,
    prefer: int | None = None,
) -> int | None:
    """The index of the directory to write `need_bytes` to; None: there is none at the moment.

    The one that we use least of those that have room, so that several disks share the work, unless
    `prefer` (where a file is open) has room. No file system
    is filled beyond `free_share_min` of it, and all directories together not beyond `limit_bytes`.
    """
    used_bytes = sum(one.used_bytes for one in directories)
    if limit_bytes is not None and used_bytes + need_bytes > limit_bytes:
        return None
    fit = [
        one
        for one in directories
        if one.retry_at_s <= now_s
        and one.free_bytes - need_bytes >= one.total_bytes * free_share_min
    ]
    if not fit:
        return None
    return min(fit, key=lambda one: (one.index != prefer, one.used_bytes, one.index)).index


def retry_delay_s(failures_in_a_row: int) -> float:
    """How long a directory that failed is left alone: doubles with each failure, up to a limit."""
    doublings = min(max(failures_in_a_row - 1, 0), 16)
    return min(RETRY_DELAY_S_MIN * float(2**doublings), RETRY_DELAY_S_MAX)


def plan_upkeep(files: Iterable[FileView], *, room_bytes: int) -> Upkeep:
    """Files with nothing live are deleted; those with little are rewritten, emptiest first.

    Args:
        files: in any order. The file being written is left alone.
        room_bytes: how much may be written for it: a rewrite needs its place before it gives
            any back.
    """
    delete, sparse = [], []
    for one in files:
        if one.open_for_writing:
            continue
        if one.live_bytes == 0:
            delete.append(one.number)
        elif one.live_bytes < one.size_bytes * LIVE_SHARE_MIN:
            sparse.append(one)
    rewrite = []
    for one in sorted(sparse, key=lambda one: (one.live_bytes, one.number)):
        if one.live_bytes > room_bytes:
            break
        room_bytes -= one.live_bytes
        rewrite.append(one.number)
    return Upkeep(tuple(delete), tuple(rewrite))
