"""What one client sees when the primary of a replicated shard dies, through the GCS's own API.

Run: ``python benchmarks/bench_failover.py --rounds 10``. The paper's conditions (OSDI'18 §5.3,
figure 10a): keys of 25 bytes, values of 512, one client with one request in flight, as fast as it
can; one of two copies is killed, and a new one joins at once. The client speaks to a GCS process,
which speaks to two Redis servers with WAIT 1. Reported are the latencies of the requests; for each
kill that of the request that met it, detection and recovery included; and the longest of the round,
in which the new member also copies everything. A kill closes connections; a silent partition does
not, so it is reported apart: there the time is what the GCS waits for an answer
(`redis_command_timeout_s` and `redis_connect_timeout_s`).

After each round every acknowledged write is read back; a lost one ends the run with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rostral_gcs import AsyncGcsClient, ClientOptions, write_token

_KEY_FORMAT = "%024d"  # One byte more is the namespace's.
_VALUE = bytes(512)
_BEFORE_S = 1.0
_AFTER_S = 1.0
_BUCKET_S = 0.1


@dataclass(frozen=True)
class Round:
    """One death.

    Attributes:
        latencies_ms: Of every request.
        ends_s: When each ended, from the begin of the round.
        died_s: When the primary was hit, from the begin of the round.
        lost: Acknowledged writes that are not there afterwards.
    """

    latencies_ms: list[float]
    ends_s: list[float]
    died_s: float
    lost: int

    @property
    def longest_ms(self) -> float:
        """The longest delay that the client saw in the whole round."""
        return max(self.latencies_ms)

    @property
    def at_death_ms(self) -> float:
        """How long the request took that met the death."""
        return next(
            latency_ms
            for end_s, latency_ms in zip(self.ends_s, self.latencies_ms, strict=True)
            if end_s > self.died_s
        )


class Pair:
    """Two Redis servers, a GCS process over them, and who of the two is the primary."""

    def __init__(self, folder: Path) -> None:
        # The package's tests are no installed package: they are found where they lie.
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        servers: Any = importlib.import_module("tests.redis_servers")
        layout: Any = importlib.import_module("rostral_gcs.backends.redis_layout")
        self._meta = layout.Keys("rostral", 0).meta
        self._farm = servers.RedisFarm(folder)
        self.servers: list[Any] = self._farm.group(2)
        token_file = folder / "token"
        self.token = write_token(token_file)
        command = [sys.executable, "-m", "rostral_gcs", "serve", "--port=0", "--backend=redis"]
        command += [f"--token-file={token_file}", f"--data-dir={folder / 'data'}"]
        command += [f"--redis-url={servers.group_url(self.servers)}"]
        self._gcs = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._gcs.stdout is not None
        self.address = self._gcs.stdout.readline().split()[-1]

    @property
    def primary(self) -> Any:
        """The server that takes writes; one that was away may still believe that it does."""
        masters = [one for one in self.servers if one.info("role") == "master"]
        return max(masters, key=lambda one: int(one.ask("HGET", self._meta, "epoch") or 0))

    def wait_until_whole(self) -> None:
        """Waits until both servers are there and every write waits for the second."""
        primary = self.primary
        primary.wait(lambda: primary.ask("HGET", self._meta, "wait") == b"1")
        primary.wait(lambda: primary.info("connected_slaves") == "1")

    def close(self) -> None:
        """Ends all three."""
        self._gcs.terminate()
        self._gcs.wait()
        self._farm.close()


@contextmanager
def running_pair() -> Iterator[Pair]:
    """A pair in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="rostral-failover-") as name:
        pair = Pair(Path(name))
        try:
            yield pair
        finally:
            pair.close()


async def _write_through(
    client: AsyncGcsClient, pair: Pair, number: signal.Signals, first: int, after_s: float
) -> Round:
    """Writes, one request at a time, hits the primary in between, and reads all back."""
    primary = await asyncio.to_thread(lambda: pair.primary)
    latencies_ms: list[float] = []
    ends_s: list[float] = []
    begun_s = time.perf_counter()
    died_s = 0.0
    at = first
    while True:
        started_s = time.perf_counter()
        await client.kv_put((_KEY_FORMAT % at).encode(), _VALUE)
        ended_s = time.perf_counter()
        at += 1
        latencies_ms.append((ended_s - started_s) * 1e3)
        ends_s.append(ended_s - begun_s)
        if not died_s and ends_s[-1] > _BEFORE_S:
            os.kill(primary.process.pid, number)
            died_s = time.perf_counter() - begun_s
        if died_s and ends_s[-1] > died_s + after_s:
            break
    kept = set(await client.kv_keys())
    lost = sum((_KEY_FORMAT % key).encode() not in kept for key in range(first, at))
    # The member that comes in its place: the same server, which must copy all from the other.
    if number is signal.SIGSTOP:
        os.kill(primary.process.pid, signal.SIGCONT)
    else:
        await asyncio.to_thread(primary.process.wait)
        await asyncio.to_thread(primary.start)
    await asyncio.to_thread(pair.wait_until_whole)
    return Round(latencies_ms, ends_s, died_s, lost)


