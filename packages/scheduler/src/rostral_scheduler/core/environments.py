"""Which environments a node keeps: the choice, without the files and processes.

This file owns the rules; ``local/environments.py`` and ``local/environment_cache.py`` carry them
out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["CacheEntry", "choose_removals"]


class CacheEntry(NamedTuple):
    """One thing that is kept.

    Attributes:
        name: What it is called.
        size: Bytes.
        used_s: When it was last used, seconds of any clock.
    """

    name: str
    size: int
    used_s: float


def choose_removals(entries: Iterable[CacheEntry], count_max: int, size_max: int) -> list[str]:
    """Whom to remove, least recently used first, so that the rest is within both limits."""
    kept = sorted(entries, key=lambda entry: (entry.used_s, entry.name))
    size = sum(entry.size for entry in kept)
    removals = []
    for count, entry in zip(range(len(kept), 0, -1), kept, strict=True):
        if count <= count_max and size <= size_max:
            break
        removals.append(entry.name)
        size -= entry.size
    return removals
