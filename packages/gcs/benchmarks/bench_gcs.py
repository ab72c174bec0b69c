"""Writes a second and compare-and-set latency of one embedded shard, client and server apart.

Run: ``python benchmarks/bench_gcs.py``. Prints the machine and, for each figure, the median of the
runs: batches of 1000 lineage-sized records (object locations, and 256-byte key-value rows for the
critical class), single compare-and-sets, and the time from a write to its arrival at a watch.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rostral_gcs import KV, AsyncGcsClient, WatchKind, write_token
from rostral_gcs.ids import NodeID, ObjectID


async def lineage_records_per_s(client: AsyncGcsClient, count: int) -> float:
    node_id = NodeID.from_random()
    sizes = {ObjectID.from_random(): 1 for _ in range(count)}
    started_s = time.perf_counter()
    await client.add_object_locations(node_id, sizes)
    return count / (time.perf_counter() - started_s)


async def critical_records_per_s(client: AsyncGcsClient, count: int) -> float:
    value = bytes(256)
    started_s = time.perf_counter()
    await asyncio.gather(*(client.kv_put(os.urandom(16), value) for _ in range(count)))
    return count / (time.perf_counter() - started_s)


async def cas_latencies_ms(client: AsyncGcsClient, count: int) -> list[float]:
    version = await client.kv_put(b"cas", b"")
    took: list[float] = []
    for at in range(count):
        started_s = time.perf_counter()
        version = await client.kv_put(b"cas", b"%d" % at, expected_version=version)
        took.append((time.perf_counter() - started_s) * 1e3)
    return took


async def watch_latencies_ms(client: AsyncGcsClient, count: int) -> list[float]:
    events = client.watch(KV, prefix=b"watched\0")
    while (await anext(events)).kind is not WatchKind.SYNCED:
        pass
    took: list[float] = []
    for at in range(count):
        started_s = time.perf_counter()
        writing = asyncio.create_task(client.kv_put(b"k", b"%d" % at, namespace="watched"))
        await anext(events)
        took.append((time.perf_counter() - started_s) * 1e3)
        await writing
    await events.aclose()
    return took


async def measure(address: str, token: str, runs: int) -> None:
    async def rate(name: str, run: Callable[[AsyncGcsClient, int], Awaitable[float]]) -> None:
        found = [await run(client, 50_000) for _ in range(runs)]
        print(f"{name:<34}{statistics.median(found):>12,.0f} /s")

    async def latency(
        name: str, run: Callable[[AsyncGcsClient, int], Awaitable[list[float]]]
    ) -> None:
        cuts = [statistics.quantiles(await run(client, 1000), n=100) for _ in range(runs)]
        p50, p99 = (statistics.median(cut[at] for cut in cuts) for at in (49, 98))
        print(f"{name:<34}{p50:>9.2f} ms p50 {p99:>9.2f} ms p99")

    async with AsyncGcsClient(address, token) as client:
        await rate("lineage records, batches of 1000", lineage_records_per_s)
        await rate("critical records, batches of 1000", critical_records_per_s)
        await latency("single compare-and-set", cas_latencies_ms)
        await latency("write until seen by a watch", watch_latencies_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs: int = parser.parse_args().runs
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        token_file = Path(folder) / "token"
        token = write_token(token_file)
        arguments = ["--port=0", f"--data-dir={folder}/data", f"--token-file={token_file}"]
        with subprocess.Popen(
            [sys.executable, "-m", "rostral_gcs", "serve", *arguments],
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            try:
                asyncio.run(measure(address, token, runs))
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
