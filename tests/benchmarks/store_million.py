"""A million live small objects: what each costs in memory, and whether the last put is as quick.

Owns the counting of memory. Three accounts are kept apart: what the store itself says is in use,
the pages of the segment that the kernel has really given out, and the private memory of the client
that holds the handles.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from store_targets import OBJECT_COUNT

# The rate is that of a block of puts; first and last are medians of a few blocks.
BLOCK = 10_000
BLOCKS_COMPARED = 10
# The daemon looks for pages to take more often than this.
SETTLED_S = 1.5


class Memory(NamedTuple):
    """Bytes at one moment."""

    used: int
    pages: int
    client: int


def memory_of(client: Any) -> Memory:
    """The three accounts."""
    return Memory(
        used=client.stats().used_bytes,
        pages=os.fstat(client.segment.fd).st_blocks * 512,
        client=private_bytes(),
    )


def settle(client: Any) -> None:
    """Waits until the daemon has taken its pages ahead: so many, whatever the objects' number."""
    pages = -1
    while pages != (pages := os.fstat(client.segment.fd).st_blocks):
        time.sleep(SETTLED_S)


def private_bytes() -> int:
    """Memory that only this process has, the store's segment left out.

    Pages of the segment that nobody else has touched yet would be counted as private too.
    """
    total, is_segment = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, rest = line.partition(" ")
        if not key.endswith(":"):
            is_segment = "/memfd:" in rest
        elif key in {"Private_Clean:", "Private_Dirty:"} and not is_segment:
            total += int(rest.split()[0]) * 1024
    return total


def measure(client: Any, size: int) -> Iterator[tuple[str, float]]:
    """Puts the objects, keeps them, and gives the rows' names and values."""
    value = b"v" * size
    handles: list[Any] = [None] * OBJECT_COUNT
    settle(client)
    before = memory_of(client)
    block_s = []
    put = client.put
    for start in range(0, OBJECT_COUNT, BLOCK):
        began_s = time.perf_counter()
        for index in range(start, start + BLOCK):
            handles[index] = put(value)
        block_s.append(time.perf_counter() - began_s)
    after = memory_of(client)
    first = BLOCK / statistics.median(block_s[:BLOCKS_COMPARED])
    last = BLOCK / statistics.median(block_s[-BLOCKS_COMPARED:])
    used = (after.used - before.used) / OBJECT_COUNT - size
    pages = (after.pages - before.pages) / OBJECT_COUNT - size
    private = (after.client - before.client) / OBJECT_COUNT
    yield f"memory used per object of {size} B, beyond its bytes", used
    yield f"memory taken per object of {size} B, beyond its bytes", pages
    yield f"client's memory per handle of {size} B", private
    yield f"store and client per object of {size} B, beyond its bytes", pages + private
    yield f"put rate of {size} B, first of a million", first
    yield f"put rate of {size} B, last of a million, of the first", last / first
