"""The workloads of `bench-nodes`: one group in this process, on the engine's own Cluster.

Run with the interpreter of either engine; prints a JSON line for each row. The nodes are daemons of
their own on this machine: a head, where the driver is, with one CPU, and further nodes of one CPU
each with a resource that the head lacks, so that what asks for it must cross.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

BATCH = 500
"""Tasks submitted before any result is taken: enough to keep seven nodes at work."""
SMALL_BYTES, LARGE_BYTES = 100_000_000, 1_000_000_000
LARGE_BROADCASTS = 3
BUFFER_BYTES = 64 << 20
"""Of plain TCP: what is sent and received over and over, so that all of it is warm."""
STORE_BYTES = 400 << 20
WAIT_S = 120


def emit(name: str, value: float, *, of: str = "") -> None:
    """One row; `of` whom, if not the engine."""
    print(json.dumps({"name": name, "value": value, "of": of}), flush=True)


@contextlib.contextmanager
def cluster_of(engine: Any, name: str, count: int, store_bytes: int) -> Iterator[Any]:
    """So many nodes, with this process as a driver on the head."""
    module = importlib.import_module(f"{name}.cluster_utils")
    cluster = module.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": store_bytes}
    )
    try:
        for _ in range(count - 1):
            cluster.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=store_bytes)
        cluster.wait_for_nodes()
        engine.init(address=cluster.address)
        yield cluster
    finally:
        engine.shutdown()
        cluster.shutdown()


def far_nodes(engine: Any) -> list[str]:
    """Ids of the nodes that are not the head."""
    return [node["NodeID"] for node in engine.nodes() if "far" in node["Resources"]]


def tasks(engine: Any, count: int, seconds: float) -> None:
    """Empty tasks in batches, and one at a time."""

    def same(i: int) -> int:
        return i

    nothing = engine.remote(num_cpus=1, resources={"far": 0.001})(same)
    engine.get([nothing.remote(i) for i in range(BATCH)], timeout=WAIT_S)
    done, begin_s = 0, time.perf_counter()
    while (passed_s := time.perf_counter() - begin_s) < seconds or not done:
        assert sum(engine.get([nothing.remote(i) for i in range(BATCH)], timeout=WAIT_S)) > 0
        done += BATCH
    passed_s = time.perf_counter() - begin_s
    emit(f"tasks_{count}_nodes", done / passed_s)
    times: list[float] = []
    begin_s = time.perf_counter()
    while time.perf_counter() - begin_s < seconds or not times:
        call_s = time.perf_counter()
        engine.get(nothing.remote(0), timeout=WAIT_S)
        times.append(time.perf_counter() - call_s)
    emit(f"round_trip_{count}_nodes", statistics.median(times) * 1e3)


def broadcast(engine: Any, name: str, count: int, *, large: bool) -> None:
    """One array to all other nodes at once; bytes received, all together, a second."""
    numpy = importlib.import_module("numpy")
    strategies = importlib.import_module(f"{name}.util.scheduling_strategies")

    def bytes_of(array: Any) -> int:
        return int(array.nbytes)

    size_of = engine.remote(num_cpus=1)(bytes_of)
    affinities = [
        strategies.NodeAffinitySchedulingStrategy(node, soft=False) for node in far_nodes(engine)
    ]

    def on_all(reference: Any) -> list[int]:
        calls = [size_of.options(scheduling_strategy=one).remote(reference) for one in affinities]
        sizes: list[int] = engine.get(calls, timeout=WAIT_S)
        return sizes

    def timed(byte_count: int) -> float:
        reference = engine.put(numpy.ones(byte_count // 8))
        begin_s = time.perf_counter()
        sizes = on_all(reference)
        return sum(sizes) / (time.perf_counter() - begin_s) / 1e9

    on_all(engine.put(numpy.ones(1 << 16)))  # workers, connections and code are there then
    if not large:
        emit(f"broadcast_100MB_{count}_nodes", timed(SMALL_BYTES))
        return
    row = f"broadcast_1GB_{count}_nodes"
    for _ in range(LARGE_BROADCASTS):
        # In turns, so that what else the machine does meets both.
        emit(row, timed(LARGE_BYTES))
        emit(row, plain_broadcast(count - 1), of="tcp")


def plain_broadcast(count: int) -> float:
    """So many processes receive what one sends, over plain TCP; GB a second, all together."""
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(count + 1)]
    addresses, there = ends.pop()
    processes = [context.Process(target=send_plain, args=(there, count))]
    processes += [context.Process(target=receive_plain, args=(end,)) for _, end in ends]
    for process in processes:
        process.start()
    port = addresses.recv()
    for here, _ in ends:
        here.send(port)
    for here, _ in ends:
        here.recv()  # connected, and its buffer is warm
    begin_s = time.perf_counter()
    for here, _ in ends:
        here.send(None)
    for here, _ in ends:
        here.recv()
    took_s = time.perf_counter() - begin_s
    for process in processes:
        process.join()
    return count * LARGE_BYTES / took_s / 1e9


def send_plain(pipe: Connection, count: int) -> None:
    """The sender: all of it to each who connects, once that one has asked."""
    source = memoryview(bytes(BUFFER_BYTES))

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.recv(1)
            left = LARGE_BYTES
            while left:
                part = min(left, BUFFER_BYTES)
                connection.sendall(source[:part])
                left -= part

    with socket.create_server(("127.0.0.1", 0), backlog=count) as server:
        pipe.send(server.getsockname()[1])
        threads = [threading.Thread(target=serve, args=server.accept()[:1]) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def receive_plain(pipe: Connection) -> None:
    """A receiver, into memory that is there and warm."""
    target = memoryview(bytearray(BUFFER_BYTES))
    with socket.create_connection(("127.0.0.1", pipe.recv()), WAIT_S) as connection:
        pipe.send(None)
        pipe.recv()
        connection.sendall(b"?")
        received = 0
        while received < LARGE_BYTES:
            at = received % BUFFER_BYTES
            received += connection.recv_into(target[at:])
    pipe.send(None)


def death(engine: Any, cluster: Any, name: str, *, silent: bool) -> None:
    """From a node's death to the error of a task that ran there and may not run again."""

    def hang() -> None:
        time.sleep(600)

    hanging = engine.remote(num_cpus=1, resources={"far": 0.001}, max_retries=0)(hang)
    reference = hanging.remote()
    engine.wait([reference], timeout=3)
    (node,) = cluster.worker_nodes
    if name == "ray":
        pids = [info.process.pid for infos in node.all_processes.values() for info in infos]
    else:
        pids = [node.process.record.pid]
    begin_s = time.perf_counter()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP if silent else signal.SIGKILL)
    try:
        engine.get(reference, timeout=WAIT_S)
    except Exception as error:  # whatever the engine calls it
        assert "Timeout" not in type(error).__name__, error
    emit("death_silent" if silent else "death_refused", time.perf_counter() - begin_s)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def main() -> None:
    """One group."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    engine = importlib.import_module(arguments.engine)
    kind, _, rest = arguments.group.partition("_")
    count = int(rest) if rest.isdigit() else 2
    large = kind == "large"
    store_bytes = LARGE_BYTES + STORE_BYTES if large else STORE_BYTES
    with cluster_of(engine, arguments.engine, count, store_bytes) as cluster:
        if kind == "tasks":
            tasks(engine, count, arguments.seconds)
        elif kind in ("broadcast", "large"):
            broadcast(engine, arguments.engine, count, large=large)
        else:
            death(engine, cluster, arguments.engine, silent=rest == "silent")


if __name__ == "__main__":
    main()
