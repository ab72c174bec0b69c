"""Device arrays in the store: put and get, beside what the device, pickle and torch's IPC take.

    tox -e gpu -- --json gpu.json

Each size is measured in two processes: this one puts, the other gets. The floor is a copy from the
device to the device, which a put cannot do without. On a machine without a GPU it says so in one
line and ends with status 77, which is neither of a gate that holds nor of one that fails;
`--backend fake` runs the whole of it on a fake device, to see that it works. The report's keys are
in packages/objectstore/docs/gpu.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from figures import machine
from rostral_objectstore import StoreClient
from rostral_objectstore.errors import DeviceUnavailableError
from rostral_objectstore.gpu.backend import BACKEND_VARIABLE, ArrayForm, Backend, own_backend
from rostral_objectstore.link import wait_until_served

SIZES_BYTES = (1 << 10, 1 << 16, 1 << 20, 1 << 24, 1 << 28, 1 << 30)
# What the issue of a device tier is: reading costs nothing that grows, writing one copy.
GET_US_MAX = 100.0
PUT_BANDWIDTH_SHARE_MIN = 0.8
# As automake has it: the test was not run.
STATUS_NO_GPU = 77
# Below, a put is its messages and not its copy.
BANDWIDTH_FROM_BYTES = 1 << 28
ROUNDS = 15

Row = dict[str, Any]


def new_array(backend: Backend, size_bytes: int) -> Any:
    """An array of that size on the first device."""
    form = ArrayForm(framework=backend.name, dtype="uint8", shape=(size_bytes,))
    return backend.to_device(form, 0, memoryview(bytes(size_bytes)))


def median_s(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Of as many rounds, after one that does not count."""
    work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def copy_on_device(backend: Backend, array: Any, size_bytes: int) -> Callable[[], None]:
    """The floor: the same bytes to another place on the device, and waiting for it."""
    stream, target = backend.stream(0), backend.allocate(0, size_bytes)
    source = backend.source(array)
    assert source is not None

    def copy() -> None:
        stream.copy(target.pointer, source.pointer, size_bytes)
        stream.record().synchronize()

    return copy


def through_the_host(backend: Backend, array: Any) -> Callable[[], None]:
    """What pickle does: down, into the pickle, out of it, and up again."""
    source = backend.source(array)
    assert source is not None
    stream = backend.stream(0)

    def carry() -> None:
        elements = bytearray(source.size_bytes)
        stream.download(memoryview(elements), source.pointer)
        stream.record().synchronize()
        loaded = pickle.loads(pickle.dumps(elements, 5))
        backend.to_device(source.form, 0, memoryview(loaded))

    return carry


def read(socket: str, connection: Connection[Any, Any]) -> None:
    """The other process: gets what it is told, first and again, and times torch's IPC."""
    with StoreClient.connect(socket) as client:
        while True:
            command = connection.recv()
            if command is None:
                return
            kind, what = command
            if kind == "get":
                began = time.perf_counter()
                client.get(what)
                first_s = time.perf_counter() - began
                connection.send((first_s, median_s(functools.partial(client.get, what))))
            else:
                began = time.perf_counter()
                rebuild, arguments = what
                tensor = rebuild(*arguments)
                connection.send((time.perf_counter() - began, tensor.nbytes))


def torch_ipc_s(connection: Connection[Any, Any], size_bytes: int) -> float | None:
    """What torch takes to hand a tensor to the other process; None: this torch has no CUDA."""
    try:
        import torch
        from torch.multiprocessing import reductions
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    tensor = torch.zeros(size_bytes, dtype=torch.uint8, device="cuda:0")
    torch.cuda.synchronize()
    began = time.perf_counter()
    reduced = reductions.reduce_tensor(tensor)  # type: ignore[no-untyped-call]
    reduce_s = time.perf_counter() - began
    connection.send(("torch", reduced))
    rebuild_s, _ = connection.recv()
    return float(reduce_s + rebuild_s)


