"""A working set three times as large as the store: spilled as it is put, restored in random order.

Owns the working set and its checksums, and what the same disk does without a store: the same blocks
written to one file with a flush at the end, and read back in random order. Caches of the kernel are
emptied of both before anything is read, and the two read in turns, block by block: what a shared
disk gives changes by a factor of three from one minute to the next (measured).
"""

from __future__ import annotations

import os
import random
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from store_engines import STORES, NotAvailableError, option_of_serve, rostral_daemon

OBJECT_BYTES = 4 << 20
SETS = 3
SPILL, RESTORE, WRONG = (
    "spill, working set three times the store",
    "restore in random order",
    "objects restored with a wrong checksum",
)


class WorkingSet:
    """Numbered blocks that no disk can compress, and whose order is the same at every run."""

    def __init__(self, store_bytes: int) -> None:
        self.fitting = store_bytes // OBJECT_BYTES
        self.count = SETS * self.fitting
        self._block = np.random.default_rng(7).integers(0, 2**63, OBJECT_BYTES // 8, np.int64)
        self.order = list(range(self.count))
        random.Random(7).shuffle(self.order)

    def block(self, index: int) -> np.ndarray[Any, Any]:
        """The block; valid until the next is asked for."""
        self._block[::512] = index
        return self._block


def measure(store_bytes: int) -> Iterator[tuple[str, float, str]]:
    """Gives row, value, and of whom it is: "" for the store, "disk" for the disk alone."""
    if not option_of_serve("--spill-dir"):
        raise NotAvailableError("the store does not spill yet")
    blocks = WorkingSet(store_bytes)
    # Not the folder for temporary files, which often lies in memory.
    with (
        tempfile.TemporaryDirectory(prefix="rostral-bench-", dir="/var/tmp") as folder,
        Disk(Path(folder) / "alone") as disk,
    ):
        yield SPILL, disk.write(blocks), "disk"
        spill = Path(folder) / "spill"
        spill.mkdir()
        with rostral_daemon(store_bytes, "--spill-dir", str(spill)) as address:
            store: Any = STORES["rostral"](address)
            handles, sums, spilled = put_all(store.client, blocks)
            yield SPILL, spilled, ""
            forget(spill)
            restored, read, wrong = get_all(store.client, disk, blocks, handles, sums)
            yield RESTORE, read, "disk"
            yield RESTORE, restored, ""
            yield WRONG, wrong, ""
            store.close()


class Disk:
    """One plain file of blocks: what the disk does without a store."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        self._path = path
        self._target = bytearray(OBJECT_BYTES)

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        self._path.unlink()

    def write(self, blocks: WorkingSet) -> float:
        """GB/s of all blocks but those that fit the store, the flush included."""
        count = blocks.count - blocks.fitting
        began_s = time.perf_counter()
        for index in range(count):
            os.pwrite(self._file, blocks.block(index).data, index * OBJECT_BYTES)
        os.fsync(self._file)
        took_s = time.perf_counter() - began_s
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        return count * OBJECT_BYTES / 1e9 / took_s

    def read(self, place: int) -> float:
        """Reads one block, which is in no cache. Seconds."""
        began_s = time.perf_counter()
        os.preadv(self._file, [self._target], place * OBJECT_BYTES)
        return time.perf_counter() - began_s


def put_all(client: Any, blocks: WorkingSet) -> tuple[list[Any], list[int], float]:
    """Handles, checksums, and GB/s from where the store is full: each put has another spilled."""
    handles, sums, took_s = [], [], 0.0
    for index in range(blocks.count):
        block = blocks.block(index)
        sums.append(zlib.crc32(block.data))
        began_s = time.perf_counter()
        handles.append(client.put(block))
        if index >= blocks.fitting:
            took_s += time.perf_counter() - began_s
    return handles, sums, (blocks.count - blocks.fitting) * OBJECT_BYTES / took_s / 1e9


def get_all(
    client: Any, disk: Disk, blocks: WorkingSet, handles: list[Any], sums: list[int]
) -> tuple[float, float, float]:
    """GB/s of those that were not in memory, of the disk alone, and how many came back wrong."""
    from rostral_objectstore.layout import ObjectState

    places = [index for index in blocks.order if index < blocks.count - blocks.fitting]
    took_s, alone_s, restored, alone, wrong = 0.0, 0.0, 0, 0, 0
    for index in blocks.order:
        is_here = client.table.state(handles[index]) == ObjectState.SEALED
        began_s = time.perf_counter()
        value = client.get(handles[index])
        if not is_here:
            took_s += time.perf_counter() - began_s
            restored += 1
            if alone < len(places):
                alone_s += disk.read(places[alone])
                alone += 1
        wrong += zlib.crc32(value.data) != sums[index]
        del value
    if not restored:
        raise NotAvailableError("nothing had been spilled")
    size = OBJECT_BYTES / 1e9
    return restored * size / took_s, alone * size / alone_s, float(wrong)


def forget(folder: Path) -> None:
    """Has the kernel drop what it keeps in memory of the files."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