async def _rounds(pair: Pair, number: signal.Signals, count: int, first: int) -> list[Round]:
    options = ClientOptions(call_timeout_s=30.0)
    async with AsyncGcsClient(pair.address, pair.token, options=options) as client:
        await client.kv_put(b"warm", _VALUE)
        await asyncio.to_thread(pair.wait_until_whole)
        after_s = 4.0 if number is signal.SIGSTOP else _AFTER_S
        done: list[Round] = []
        for _ in range(count):
            done.append(await _write_through(client, pair, number, first, after_s))
            first += len(done[-1].latencies_ms)
        return done


def _row(name: str, rounds: list[Round]) -> dict[str, Any]:
    latencies = sorted(ms for one in rounds for ms in one.latencies_ms)
    longest = [round(one.longest_ms, 2) for one in rounds]
    at_death = [round(one.at_death_ms, 2) for one in rounds]
    return {
        "name": name,
        "rounds": len(rounds),
        "requests": len(latencies),
        "p50_ms": round(latencies[len(latencies) // 2], 3),
        "p99_ms": round(latencies[len(latencies) * 99 // 100], 3),
        "at_death_ms": at_death,
        "at_death_median_ms": round(statistics.median(at_death), 2),
        "at_death_max_ms": max(at_death),
        "longest_ms": longest,
        "longest_median_ms": round(statistics.median(longest), 2),
        "longest_max_ms": max(longest),
        "lost": sum(one.lost for one in rounds),
        "timeline": _timeline(rounds[0]),
    }


def _timeline(one: Round) -> list[dict[str, float]]:
    """Requests and longest latency of each tenth of a second, the death at 0."""
    buckets: dict[int, list[float]] = {}
    for end_s, latency_ms in zip(one.ends_s, one.latencies_ms, strict=True):
        buckets.setdefault(int((end_s - one.died_s) // _BUCKET_S), []).append(latency_ms)
    return [
        {"at_s": round(at * _BUCKET_S, 1), "requests": len(part), "max_ms": round(max(part), 2)}
        for at, part in sorted(buckets.items())
    ]


def failover_rows(rounds: int) -> list[dict[str, Any]]:
    """Rows for a table: the kill and, in a fifth of the rounds, the silent partition.

    Each has ``name``, ``rounds``, ``requests``, ``p50_ms``, ``p99_ms``; ``at_death_ms``, the
    latency of the request that met each death, and ``longest_ms``, the longest of each round, both
    with ``..._median_ms`` and ``..._max_ms``; ``lost`` and the first round's ``timeline``. Takes
    3 s a round.
    """
    with running_pair() as pair:
        killed = asyncio.run(_rounds(pair, signal.SIGKILL, rounds, 0))
        first = sum(len(one.latencies_ms) for one in killed)
        stopped = asyncio.run(_rounds(pair, signal.SIGSTOP, max(1, rounds // 5), first))
    return [
        _row("failover: primary killed", killed),
        _row("failover: primary silent (partition)", stopped),
    ]


def main() -> int:
    """Prints the rows, or writes them as JSON; 1 when an acknowledged write was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    rows = failover_rows(options.rounds)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for row in rows:
        print(
            f"{row['name']:<38}{row['rounds']:>3} rounds  p50 {row['p50_ms']:.2f} ms  p99 "
            f"{row['p99_ms']:.2f} ms  at death: median {row['at_death_median_ms']:.1f} ms, max "
            f"{row['at_death_max_ms']:.1f} ms  lost {row['lost']}"
        )
        print("    at each death:      ", ", ".join(f"{ms:.1f}" for ms in row["at_death_ms"]))
        print("    longest of its round:", ", ".join(f"{ms:.1f}" for ms in row["longest_ms"]))
        for bucket in row["timeline"]:
            print(
                f"    {bucket['at_s']:>5.1f} s {bucket['requests']:>6} requests, longest "
                f"{bucket['max_ms']:.2f} ms"
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 1 if any(row["lost"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
