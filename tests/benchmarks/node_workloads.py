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
import os
import signal
import statistics
import time
from collections.abc import Iterator
from typing import Any

BATCH = 500
"""Tasks submitted before any result is taken: enough to keep seven nodes at work."""
BROADCAST_BYTES = 100_000_000
STORE_BYTES = 400 << 20
WAIT_S = 120


def emit(name: str, value: float) -> None:
    """One row."""
    print(json.dumps({"name": name, "value": value}), flush=True)


@contextlib.contextmanager
def cluster_of(engine: Any, name: str, count: int) -> Iterator[Any]:
    """So many nodes, with this process as a driver on the head."""
    module = importlib.import_module(f"{name}.cluster_utils")
    cluster = module.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES}
    )
    try:
        for _ in range(count - 1):
            cluster.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=STORE_BYTES)
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


def broadcast(engine: Any, name: str, count: int) -> None:
    """One array to all other nodes at once; bytes received, all together, a second."""
    numpy = importlib.import_module("numpy")
    strategies = importlib.import_module(f"{name}.util.scheduling_strategies")

    def bytes_of(array: Any) -> int:
        return int(array.nbytes)

    size_of = engine.remote(num_cpus=1)(bytes_of)

    def on_all(reference: Any) -> list[int]:
        affinities = [
            strategies.NodeAffinitySchedulingStrategy(node, soft=False)
            for node in far_nodes(engine)
        ]
        calls = [size_of.options(scheduling_strategy=one).remote(reference) for one in affinities]
        sizes: list[int] = engine.get(calls, timeout=WAIT_S)
        return sizes

    on_all(engine.put(numpy.ones(1 << 16)))  # workers, connections and code are there then
    reference = engine.put(numpy.ones(BROADCAST_BYTES // 8))
    begin_s = time.perf_counter()
    sizes = on_all(reference)
    emit(f"broadcast_{count}_nodes", sum(sizes) / (time.perf_counter() - begin_s) / 1e9)


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
    with cluster_of(engine, arguments.engine, count) as cluster:
        if kind == "tasks":
            tasks(engine, count, arguments.seconds)
        elif kind == "broadcast":
            broadcast(engine, arguments.engine, count)
        else:
            death(engine, cluster, arguments.engine, silent=rest == "silent")


if __name__ == "__main__":
    main()
