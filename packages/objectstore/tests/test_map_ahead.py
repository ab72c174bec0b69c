"""Large objects of others are mapped beside their first read, by a thread that hurts nobody."""

from __future__ import annotations

import numpy as np
import pytest

from .store import Peer, Store, until

SIZE = 64 << 20
AHEAD = "buffer.mapped_ahead_bytes()"


@pytest.fixture
def reader(store: Store) -> Peer:
    """Another process, whose thread maps however busy the machine is."""
    peer = store.peer()
    peer.do(
        "from rostral_objectstore._native import buffer; buffer.mapped_ahead_bytes(always=True)"
    )
    return peer


def shared_bytes(peer: Peer) -> int:
    """Bytes of shared memory that a process has mapped."""
    (line,) = peer.ask("[l for l in open('/proc/self/status') if l.startswith('RssShmem')]")
    return int(line.split()[1]) * 1024


def test_a_large_object_is_mapped_before_it_is_read(store: Store, reader: Peer) -> None:
    client = store.connect()
    handle = client.put(np.ones(SIZE, np.uint8))
    before = shared_bytes(reader)
    reader.do("array = client.get(ObjectID(id))", id=handle.binary())
    until(lambda: reader.ask(AHEAD) >= SIZE, "all of it is asked for")
    assert shared_bytes(reader) - before >= SIZE
    assert reader.ask("int(array.sum())") == SIZE
    # What was mapped lately is not mapped again.
    reader.do("again = client.get(ObjectID(id)); del again", id=handle.binary())
    assert reader.ask(AHEAD) < 1.1 * SIZE


def test_a_small_object_is_left_to_its_reader(store: Store, reader: Peer) -> None:
    client = store.connect()
    handle = client.put(np.ones(1 << 20, np.uint8))
    reader.do("array = client.get(ObjectID(id))", id=handle.binary())
    assert reader.ask("int(array.sum())") == 1 << 20
    assert reader.ask(AHEAD) == 0


def test_objects_that_go_while_they_are_mapped_hurt_nobody(store: Store, reader: Peer) -> None:
    client = store.connect()
    for turn in range(40):
        handle = client.put(np.full(SIZE, turn, np.uint8))
        reader.do("array = client.get(ObjectID(id))", id=handle.binary())
        if turn % 2:
            assert reader.ask("int(array[-1])") == turn
        reader.do("del array")
        del handle
    assert store.audit()["objects"] == 0
    reader.do("client.close()")
    assert reader.ask("os.getpid()") == reader.pid


def test_a_fork_maps_for_itself(store: Store, reader: Peer) -> None:
    client = store.connect()
    handle = client.put(np.ones(SIZE, np.uint8))
    reader.do("array = client.get(ObjectID(id))", id=handle.binary())
    until(lambda: reader.ask(AHEAD) >= SIZE, "the parent has mapped it")
    reader.do(
        """
read, write = os.pipe()
child = os.fork()
if child == 0:
    forgotten = buffer.mapped_ahead_bytes()
    with StoreClient.connect(path) as mine:
        own = mine.get(ObjectID(id))
        deadline = time.monotonic() + 20
        while buffer.mapped_ahead_bytes() < own.nbytes and time.monotonic() < deadline:
            time.sleep(0.002)
        told = f"{forgotten} {buffer.mapped_ahead_bytes() >= own.nbytes} {int(own.sum())}"
    os.write(write, told.encode())
    os._exit(0)
told = os.read(read, 100).decode()
os.waitpid(child, 0)
""",
        id=handle.binary(),
        path=str(store.socket),
    )
    assert reader.ask("told") == f"0 True {SIZE}"