def measure(client: StoreClient, connection: Connection[Any, Any], size_bytes: int) -> Row:
    """One size, all that is compared."""
    backend = own_backend()
    array = new_array(backend, size_bytes)
    rounds = ROUNDS if size_bytes < BANDWIDTH_FROM_BYTES else 5
    copy_s = median_s(copy_on_device(backend, array, size_bytes), rounds)
    put_s = median_s(lambda: client.put(array), rounds)
    handle = client.put(array, f"array {size_bytes}")
    connection.send(("get", f"array {size_bytes}"))
    first_get_s, get_s = connection.recv()
    del handle
    host_s = median_s(through_the_host(backend, array), min(rounds, 3))
    torch_s = torch_ipc_s(connection, size_bytes)
    return {
        "size_bytes": size_bytes,
        "device_copy_s": copy_s,
        "put_s": put_s,
        "first_get_s": first_get_s,
        "get_s": get_s,
        "pickle_through_host_s": host_s,
        "torch_ipc_s": torch_s,
        "put_share_of_copy_bandwidth": copy_s / put_s,
    }


def failed_gates(rows: list[Row]) -> list[str]:
    """What is not as good as it must be."""
    failed = []
    for row in rows:
        get_us = row["get_s"] * 1e6
        if get_us >= GET_US_MAX:
            failed.append(f"get of {row['size_bytes']} bytes takes {get_us:.0f} us")
        share = row["put_share_of_copy_bandwidth"]
        if row["size_bytes"] >= BANDWIDTH_FROM_BYTES and share < PUT_BANDWIDTH_SHARE_MIN:
            failed.append(f"put of {row['size_bytes']} bytes has {share:.0%} of a copy's bandwidth")
    return failed


def shown(rows: list[Row]) -> Table:
    """The figures for people, times in microseconds."""
    table = Table(title="device arrays: microseconds, medians")
    names = ("device_copy_s", "put_s", "first_get_s", "get_s", "pickle_through_host_s")
    table.add_column("bytes", justify="right")
    for name in (*names, "torch_ipc_s"):
        table.add_column(name.removesuffix("_s").replace("_", " "), justify="right")
    table.add_column("put / copy bandwidth", justify="right")
    for row in rows:
        times = [row[name] for name in (*names, "torch_ipc_s")]
        cells = ["-" if taken is None else f"{taken * 1e6:,.1f}" for taken in times]
        table.add_row(f"{row['size_bytes']:,}", *cells, f"{row['put_share_of_copy_bandwidth']:.0%}")
    return table


@contextmanager
def store(device_bytes: int) -> Iterator[str]:
    """A store of its own, with that much of the device."""
    with tempfile.TemporaryDirectory(prefix="rostral-") as folder:
        socket = f"{folder}/store"
        command = (sys.executable, "-c", "from rostral_objectstore.cli import main; main()")
        options = ("--socket", socket, "--memory", "256M", "--device-memory", str(device_bytes))
        process = subprocess.Popen([*command, "serve", *options], stdout=subprocess.DEVNULL)
        try:
            wait_until_served(socket, 30.0)
            yield socket
        finally:
            process.terminate()
            process.wait(30.0)


def run(sizes_bytes: list[int]) -> list[Row]:
    """All sizes."""
    # A put keeps the last array until the next one is there.
    with store(3 * max(sizes_bytes) + (64 << 20)) as socket, StoreClient.connect(socket) as client:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        reader = context.Process(target=read, args=(socket, theirs), daemon=True)
        reader.start()
        rows = [measure(client, ours, size_bytes) for size_bytes in sizes_bytes]
        ours.send(None)
        reader.join(30.0)
    return rows


def main() -> int:
    """Exit status: 0 if every gate holds, 1 if one does not, 77 if there is no GPU to measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--backend", choices=("cupy", "fake"), default="cupy")
    parser.add_argument("--check", action="store_true", help="say whether there is a GPU, and end")
    parser.add_argument("--size-max", type=int, default=max(SIZES_BYTES), help="bytes")
    arguments = parser.parse_args()
    os.environ[BACKEND_VARIABLE] = arguments.backend
    console = Console()
    try:
        backend = own_backend()
    except DeviceUnavailableError as error:
        console.print(f"SKIP: nothing is run on a GPU. {error}", markup=False, soft_wrap=True)
        return STATUS_NO_GPU
    if arguments.check:
        console.print(f"GPU 0 of {backend.device_count()}: {backend.identity(0)}", markup=False)
        return 0
    rows = run([size for size in SIZES_BYTES if size <= arguments.size_max])
    console.print(shown(rows))
    failed = failed_gates(rows) if backend.name == "cupy" else []
    for problem in failed:
        console.print(f"GATE: {problem}")
    if arguments.json is not None:
        report = {"machine": machine(), "device": backend.identity(0), "rows": rows}
        arguments.json.write_text(json.dumps(report | {"failed": failed}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
