"""What a process can say about its own memory; used by tests and by peers."""

from __future__ import annotations

import os
import struct
from pathlib import Path

# Of an entry of pagemap: the process has the page in its page table.
_PRESENT = 1 << 63


def anonymous_bytes() -> int:
    """Resident memory that is this process's alone: copies show here, views of the store do not."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not say RssAnon")


def in_segment(address: int) -> bool:
    """Whether an address lies in the mapping of a store."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "rostral-segment" in line:
            first, last = (int(part, 16) for part in line.split()[0].split("-"))
            if first <= address < last:
                return True
    return False


def is_mapped(address: int) -> bool:
    """Whether the page at an address is in this process's page table: somebody has touched it."""
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(address // os.sysconf("SC_PAGESIZE") * 8)
        (entry,) = struct.unpack("<Q", pagemap.read(8))
    return bool(entry & _PRESENT)
