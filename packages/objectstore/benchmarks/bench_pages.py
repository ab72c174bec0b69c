"""What the pages of shared memory cost, and what the store makes of it.

Run: ``python benchmarks/bench_pages.py [--mebibytes 256] [--rounds 5]``. Prints the machine and,
for each way to bring bytes into a memfd, the median of the rounds in GB/s; then the store's own
puts on fresh daemons.

Fresh: pages that nobody ever used. Taken: pages that exist but are not cleared (fallocate).
Present: cleared and written by another mapping. Mapped: used by this process before.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rostral_objectstore import StoreClient
from rostral_objectstore._native.segment import gives_huge_pages
from rostral_objectstore.link import wait_until_served

MADV_POPULATE_READ, MADV_POPULATE_WRITE = 22, 23
STRIDE_BYTES = 2 << 20
PUT_BYTES = 128 << 20

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class Memory:
    """A memfd in one of the four states, and a source of as many bytes."""

    def __init__(self, size: int, state: str, *, huge: bool) -> None:
        self.fd = os.memfd_create("bench-pages")
        os.ftruncate(self.fd, size)
        self.size = size
        self.source = np.ones(size, np.uint8)
        if state == "taken":
            os.posix_fallocate(self.fd, 0, size)
        if state == "present":
            with mmap.mmap(self.fd, size) as other:
                np.frombuffer(other, np.uint8)[:] = 1
        self.map = mmap.mmap(self.fd, size)
        if huge:
            self.map.madvise(mmap.MADV_HUGEPAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        if state == "mapped":
            ctypes.memset(self.address, 1, size)

    def take(self, first: int, last: int) -> None:
        """Way of the kernel: fallocate."""
        for at in range(first, last, STRIDE_BYTES):
            os.posix_fallocate(self.fd, at, min(STRIDE_BYTES, last - at))

    def populate(self, first: int, last: int) -> None:
        """Way of the kernel: MADV_POPULATE_WRITE."""
        self._advise(first, last, MADV_POPULATE_WRITE)

    def populate_for_reading(self, first: int, last: int) -> None:
        """Way of the kernel: MADV_POPULATE_READ."""
        self._advise(first, last, MADV_POPULATE_READ)

    def copy(self, first: int, last: int) -> None:
        """Way of the kernel: memcpy, by faults where there is no page."""
        LIBC.memcpy(self.address + first, self.source.ctypes.data + first, last - first)

    def populate_and_copy(self, first: int, last: int) -> None:
        """Both, a stride at a time."""
        for at in range(first, last, STRIDE_BYTES):
            self.populate(at, min(at + STRIDE_BYTES, last))
            self.copy(at, min(at + STRIDE_BYTES, last))

    def write(self, first: int, last: int) -> None:
        """Way of the kernel: pwrite."""
        view = self.source.data
        for at in range(first, last, STRIDE_BYTES):
            os.pwrite(self.fd, view[at : min(at + STRIDE_BYTES, last)], at)

    def _advise(self, first: int, last: int, advice: int) -> None:
        if LIBC.madvise(self.address + first, last - first, advice) != 0:
            raise OSError(ctypes.get_errno(), "madvise")

    def close(self) -> None:
        """Gives the memory back."""
        os.close(self.fd)


WAYS: list[tuple[str, str, Callable[[Memory, int, int], None]]] = [
    ("fresh", "fallocate", Memory.take),
    ("fresh", "MADV_POPULATE_WRITE", Memory.populate),
    ("fresh", "memcpy, by faults", Memory.copy),
    ("fresh", "populate, memcpy", Memory.populate_and_copy),
    ("fresh", "pwrite", Memory.write),
    ("taken", "MADV_POPULATE_WRITE", Memory.populate),
    ("taken", "populate, memcpy", Memory.populate_and_copy),
    ("taken", "pwrite", Memory.write),
    ("present", "MADV_POPULATE_WRITE", Memory.populate),
    ("present", "MADV_POPULATE_READ", Memory.populate_for_reading),
    ("present", "memcpy, by faults", Memory.copy),
    ("present", "pwrite", Memory.write),
    ("mapped", "memcpy", Memory.copy),
    ("mapped", "pwrite", Memory.write),
]


def gb_per_s(
    way: Callable[[Memory, int, int], None], state: str, *, size: int, threads: int, huge: bool
) -> float:
    """One run, the memory made anew."""
    memory = Memory(size, state, huge=huge)
    try:
        part = size // threads
        workers = [
            threading.Thread(target=way, args=(memory, i * part, (i + 1) * part))
            for i in range(threads)
        ]
        started_s = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return size / (time.perf_counter() - started_s) / 1e9
    finally:
        memory.close()


def put_on_fresh_daemon(delay_s: float, puts: int, size: int, options: list[str]) -> list[float]:
    """GB/s of each of some puts, all kept, `delay_s` after a daemon began to serve."""
    with tempfile.TemporaryDirectory(prefix="rostral-") as folder:
        path = str(Path(folder) / "store")
        code = "from rostral_objectstore.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", "--socket", path, *options]
        array = np.ones(size, np.uint8)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as daemon:
            try:
                wait_until_served(path, 10.0)
                with StoreClient.connect(path) as client:
                    time.sleep(delay_s)
                    kept, speeds = [], []
                    for _ in range(puts):
                        started_s = time.perf_counter()
                        kept.append(client.put(array))
                        speeds.append(size / (time.perf_counter() - started_s) / 1e9)
                    del kept
                return speeds
            finally:
                daemon.terminate()


def warm_put(size: int, rounds: int, memory: int) -> tuple[float, float]:
    """(GB/s of puts into memory used before, GB/s of memcpy between two mapped arrays)."""
    with tempfile.TemporaryDirectory(prefix="rostral-") as folder:
        path = str(Path(folder) / "store")
        code = "from rostral_objectstore.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", "--socket", path, "--memory", str(memory)]
        array, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
        puts, copies = [], []
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as daemon:
            try:
                wait_until_served(path, 10.0)
                with StoreClient.connect(path) as client:
                    for _ in range(rounds + 3):
                        started_s = time.perf_counter()
                        handle = client.put(array)
                        puts.append(size / (time.perf_counter() - started_s) / 1e9)
                        del handle
                        started_s = time.perf_counter()
                        LIBC.memcpy(target.ctypes.data, array.ctypes.data, size)
                        copies.append(size / (time.perf_counter() - started_s) / 1e9)
            finally:
                daemon.terminate()
        return statistics.median(puts[3:]), statistics.median(copies[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=256, help="memory of a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--store-only", action="store_true", help="leave out the ways of the kernel"
    )
    options = parser.parse_args()
    size, rounds = options.mebibytes << 20, options.rounds
    print(f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}")
    print(f"huge pages for shared memory: {'yes' if gives_huge_pages() else 'no'}")
    if not options.store_only:
        print(f"{'state':9}{'way':24}{'1 thread':>10}{'2 threads':>11}   GB/s")
        for state, name, way in WAYS:
            medians = [
                statistics.median(
                    gb_per_s(way, state, size=size, threads=threads, huge=gives_huge_pages())
                    for _ in range(rounds)
                )
                for threads in (1, 2)
            ]
            print(f"{state:9}{name:24}{medians[0]:10.2f}{medians[1]:11.2f}")
    memory = ["--memory", str(2 << 30)]
    for title, delay_s, more in [
        ("first put of 128 MiB, at once", 0.0, []),
        ("first put of 128 MiB, 50 ms after", 0.05, []),
        ("first put of 128 MiB, nothing ahead", 0.0, ["--pages-ahead", "0"]),
    ]:
        speeds = [
            put_on_fresh_daemon(delay_s, 1, PUT_BYTES, memory + more)[0] for _ in range(rounds)
        ]
        print(f"{title:44}{statistics.median(speeds):6.2f} GB/s, least {min(speeds):.2f}")
    speeds = [put_on_fresh_daemon(0.0, 1, 1 << 30, memory)[0] for _ in range(min(rounds, 3))]
    print(f"{'first put of 1 GiB, at once':44}{statistics.median(speeds):6.2f} GB/s")
    for title, put_size in [("1 MiB", 1 << 20), ("100 MB", 100_000_000), ("1 GiB", 1 << 30)]:
        put, copy = warm_put(put_size, rounds, 2 << 30)
        print(f"{'put of ' + title + ', memory used before':44}{put:6.2f} GB/s, memcpy {copy:.2f}")


if __name__ == "__main__":
    main()
