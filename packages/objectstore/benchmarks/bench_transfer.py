"""What it costs to bring an object from another node, beside plain TCP on the same loopback.

Run: ``python benchmarks/bench_transfer.py [--json FILE]``. Needs the package with its ``transfer``
extra. Each round measures plain TCP and then each way to fetch, so that what else the machine does
at the moment touches both; a ratio is the median of the rounds' ratios. Answers to: at least 80 %
of plain TCP for 100 MB and 1 GB, and a p50 under 1 ms for 1 KB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import multiprocessing
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rostral_gcs.auth import write_token
from rostral_gcs.ids import ObjectID
from rostral_objectstore import StoreClient
from rostral_objectstore.checksum import checksum
from rostral_objectstore.link import wait_until_served
from rostral_objectstore.transfer import Credentials, FetchConfig, Fetcher

MB = 1_000_000
SMALL_BYTES = 1000
SMALL_COUNT = 1000
STREAMS = (1, 2, 4)
SLACK_BYTES = 64 << 20
DAEMON = "from rostral_objectstore.cli import main; main()"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; `ratio` is to plain TCP in the same rounds, where that says something."""

    name: str
    unit: str
    value: float
    ratio: float | None = None


class Node:
    """A daemon that takes part in transfers."""

    def __init__(self, folder: Path, name: str, memory_bytes: int) -> None:
        self.socket = str(folder / name)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", DAEMON, "serve", "--socket", self.socket),
                *("--memory", str(memory_bytes), "--transfer", "127.0.0.1:0"),
                *("--token-file", str(folder / "token")),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = next(line for line in self.process.stdout if line.startswith("transfers at "))
        self.address = said.split()[-1]
        wait_until_served(self.socket, 10.0)
        self.client = StoreClient.connect(self.socket)

    def keep(self, size: int, id: ObjectID) -> Any:
        """An object without equal pages, the same on every node."""
        with self.client.create(size, id) as writable:
            step = 1 << 20
            noise = random.Random(id.binary()).randbytes(step)
            for offset in range(0, size, step):
                writable.buffer[offset : offset + step] = noise[: min(step, size - offset)]
            return writable.seal()

    def close(self) -> None:
        """Kills it; nothing of it stays."""
        self.client.close()
        self.process.kill()
        self.process.communicate()


# ---- plain TCP


def send_bytes(pipe: Connection, size: int) -> None:
    """Sends all of a warm buffer for each byte that comes."""
    source = warm(size)
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        connection, _ = server.accept()
        with connection:
            while connection.recv(1):
                connection.sendall(source)


def warm(size: int) -> memoryview:
    """Shared memory of which every page has been touched."""
    memory = memoryview(mmap.mmap(-1, size))
    for offset in range(0, size, 4096):
        memory[offset] = 1
    return memory


@contextlib.contextmanager
def plain_tcp(size: int) -> Iterator[Callable[[], float]]:
    """Gives what measures: seconds for `size` bytes from another process, warm on both sides."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    sender = multiprocessing.get_context("spawn").Process(target=send_bytes, args=(there, size))
    sender.start()
    target = warm(size)
    with socket.create_connection(("127.0.0.1", here.recv())) as connection:

        def receive() -> float:
            began_s = time.perf_counter()
            connection.sendall(b"?")
            received = 0
            while received < size:
                received += connection.recv_into(target[received:])
            return time.perf_counter() - began_s

        receive()
        yield receive
    sender.join()


# ---- what is measured


def timed(call: Callable[[], object]) -> float:
    """Seconds; what it returns is dropped after."""
    began_s = time.perf_counter()
    kept = call()
    took_s = time.perf_counter() - began_s
    del kept
    return took_s


def beside_tcp(
    name: str, size: int, ways: dict[str, Callable[[], object]], rounds: int
) -> Iterator[Row]:
    """Plain TCP and each way in turn, so many times."""
    took_s: dict[str, list[float]] = {way: [] for way in ("plain TCP", *ways)}
    ratios: dict[str, list[float]] = {way: [] for way in ways}
    with plain_tcp(size) as receive:
        for _ in range(rounds):
            for way, fetch in ways.items():
                plain_s, way_s = receive(), timed(fetch)
                took_s["plain TCP"].append(plain_s)
                took_s[way].append(way_s)
                ratios[way].append(plain_s / way_s)
    for way, times in took_s.items():
        ratio = statistics.median(ratios[way]) if way in ratios else None
        yield Row(f"{name}, {way}", "GB/s", size / statistics.median(times) / 1e9, ratio)


def large(folder: Path, size: int, rounds: int) -> Iterator[Row]:
    """One size: into fresh memory, then into memory that was used before."""
    name = f"{size // MB} MB"
    id = ObjectID(os.urandom(20))
    credentials = Credentials(token_file=str(folder / "token"))
    with contextlib.ExitStack() as stack:
        holder = Node(folder, f"h{size}", size + SLACK_BYTES)
        stack.callback(holder.close)
        kept = holder.keep(size, id)

        def cold() -> float:
            """Into a store of which no page was ever touched."""
            with contextlib.closing(Node(folder, f"c{size}", size + SLACK_BYTES)) as node:
                return timed(lambda: fetcher_of(node, credentials).fetch(id, [holder.address]))

        cold_s = statistics.median(cold() for _ in range(3))
        here = Node(folder, f"r{size}", size + SLACK_BYTES)
        stack.callback(here.close)
        ways: dict[str, Callable[[], object]] = {}
        for streams in STREAMS:
            fetcher = stack.enter_context(fetcher_of(here, credentials, streams))
            name_of_way = f"{streams} stream{'s' if streams > 1 else ''}"
            ways[name_of_way] = partial(fetcher.fetch, id, [holder.address])
        for fetch in ways.values():
            fetch()
        yield from beside_tcp(name, size, ways, rounds)
        yield Row(f"{name}, into fresh memory", "GB/s", size / cold_s / 1e9)
        del kept


def fetcher_of(node: Node, credentials: Credentials, streams: int = 2) -> Fetcher:
    """A fetcher in this process, into the node's store."""
    config = FetchConfig(credentials=credentials, streams_per_holder=streams)
    return Fetcher(node.client.table, config)


