"""What a line of the residency table says: words, and the file that it lies in."""

from __future__ import annotations

import mmap
import os

from rostral_objectstore._native.residency import ENTRY_BYTES, ResidencyTable

ON_DEVICE = 1
ON_HOST = 2

ENTRIES = 1 << 16
"""Arrays that one device can have in the store: 2 MiB of a sparse file."""


def word_of(generation: int, state: int) -> int:
    """The word of a line."""
    return generation << 8 | state


def new_table() -> tuple[int, ResidencyTable]:
    """A file in memory, and the table in it, all lines free."""
    fd = os.memfd_create("rostral-residency", os.MFD_CLOEXEC)
    os.ftruncate(fd, ENTRIES * ENTRY_BYTES)
    return fd, map_table(fd)


def map_table(fd: int) -> ResidencyTable:
    """The table in a file."""
    return ResidencyTable(mmap.mmap(fd, ENTRIES * ENTRY_BYTES))
