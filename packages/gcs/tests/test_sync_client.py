"""The blocking client: the same methods, shared by threads, refused after close and fork."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rostral_gcs import KV, AsyncGcsClient, GcsClient, GcsConfig, GcsServer, WatchKind
from rostral_gcs.errors import ClientClosedError, ForkedClientError


@pytest.fixture
def client(config: GcsConfig) -> Iterator[GcsClient]:
    """A client of a server that runs in another thread's loop."""
    ready: list[GcsServer] = []
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        server = GcsServer(config)
        await server.start()
        ready.append(server)
        started.set()
        await asyncio.to_thread(stop.wait)
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(10)
    try:
        with GcsClient(ready[0].address, config.token) as made:
            yield made
    finally:
        stop.set()
        thread.join()


def _public(cls: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(cls)
        if callable(member) and not name.startswith("_")
    }


def test_both_clients_have_the_same_methods_and_arguments() -> None:
    core, face = _public(AsyncGcsClient), _public(GcsClient)
    core.pop("connect")  # The blocking one connects when it is made.
    assert core.keys() == face.keys()
    for name, signature in core.items():
        assert signature.parameters == face[name].parameters, name


def test_threads_share_one_client(client: GcsClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda at: client.kv_put(b"%d" % at, b"v"), range(100)))
    assert len(set(versions)) == 100
    assert len(client.kv_keys()) == 100


def test_a_blocking_watch_yields_and_closes(client: GcsClient) -> None:
    client.kv_put(b"a", b"1")
    events = client.watch(KV)
    assert [next(events).kind for _ in range(3)] == [
        WatchKind.RESYNC,
        WatchKind.PUT,
        WatchKind.SYNCED,
    ]
    client.kv_put(b"b", b"2")
    event = next(events)
    assert event.row is not None
    assert event.row.key == b"b"
    events.close()


def test_a_closed_client_says_so(client: GcsClient) -> None:
    client.close()
    client.close()
    with pytest.raises(ClientClosedError, match="make a new client"):
        client.kv_keys()


def test_a_forked_child_is_refused_instead_of_hanging(client: GcsClient) -> None:
    client.kv_put(b"a", b"1")

    def refused(call: Callable[[], object]) -> bool:
        try:
            call()
        except ForkedClientError:
            return True
        return False

    pid = os.fork()
    if pid == 0:
        os._exit(0 if refused(client.kv_keys) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert client.kv_keys() == [b"a"]
