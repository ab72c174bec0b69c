"""What `bench-gcs` measures: one engine, one group, each row printed as a line of JSON.

Run by bench_gcs.py in a fresh interpreter. The server is a process of its own; so is Redis. The
engine `plain redis` is redis-py and a server with no GCS between them, its append-only file synced
each second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from gcs_targets import BATCH, CALLERS, LIVE_RECORDS, VALUE_BYTES
from rostral_gcs import (
    KV,
    AsyncGcsClient,
    ClientOptions,
    TaskRow,
    TaskState,
    WatchKind,
    write_token,
)
from rostral_gcs._proto import gcs_pb2
from rostral_gcs.errors import TooLargeError
from rostral_gcs.ids import FunctionID, JobID, NodeID, ObjectID, TaskID
from rostral_gcs.protocol import PROTOCOL_VERSION
from rostral_gcs.tables.tasks import TASKS

TESTS = Path(__file__).resolve().parents[2] / "packages" / "gcs"
VALUE = bytes(VALUE_BYTES)
JOB, FUNCTION = JobID.from_random(), FunctionID.from_random()
# The record's own fields and the name are part of the 256 bytes.
SPEC = bytes(
    VALUE_BYTES
    - len(
        TASKS.encode(
            TaskRow(task_id=TaskID.from_random(), job_id=JOB, function_id=FUNCTION, name="work")
        )
    )
)
UNBATCHED = ClientOptions(batching=False)


def emit(name: str, value: float) -> None:
    """One row."""
    sys.stdout.write(json.dumps({"name": name, "value": value}) + "\n")
    sys.stdout.flush()


def tasks(count: int) -> list[TaskRow]:
    """New tasks, unfinished: they stay in memory."""
    return [
        TaskRow(
            task_id=TaskID.from_random(),
            job_id=JOB,
            function_id=FUNCTION,
            name="work",
            state=TaskState.PENDING,
            spec=SPEC,
        )
        for _ in range(count)
    ]


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[Any]:
    """A Redis of our own."""
    # The package's tests are no installed package: they are found where they lie.
    sys.path.insert(0, str(TESTS))
    servers: Any = importlib.import_module("tests.redis_servers")
    process = servers.RedisProcess(
        folder / "redis", "--appendonly", "yes", "--appendfsync", "everysec"
    )
    try:
        yield process
    finally:
        process.process.terminate()
        process.process.wait()


class Server:
    """A `rostral-gcs serve` process; `restart` kills it and starts it again."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        token_file = folder / "token"
        self.token = write_token(token_file)
        self._command = [sys.executable, "-m", "rostral_gcs", "serve", "--port=0"]
        self._command += [f"--data-dir={folder / 'data'}", f"--token-file={token_file}"]
        if redis_url:
            self._command += ["--backend=redis", f"--redis-url={redis_url}"]
        self.start()

    def start(self) -> None:
        """Starts and waits until it serves."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[-1]

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def server(engine: str) -> Iterator[Server]:
    """A server on the engine's backend, in a folder of its own."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rostral-gcs-")))
        url = stack.enter_context(redis_server(folder)).url if engine == "redis" else ""
        running = Server(folder, url)
        stack.callback(running.kill)
        yield running


async def rate(count: int, work: Callable[[], Awaitable[object]]) -> float:
    """Rows a second."""
    began_s = time.perf_counter()
    await work()
    return count / (time.perf_counter() - began_s)


async def latencies_ms(count: int, work: Callable[[int], Awaitable[object]]) -> list[float]:
    """Of each of the calls, one after the other."""
    took: list[float] = []
    for at in range(count):
        began_s = time.perf_counter()
        await work(at)
        took.append((time.perf_counter() - began_s) * 1e3)
    return took


def quantile(values: list[float], percent: int) -> float:
    """The value below which so many percent of them lie."""
    return statistics.quantiles(values, n=100)[percent - 1]


async def by_callers(rows: list[TaskRow], client: AsyncGcsClient) -> None:
    """So many callers, each recording one task at a time."""

    async def caller(first: int) -> None:
        for at in range(first, len(rows), CALLERS):
            await client.record_tasks([rows[at]])

    await asyncio.gather(*(caller(first) for first in range(CALLERS)))


