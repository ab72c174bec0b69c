"""Nodes that exchange objects: stores, each with a transfer server and a fetcher."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyarrow import flight

from rostral_gcs.auth import write_token
from rostral_gcs.ids import ObjectID
from rostral_objectstore import ObjectHandle, StoreClient
from rostral_objectstore.transfer import (
    Credentials,
    FetchConfig,
    Fetcher,
    TransferServer,
    TransferServerConfig,
)

from .store import Nursery, Peer, Store, running

SERVE = """
import os
from rostral_objectstore.transfer import Credentials, TransferServer, TransferServerConfig
server = TransferServer(
    client.table, TransferServerConfig(credentials=Credentials(token_file=token), **settings))
"""


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes of which no part equals another."""
    return random.Random(seed).randbytes(size)


class FakeTime:
    """A clock that only goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Lets that much time pass at once."""
        with self._lock:
            self.now_s += seconds


class Node:
    """One store in the test, and what of it takes part in transfers."""

    def __init__(self, store: Store, credentials: Credentials, exits: contextlib.ExitStack) -> None:
        self.store, self.credentials, self._exits = store, credentials, exits
        self.client: StoreClient = store.connect()

    def keep(self, data: bytes, id: ObjectID | None = None) -> ObjectHandle:
        """An object in this node's store, written in place."""
        with self.client.create(len(data), id) as writable:
            writable.buffer[:] = data
            return writable.seal()

    def serve(self, time: FakeTime | None = None, **settings: Any) -> TransferServer:
        """A server in the test's own process."""
        settings.setdefault("credentials", self.credentials)
        clock: dict[str, Any] = {} if time is None else {"clock": time, "sleep": time.sleep}
        return self._exits.enter_context(
            TransferServer(self.client.table, TransferServerConfig(**settings), **clock)
        )

    def serve_apart(self, data: bytes, id: ObjectID, **settings: Any) -> tuple[Peer, str]:
        """A process of its own that keeps the object and serves it; and its address."""
        peer = self.store.peer()
        peer.do(SERVE, token=self.credentials.token_file, settings=settings)
        peer.do(
            "w = client.create(len(data), ObjectID(id)); w.buffer[:] = data\n"
            "kept = w.seal(); del w",
            data=data,
            id=id.binary(),
        )
        return peer, peer.ask("server.address")

    def fetcher(self, **settings: Any) -> Fetcher:
        """A fetcher into this node's store."""
        settings.setdefault("credentials", self.credentials)
        return self._exits.enter_context(Fetcher(self.client.table, FetchConfig(**settings)))

    def bytes_of(self, handle: ObjectHandle) -> bytes:
        """The value of an object that is here."""
        return bytes(self.client.get(handle, timeout_s=0))


@contextlib.contextmanager
def nodes(folder: Path, nursery: Nursery, count: int, memory_bytes: int) -> Iterator[list[Node]]:
    """So many nodes; when the block is over, nothing may be left in any store."""
    token_file = str(folder / "token")
    write_token(token_file)
    with contextlib.ExitStack() as stores:
        made = []
        exits = contextlib.ExitStack()
        for index in range(count):
            (folder / str(index)).mkdir()
            store = stores.enter_context(running(folder / str(index), nursery, memory_bytes))
            made.append(Node(store, Credentials(token_file=token_file), exits))
        with exits:
            yield made


class Liar(flight.FlightServerBase):  # type: ignore[misc]
    """A server that answers whatever the test lets it answer."""

    def __init__(self, answer: Callable[[bytes], Sequence[Any] | Any]) -> None:
        super().__init__("grpc+tcp://127.0.0.1:0")
        self.asked = 0
        self._answer = answer

    def do_get(self, context: Any, ticket: Any) -> Any:
        """Flight's own name."""
        self.asked += 1
        return self._answer(ticket.ticket)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"


def new_id() -> ObjectID:
    """An id that nobody has."""
    return ObjectID(os.urandom(20))