def small(folder: Path) -> Iterator[Row]:
    """1 KB, directly and through the daemon."""
    with contextlib.ExitStack() as stack:
        holder, here = (Node(folder, name, SLACK_BYTES) for name in ("sh", "sr"))
        stack.callback(holder.close)
        stack.callback(here.close)
        ids = [ObjectID(os.urandom(20)) for _ in range(2 * SMALL_COUNT)]
        kept = [holder.keep(SMALL_BYTES, id) for id in ids]
        credentials = Credentials(token_file=str(folder / "token"))
        fetcher = stack.enter_context(fetcher_of(here, credentials))
        ways: list[tuple[str, Callable[..., object]]] = [
            ("", fetcher.fetch),
            (" through the daemon", here.client.fetch),
        ]
        for number, (way, fetch) in enumerate(ways):
            mine = ids[number * SMALL_COUNT :][:SMALL_COUNT]
            times = sorted(timed(partial(fetch, id, [holder.address])) for id in mine)
            yield Row(f"1 KB{way}, p50", "ms", times[len(times) // 2] * 1e3)
            yield Row(f"1 KB{way}, p99", "ms", times[len(times) * 99 // 100] * 1e3)
        del kept


def resumed(folder: Path, size: int) -> Iterator[Row]:
    """The source is killed half way; the second holder gives the rest."""
    with contextlib.ExitStack() as stack:
        holders = [Node(folder, f"k{i}", size + SLACK_BYTES) for i in range(2)]
        here = Node(folder, "kr", size + SLACK_BYTES)
        for node in (*holders, here):
            stack.callback(node.close)
        id = ObjectID(os.urandom(20))
        kept = [node.keep(size, id) for node in holders]
        fetcher = stack.enter_context(
            fetcher_of(here, Credentials(token_file=str(folder / "token")))
        )
        addresses = [node.address for node in holders]
        whole_s = min(timed(lambda: fetcher.fetch(id, addresses[1:])) for _ in range(3))
        killer = threading.Timer(whole_s / 2, holders[0].process.kill)
        killer.start()
        began_s = time.perf_counter()
        arrived = fetcher.fetch(id, addresses, holders_at_once=1)
        took_s = time.perf_counter() - began_s
        killer.join()
        if digest(here, arrived) != digest(holders[1], kept[1]):
            raise ValueError("the object that was resumed is another")
        del arrived, kept
        yield Row(f"{size // MB} MB, source killed half way", "s", took_s)
        yield Row(f"{size // MB} MB, source not killed", "s", whole_s)


def digest(node: Node, handle: Any) -> int:
    """A checksum of the whole object."""
    return checksum(node.client.get_buffer(handle, timeout_s=0))


def measure(*, sizes: tuple[int, ...] = (100 * MB, 1000 * MB), rounds: int = 7) -> list[Row]:
    """All rows. Takes a minute or two; needs three times the largest size in memory."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rostral-") as name:
        folder = Path(name)
        write_token(folder / "token")
        for size in sizes:
            rows += large(folder, size, rounds)
        rows += small(folder)
        rows += resumed(folder, max(sizes))
    return rows


def main() -> None:
    """Prints the table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load before: {os.getloadavg()[0]:.1f}")
    rows = measure(rounds=arguments.rounds)
    for row in rows:
        ratio = "" if row.ratio is None else f"  {row.ratio:5.2f} of plain TCP"
        print(f"{row.name:38} {row.value:8.3f} {row.unit:5}{ratio}")
    print(f"load after: {os.getloadavg()[0]:.1f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