async def bulk(running: Server, count: int) -> None:
    """Rates."""
    async with AsyncGcsClient(running.address, running.token) as client:
        await client.record_tasks(tasks(BATCH))
        rows = tasks(count)
        emit("lineage, batches of 1,000", await rate(count, lambda: client.record_tasks(rows)))
        few = tasks(count // 4)
        emit("lineage, 64 callers, batching", await rate(len(few), lambda: by_callers(few, client)))
        sizes = {ObjectID.from_random(): 1 for _ in range(count // 2)}
        node_id = NodeID.from_random()
        emit(
            "object locations, batches of 1,000",
            await rate(len(sizes), lambda: client.add_object_locations(node_id, sizes)),
        )
        keys = [os.urandom(16) for _ in range(count // 4)]
        emit(
            "key-value of 256 bytes, 1,000 at once, batching",
            await rate(
                len(keys), lambda: asyncio.gather(*(client.kv_put(key, VALUE) for key in keys))
            ),
        )
    async with AsyncGcsClient(running.address, running.token, options=UNBATCHED) as client:
        few = tasks(count // 20)
        emit(
            "lineage, 64 callers, no batching",
            await rate(len(few), lambda: by_callers(few, client)),
        )

        async def caller() -> None:
            for _ in range(count // 20 // CALLERS):
                await client.kv_put(os.urandom(16), VALUE)

        emit(
            "key-value of 256 bytes, 64 callers, no batching",
            await rate(
                count // 20 // CALLERS * CALLERS,
                lambda: asyncio.gather(*(caller() for _ in range(CALLERS))),
            ),
        )


async def compare_and_set(client: AsyncGcsClient, count: int) -> list[float]:
    """Each on the version that the one before gave."""
    version = await client.kv_put(b"cas", b"")

    async def step(at: int) -> None:
        nonlocal version
        version = await client.kv_put(b"cas", b"%d" % at, expected_version=version)

    return await latencies_ms(count, step)


async def seen_by_watch(client: AsyncGcsClient, count: int) -> list[float]:
    """From the call of a write until its event."""
    events = client.watch(KV, prefix=b"watched\0")
    while (await anext(events)).kind is not WatchKind.SYNCED:
        pass

    async def step(at: int) -> None:
        writing = asyncio.create_task(client.kv_put(b"k", b"%d" % at, namespace="watched"))
        await anext(events)
        waiting.append(writing)

    waiting: list[asyncio.Task[int]] = []
    took = await latencies_ms(count, step)
    await asyncio.gather(*waiting)
    await events.aclose()
    return took


async def single(running: Server, count: int) -> None:
    """Latencies."""
    async with AsyncGcsClient(running.address, running.token) as client:
        await compare_and_set(client, 100)
        took = await compare_and_set(client, count)
        emit("compare-and-set p50", quantile(took, 50))
        emit("compare-and-set p99", quantile(took, 99))
        greeting = gcs_pb2.HelloRequest(protocol_version=PROTOCOL_VERSION)
        call = client._connection.call
        took = await latencies_ms(count, lambda _: call("Hello", greeting, gcs_pb2.HelloReply))
        emit("an empty call p50", quantile(took, 50))
        took = await latencies_ms(count, lambda _: client.kv_get(b"cas"))
        emit("read of one row p50", quantile(took, 50))
        took = await seen_by_watch(client, count)
        emit("write seen by a watch p50", quantile(took, 50))
        emit("write seen by a watch p99", quantile(took, 99))

        async def refused(_: int) -> None:
            with contextlib.suppress(TooLargeError):
                await client.kv_put(b"large", bytes(600_000))

        emit("refusal p99", quantile(await latencies_ms(min(count, 200), refused), 99))
    async with AsyncGcsClient(running.address, running.token, options=UNBATCHED) as client:
        took = await compare_and_set(client, count)
        emit("compare-and-set p50, no batching", quantile(took, 50))
        emit("compare-and-set p99, no batching", quantile(took, 99))


async def restart(running: Server, live: int) -> None:
    """How long a killed server is away."""
    last: list[TaskRow] = []
    async with AsyncGcsClient(running.address, running.token) as client:
        for _ in range(0, live, 50 * BATCH):
            last = tasks(50 * BATCH)
            await client.record_tasks(last)
    running.kill()
    began_s = time.perf_counter()
    running.start()
    async with AsyncGcsClient(running.address, running.token) as client:
        assert await client.get_tasks([last[-1].task_id])
        emit("restart with 1,000,000 live records", time.perf_counter() - began_s)


def plain_redis(group: str, count: int) -> None:
    """The same through redis-py alone, where it has a like."""
    import redis

    with (
        tempfile.TemporaryDirectory(prefix="rostral-gcs-") as name,
        redis_server(Path(name)) as process,
    ):
        client = redis.Redis(port=process.port)
        if group == "bulk":
            keys = [os.urandom(16) for _ in range(count)]
            began_s = time.perf_counter()
            for at in range(0, count, BATCH):
                pipeline = client.pipeline(transaction=False)
                pipeline.mset(dict.fromkeys(keys[at : at + BATCH], VALUE))
                pipeline.execute()
            emit("lineage, batches of 1,000", count / (time.perf_counter() - began_s))
            began_s = time.perf_counter()
            for at in range(0, count, BATCH):
                pipeline = client.pipeline(transaction=False)
                for key in keys[at : at + BATCH]:
                    pipeline.set(key, VALUE)
                pipeline.execute()
            emit(
                "key-value of 256 bytes, 1,000 at once, batching",
                count / (time.perf_counter() - began_s),
            )
        elif group == "single":
            took: list[float] = []
            for at in range(count):
                began_s = time.perf_counter()
                client.set(b"k", b"%d" % at)
                took.append((time.perf_counter() - began_s) * 1e3)
            emit("compare-and-set p50", quantile(took, 50))
            emit("compare-and-set p99", quantile(took, 99))
        client.close()


def main() -> None:
    """Runs one group on one engine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--group", choices=("bulk", "single", "restart"), required=True)
    parser.add_argument("--count", type=int, default=100_000, help="rows of the largest workload")
    parser.add_argument("--live", type=int, default=LIVE_RECORDS)
    arguments = parser.parse_args()
    calls = max(100, arguments.count // 100)
    if arguments.engine == "plain redis":
        plain_redis(arguments.group, arguments.count if arguments.group == "bulk" else calls)
        return
    with server(arguments.engine) as running:
        if arguments.group == "bulk":
            asyncio.run(bulk(running, arguments.count))
        elif arguments.group == "single":
            asyncio.run(single(running, calls))
        else:
            asyncio.run(restart(running, arguments.live))


if __name__ == "__main__":
    main()
