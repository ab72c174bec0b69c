"""An object from one node to another over loopback, and what plain TCP does there.

Owns the nodes, each a daemon and a process that serves what lies in its store, and the sender of
plain bytes. The receiver is the process that measures: its memory is warm after the first fetch of
a size, and so is the buffer that the plain bytes are received into.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from store_engines import STORES, NotAvailableError, rostral_daemon
from store_targets import SIZES

NODE_BYTES = 1_500_000_000
FETCHES: dict[str, int] = {"1 KB": 200, "100 MB": 9, "1 GB": 3}
TIMEOUT_S = 60.0


def measure() -> Iterator[tuple[str, float, str]]:
    """Gives row, value, and of whom it is: "" for the store, "tcp" for plain TCP."""
    if find_spec("rostral_objectstore.transfer") is None:
        raise NotAvailableError("there is no transfer between nodes yet")
    with tempfile.TemporaryDirectory(prefix="rostral-bench-") as folder:
        yield from between_nodes(str(Path(folder) / "token"))


def between_nodes(token: str) -> Iterator[tuple[str, float, str]]:
    """Two nodes that hold the same objects, and one that fetches them."""
    from rostral_gcs.auth import write_token
    from rostral_gcs.ids import ObjectID
    from rostral_objectstore.transfer import Credentials, FetchConfig, Fetcher

    write_token(token)
    keys = {size: os.urandom(20) for size in FETCHES}
    with contextlib.ExitStack() as stack:
        first_process, first = stack.enter_context(holder(token, keys))
        _, second = stack.enter_context(holder(token, keys))
        address = stack.enter_context(rostral_daemon(NODE_BYTES))
        store: Any = STORES["rostral"](address)
        stack.callback(store.close)
        config = FetchConfig(credentials=Credentials(token_file=token))
        fetcher = stack.enter_context(Fetcher(store.client.table, config))

        def fetch(size: str, *holders: str) -> float:
            """Seconds; the object is gone again afterwards."""
            began_s = time.perf_counter()
            handle = fetcher.fetch(
                ObjectID(keys[size]), holders, holders_at_once=1, timeout_s=TIMEOUT_S
            )
            took_s = time.perf_counter() - began_s
            check(store.client.get(handle), SIZES[size])
            return took_s

        for size, count in FETCHES.items():
            fetch(size, first)
            name = f"transfer of {size} between two nodes"
            if size == "1 KB":
                took_s = statistics.median(fetch(size, first) for _ in range(count))
                yield name, took_s * 1e6, ""
                continue
            # In turns, so that what else the machine does meets both.
            with plain_tcp(SIZES[size]) as receive:
                pairs = [(fetch(size, first), receive()) for _ in range(count)]
            took_s, tcp_s = (statistics.median(column) for column in zip(*pairs, strict=True))
            yield name, SIZES[size] / took_s / 1e9, ""
            yield name, SIZES[size] / tcp_s / 1e9, "tcp"
        killer = threading.Timer(took_s / 2, first_process.kill)
        killer.start()
        took_s = fetch("1 GB", first, second)
        killer.join()
        yield "1 GB whose source is killed half way, from the second holder", took_s, ""


def value_of(size: int) -> np.ndarray[Any, Any]:
    """The numbers 0, 1, 2 ..."""
    return np.arange(size // 8, dtype=np.int64)


def check(value: np.ndarray[Any, Any], size: int) -> None:
    """Whether it is what was put. Every number is looked at."""
    count = size // 8
    if value.size != count or int(value.sum()) != count * (count - 1) // 2:
        raise ValueError(f"the object of {size} bytes came back as another")


@contextlib.contextmanager
def holder(token: str, keys: dict[str, bytes]) -> Iterator[tuple[Any, str]]:
    """A node with the objects: the process that serves them, and its address."""
    with (
        rostral_daemon(NODE_BYTES) as address,
        child(serve_objects, address, token, keys) as (process, pipe),
    ):
        yield process, pipe.recv()


def serve_objects(pipe: Connection, address: str, token: str, keys: dict[str, bytes]) -> None:
    """The holder's process: serves until the pipe is closed."""
    from rostral_gcs.ids import ObjectID
    from rostral_objectstore.transfer import Credentials, TransferServer, TransferServerConfig

    store: Any = STORES["rostral"](address)
    kept = [store.client.put(value_of(SIZES[size]), ObjectID(key)) for size, key in keys.items()]
    config = TransferServerConfig(credentials=Credentials(token_file=token))
    with TransferServer(store.client.table, config) as server:
        pipe.send(server.address)
        with contextlib.suppress(EOFError):
            pipe.recv()
    kept.clear()
    store.close()


@contextlib.contextmanager
def plain_tcp(size: int) -> Iterator[Callable[[], float]]:
    """What receives so many bytes over one connection, from warm memory into warm memory.

    It returns the seconds that it took.
    """
    with child(send_bytes, size) as (_, pipe):
        target = memoryview(bytearray(size))
        with socket.create_connection(("127.0.0.1", pipe.recv()), TIMEOUT_S) as connection:

            def receive() -> float:
                began_s = time.perf_counter()
                connection.sendall(b"?")
                received = 0
                while received < size:
                    received += connection.recv_into(target[received:])
                return time.perf_counter() - began_s

            receive()
            yield receive


def send_bytes(pipe: Connection, size: int) -> None:
    """The other end: sends all of it for each byte that comes."""
    source = value_of(size)
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        connection, _ = server.accept()
        with connection:
            while connection.recv(1):
                connection.sendall(source.data)


@contextlib.contextmanager
def child(work: Callable[..., None], *arguments: Any) -> Iterator[tuple[Any, Connection]]:
    """A process that works until this end of its pipe is closed."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there, *arguments))
    process.start()
    there.close()
    try:
        yield process, here
    finally:
        here.close()
        process.join()
