"""A store daemon in a process of its own, and peers of it: what the tests are about."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from rostral_objectstore import StoreClient
from rostral_objectstore._native import repair
from rostral_objectstore._native.check import check
from rostral_objectstore._native.heap import Heap
from rostral_objectstore.client import ClientKind
from rostral_objectstore.layout import SLOTS_MAX, Audit, SlotState
from rostral_objectstore.link import wait_until_served

DEADLINE_S = 20.0
COMMAND = [sys.executable, "-c", "from rostral_objectstore.cli import main; main()"]


def until(condition: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Polls until the condition holds; fails with `what` after the time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.002)


class PeerError(Exception):
    """A peer raised; `name` is the class of what it raised."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Peer:
    """Another process, which keeps the names that it is told to assign."""

    def __init__(self, pid: int, connection: Connection[Any, Any]) -> None:
        self.pid = pid
        self._connection = connection

    def begin(self, code: str, **values: object) -> None:
        """Lets it run the statements, and does not wait."""
        self._connection.send(("do", code, values))

    def end(self, timeout_s: float = DEADLINE_S) -> Any:
        """Waits for what was begun. Raises PeerError with what it raised."""
        assert self._connection.poll(timeout_s), f"peer {self.pid} does not answer"
        name, answer = self._connection.recv()
        if name is not None:
            raise PeerError(name, answer)
        return answer

    def do(self, code: str, **values: object) -> None:
        """Lets it run the statements, and waits."""
        self.begin(code, **values)
        self.end()

    def ask(self, expression: str, **values: object) -> Any:
        """The value of an expression there."""
        self._connection.send(("ask", expression, values))
        return self.end()

    def has_answered(self) -> bool:
        """Whether what was begun has ended, or the peer has."""
        return self._connection.poll()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill -9, and nothing is left of it when this returns."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{self.pid}").exists(), f"death of {self.pid}")
        self._connection.close()

    def close(self) -> None:
        """Lets it end by itself."""
        self._connection.close()


class Nursery:
    """Where peers come from: a process that has imported everything and forks on demand."""

    def __init__(self, folder: Path) -> None:
        address = str(folder / "peers")
        self._listener = Listener(address, family="AF_UNIX")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("peers.py")), address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def peer(self) -> Peer:
        """A new process, attached to nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        return Peer(pid, self._listener.accept())

    def close(self) -> None:
        """Ends the nursery; its peers end with their connections."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(DEADLINE_S)
        self._listener.close()


class Store:
    """One daemon, and what its segment looks like through an attachment of the test's own."""

    def __init__(
        self, folder: Path, nursery: Nursery, memory_bytes: int, options: tuple[str, ...]
    ) -> None:
        self.socket = str(folder / "store")
        self.quiet = True
        self._nursery = nursery
        self._clients: list[StoreClient] = []
        self._peers: list[Peer] = []
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "--socket", self.socket, "--memory", str(memory_bytes), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until_served(self.socket, DEADLINE_S)
        self.watcher = StoreClient.connect(self.socket)

    def connect(self, kind: ClientKind = "client") -> StoreClient:
        """An attachment in the test's own process, closed at its end."""
        client = StoreClient.connect(self.socket, kind=kind)
        self._clients.append(client)
        return client

    def peer(self, *, attached: bool = True) -> Peer:
        """Another process; attached, it has `client`, and knows its `slot`."""
        peer = self._nursery.peer()
        self._peers.append(peer)
        if attached:
            peer.do(
                "client = StoreClient.connect(socket); slot = client.slot; table = client.table; "
                "tasks = client.tasks; segment = client.segment",
                socket=self.socket,
            )
        return peer

    def audit(self) -> Audit:
        """What lies in the segment right now."""
        return repair.audit(self.watcher.table)

    def slots(self) -> list[int]:
        """Slots in use, but for the store's own and the watcher's."""
        free = self.watcher.segment.slots_in_state(SlotState.FREE)
        return sorted(set(range(SLOTS_MAX)) - set(free) - {0, self.watcher.slot})

    def until_gone(self, slot: int, timeout_s: float = DEADLINE_S) -> None:
        """The daemon has cleaned up after the process that had the slot."""
        until(lambda: slot not in self.slots(), f"clean-up of slot {slot}", timeout_s)

    def leave(self) -> None:
        """Ends all peers and clients."""
        for peer in self._peers:
            peer.close()
        for client in self._clients:
            client.close()

    def expect_nothing_left(self) -> None:
        """Without clients there is no object, task, hold, block, lock, slot or claimed chunk."""
        self.leave()
        until(lambda: not self.slots(), "all slots free")
        nothing: Audit = dict.fromkeys(Audit.__annotations__, 0)  # type: ignore[assignment]
        with contextlib.suppress(AssertionError):
            until(lambda: self.audit() == nothing, "an empty segment", 5.0)
        assert self.audit() == nothing, repair.list_objects(self.watcher.table, 10)
        heap = Heap(self.watcher.segment)
        with contextlib.suppress(AssertionError):
            # The daemon gives its own slabs back once a second.
            until(lambda: not any(_claimed(heap)), "no claimed chunks", 5.0)
        assert _claimed(heap) == [0, 0, 0, 0], heap.chunks_by_kind()
        assert check(self.watcher.table) == []
        assert self.process.poll() is None

    def stop(self) -> None:
        """SIGTERM; the daemon must end well and, if it has to be quiet, have logged nothing."""
        self.watcher.close()
        self.process.terminate()
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0
        assert not self.quiet or errors == ""
        assert "Task exception was never retrieved" not in errors


def _claimed(heap: Heap) -> list[int]:
    """How many chunks are claimed, slabs, runs, bodies of runs."""
    kinds = heap.chunks_by_kind()
    return kinds[1:3] + kinds[5:7]


@contextlib.contextmanager
def running(folder: Path, nursery: Nursery, memory_bytes: int, *options: str) -> Iterator[Store]:
    """A daemon, and the check that nothing is left when the test is over.

    Unless the options say otherwise, a put that finds no room does not wait for some.
    """
    store = Store(folder, nursery, memory_bytes, ("--full-timeout", "0", *options))
    try:
        yield store
        if store.process.poll() is None:
            store.expect_nothing_left()
            store.stop()
    finally:
        store.leave()
        store.watcher.close()
        store.process.kill()
        store.process.communicate()
