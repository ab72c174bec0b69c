"""Objects between nodes: what arrives, once, from whom, and what happens when a holder fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rostral_gcs.ids import ObjectID
from rostral_objectstore import ObjectHandle
from rostral_objectstore.errors import (
    ObjectFetchError,
    ObjectFetchTimeoutError,
    ObjectNotTransferableError,
    ObjectStoreFullError,
)
from rostral_objectstore.layout import ObjectState
from rostral_objectstore.transfer import broadcast, ranges
from rostral_objectstore.transfer.messages import CHUNK_BYTES, digest_of

from .nodes import FakeTime, Node, new_id, nodes, noise
from .store import DEADLINE_S, Nursery, until

LARGE = 12 * CHUNK_BYTES + 12345
# Slow enough that a test can step in between, fast enough that the rest takes no time.
SLOW: dict[str, Any] = {"bandwidth_bytes_s": 8 * CHUNK_BYTES, "burst_bytes": 2 * CHUNK_BYTES}


@pytest.fixture
def pair(folder: Path, nursery: Nursery) -> Iterator[list[Node]]:
    """Two nodes."""
    with nodes(folder, nursery, 2, 64 << 20) as made:
        yield made


@pytest.fixture
def three(folder: Path, nursery: Nursery) -> Iterator[list[Node]]:
    """Three nodes."""
    with nodes(folder, nursery, 3, 64 << 20) as made:
        yield made


# ---- what arrives


@pytest.mark.parametrize(
    "size", [0, 1, 100, 5000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, LARGE]
)
def test_an_object_arrives_as_it_was(pair: list[Node], size: int) -> None:
    here, there = pair
    data = noise(size)
    kept = there.keep(data)
    fetched = here.fetcher().fetch(kept.id, [there.serve().address])
    assert fetched.id == kept.id
    assert here.bytes_of(fetched) == data


def test_values_of_every_kind_arrive(pair: list[Node]) -> None:
    here, there = pair
    fetcher, address = here.fetcher(), there.serve().address
    np = pytest.importorskip("numpy")
    array = np.arange(300_000)
    for value in (b"bytes", {"a": [1, 2]}, noise(5000), array, {"x": array, "y": b"z" * 9000}):
        kept = there.client.put(value)
        arrived = here.client.get(fetcher.fetch(kept.id, [address]), timeout_s=0)
        np.testing.assert_equal(arrived, value)


def test_who_waits_here_is_woken_when_the_object_arrives(pair: list[Node]) -> None:
    here, there = pair
    kept = there.keep(b"x" * 5000)
    waiter = here.store.peer()
    waiter.begin("value = client.get(ObjectID(id), timeout_s=20)", id=kept.id.binary())
    fetched = here.fetcher().fetch(kept.id, [there.serve().address])
    waiter.end()
    assert waiter.ask("bytes(value)") == b"x" * 5000
    assert here.bytes_of(fetched) == b"x" * 5000
    waiter.do("del value")


def test_what_is_here_is_not_fetched(pair: list[Node]) -> None:
    here, there = pair
    id = new_id()
    kept = here.keep(b"mine", id)
    server = there.serve()
    fetched = here.fetcher().fetch(id, [server.address])
    assert here.bytes_of(fetched) == here.bytes_of(kept)
    assert server.stats()["chunks_sent"] == 0


def test_a_source_reads_an_object_for_its_checksums_once(
    pair: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    kept = there.keep(noise(LARGE))
    server = there.serve()
    made: list[int] = []

    def counted(data: Any, offset: int) -> int:
        made.append(offset)
        return digest_of(data, offset)

    monkeypatch.setattr(ranges, "digest_of", counted)
    for _ in range(2):
        fetched = here.fetcher().fetch(kept.id, [server.address])
        assert here.bytes_of(fetched) == noise(LARGE)
        del fetched
        here.client.delete(kept.id)
    offsets = list(range(0, LARGE, CHUNK_BYTES))
    assert server.stats()["chunks_sent"] == 2 * len(offsets)
    assert sorted(made) == offsets


def test_other_bytes_under_the_same_id_have_checksums_of_their_own(pair: list[Node]) -> None:
    here, there = pair
    address, id = there.serve().address, new_id()
    for seed in (1, 2):
        kept = there.keep(noise(LARGE, seed), id)
        fetched = here.fetcher().fetch(id, [address])
        assert here.bytes_of(fetched) == noise(LARGE, seed)
        del fetched, kept
        here.client.delete(id)
        there.client.delete(id)


def test_an_object_that_refers_to_others_stays_on_its_node(pair: list[Node]) -> None:
    here, there = pair
    inner = there.keep(b"inner")
    outer = there.client.table.put(ObjectHandle, os.urandom(20), 1, b"value", [], [inner])
    with pytest.raises(ObjectNotTransferableError, match="refers to other objects"):
        here.fetcher().fetch(outer.id, [there.serve().address])


def test_an_object_too_large_for_this_store_is_an_error_of_this_store(
    folder: Path, nursery: Nursery
) -> None:
    with nodes(folder, nursery, 2, 40 << 20) as (here, there):
        kept = there.keep(bytes(30 << 20))
        mine = here.keep(bytes(20 << 20))
        with pytest.raises(ObjectStoreFullError):
            here.fetcher().fetch(kept.id, [there.serve().address])
        assert here.client.table.is_sealed(mine)


# ---- one transfer, however many ask


def test_twenty_who_ask_at_once_share_one_transfer(pair: list[Node]) -> None:
    here, there = pair
    data = noise(LARGE)
    kept = there.keep(data)
    server, fetcher = there.serve(**SLOW), here.fetcher()
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(fetcher.fetch, kept.id, [server.address]) for _ in range(20)]
        handles = [future.result(DEADLINE_S) for future in asked]
    assert all(here.bytes_of(handle) == data for handle in handles)
    assert fetcher.stats()["transfers"] == 1
    assert server.stats()["bytes_sent"] == len(data)


def test_who_joined_a_transfer_that_failed_gets_its_error(pair: list[Node]) -> None:
    here, there = pair
    server, fetcher = there.serve(), here.fetcher()
    id = new_id()

    def ask() -> str:
        with pytest.raises(ObjectFetchError, match="not sealed here") as caught:
            fetcher.fetch(id, [server.address])
        return str(caught.value)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask) for _ in range(8)]
        assert len({future.result(DEADLINE_S) for future in asked}) == 1


def test_who_joined_tries_its_own_holders_when_the_first_asker_runs_out_of_time(
    pair: list[Node],
) -> None:
    here, there = pair
    data = noise(LARGE)
    kept = there.keep(data)
    slow, fast = there.serve(**SLOW), there.serve()
    fetcher = here.fetcher()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetcher.fetch, kept.id, [slow.address], timeout_s=0.5)
        until(lambda: fetcher.stats()["running"] == 1, "the first one's transfer")
        second = pool.submit(fetcher.fetch, kept.id, [fast.address])
        with pytest.raises(ObjectFetchTimeoutError):
            first.result(DEADLINE_S)
        assert here.bytes_of(second.result(DEADLINE_S)) == data


def test_a_fetch_waits_for_whoever_writes_the_object_here(pair: list[Node]) -> None:
    here, there = pair
    id = new_id()
    kept = there.keep(b"theirs", id)
    writer = here.store.peer()
    writer.do("w = client.create(4, ObjectID(id)); w.buffer[:] = b'ours'", id=id.binary())
    fetcher, address = here.fetcher(), there.serve().address
    with pytest.raises(ObjectFetchTimeoutError):
        fetcher.fetch(kept.id, [address], timeout_s=0.3)
    writer.do("h = w.seal()")
    fetched = fetcher.fetch(kept.id, [address])
    assert here.bytes_of(fetched) == b"ours"
    writer.do("del h, w")


def test_a_fetch_takes_over_when_the_one_who_wrote_the_object_here_dies(
    pair: list[Node],
) -> None:
    here, there = pair
    id = new_id()
    kept = there.keep(b"theirs", id)
    writer = here.store.peer()
    writer.do("w = client.create(4, ObjectID(id))", id=id.binary())
    fetcher, address = here.fetcher(), there.serve().address
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(fetcher.fetch, kept.id, [address])
        until(lambda: fetcher.stats()["transfers"] == 1, "the transfer")
        writer.kill()
        assert here.bytes_of(asked.result(DEADLINE_S)) == b"theirs"


# ---- when a holder fails


def test_a_source_killed_in_the_middle_is_resumed_from_the_second_holder(
    three: list[Node],
) -> None:
    """1. Two hold it; the first sends slowly. 2. It is killed. 3. The second sends the rest."""
    here, first, second = three
    data, id = noise(LARGE), new_id()
    victim, dying = first.serve_apart(data, id, **SLOW)
    other = second.serve()
    kept = second.keep(data, id)
    fetcher = here.fetcher(holders_at_once=1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(fetcher.fetch, id, [dying, other.address])
        until(lambda: victim.ask("server.stats()['chunks_sent']") >= 6, "six chunks")
        victim.kill()
        fetched = asked.result(DEADLINE_S)
    assert here.bytes_of(fetched) == data
    assert fetcher.stats()["transfers"] == 1
    assert 0 < other.stats()["bytes_sent"] < len(data) - 2 * CHUNK_BYTES
    del kept


def test_a_source_that_is_stopped_is_left_for_the_second_holder(three: list[Node]) -> None:
    here, first, second = three
    data, id = noise(LARGE), new_id()
    victim, stopped = first.serve_apart(data, id, **SLOW)
    other = second.serve()
    kept = second.keep(data, id)
    fetcher = here.fetcher(stall_timeout_s=0.5, holders_at_once=1, call_timeout_s=5.0)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(fetcher.fetch, id, [stopped, other.address])
        until(lambda: victim.ask("server.stats()['chunks_sent']") >= 6, "six chunks")
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            assert here.bytes_of(asked.result(DEADLINE_S)) == data
        finally:
            os.kill(victim.pid, signal.SIGCONT)
    assert other.stats()["bytes_sent"] < len(data)
    victim.do("server.close(); del kept")
    del kept


def test_a_large_object_comes_from_several_holders_at_once(three: list[Node]) -> None:
    here, first, second = three
    data, id = noise(LARGE), new_id()
    kept = [first.keep(data, id), second.keep(data, id)]
    servers = [first.serve(**SLOW), second.serve(**SLOW)]
    fetched = here.fetcher().fetch(id, [server.address for server in servers])
    assert here.bytes_of(fetched) == data
    sent = [server.stats()["bytes_sent"] for server in servers]
    assert min(sent) >= CHUNK_BYTES
    assert sum(sent) == len(data)
    del kept


def test_a_fetch_that_fails_names_every_holder_and_why_and_leaves_nothing(
    three: list[Node],
) -> None:
    here, first, second = three
    data, id = noise(LARGE), new_id()
    victim, dying = first.serve_apart(data, id, **SLOW)
    empty = second.serve()
    fetcher = here.fetcher()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(fetcher.fetch, id, [dying, empty.address, "127.0.0.1:1"])
        until(lambda: victim.ask("server.stats()['chunks_sent']") >= 4, "four chunks")
        victim.kill()
        with pytest.raises(ObjectFetchError) as caught:
            asked.result(DEADLINE_S)
    for part in (dying, f"{empty.address}: NOT_HOLDER", "127.0.0.1:1: ", id.hex()):
        assert part in str(caught.value)
    assert not here.client.contains(id)
    assert here.client.table.find(ObjectHandle, id.binary()) is None


def test_a_fetch_that_takes_too_long_leaves_nothing_and_can_be_tried_again(
    pair: list[Node],
) -> None:
    here, there = pair
    data = noise(LARGE)
    kept = there.keep(data)
    slow, fetcher = there.serve(**SLOW), here.fetcher()
    with pytest.raises(ObjectFetchTimeoutError):
        fetcher.fetch(kept.id, [slow.address], timeout_s=0.3)
    assert here.client.table.find(ObjectHandle, kept.id.binary()) is None
    fetched = fetcher.fetch(kept.id, [there.serve().address])
    assert here.bytes_of(fetched) == data


def test_a_receiver_killed_in_the_middle_leaves_nothing(pair: list[Node]) -> None:
    here, there = pair
    kept = there.keep(noise(LARGE))
    server = there.serve(**SLOW)
    receiver = here.store.peer()
    receiver.do(
        "from rostral_objectstore.transfer import Credentials, FetchConfig, Fetcher\n"
        "fetcher = Fetcher(client.table, FetchConfig(credentials=Credentials(token_file=token)))",
        token=here.credentials.token_file,
    )
    slot = receiver.ask("slot")
    receiver.begin(
        "fetcher.fetch(ObjectID(id), holders)", id=kept.id.binary(), holders=[server.address]
    )
    until(lambda: server.stats()["chunks_sent"] >= 4, "four chunks")
    receiver.kill()
    here.store.until_gone(slot)
    until(lambda: server.stats()["streams"] == 0, "the server's streams ended")
    assert here.client.table.find(ObjectHandle, kept.id.binary()) is None


# ---- limits


def test_a_busy_server_is_asked_again(pair: list[Node]) -> None:
    here, there = pair
    kept = [there.keep(noise(LARGE, seed)) for seed in range(3)]
    server = there.serve(streams_max=1)
    fetcher = here.fetcher()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(fetcher.fetch, handle.id, [server.address]) for handle in kept]
        for seed, future in enumerate(asked):
            assert here.bytes_of(future.result(DEADLINE_S)) == noise(LARGE, seed)


def test_a_server_keeps_to_its_bandwidth(pair: list[Node]) -> None:
    here, there = pair
    data = noise(LARGE)
    kept = there.keep(data)
    time = FakeTime()
    server = there.serve(
        time,
        bandwidth_bytes_s=2 * CHUNK_BYTES,
        burst_bytes=CHUNK_BYTES,
        stall_timeout_s=1e9,
    )
    fetched = here.fetcher(streams_per_holder=1).fetch(kept.id, [server.address])
    assert here.bytes_of(fetched) == data
    # The burst is free, and so is the way of the last chunk.
    assert time.now_s == pytest.approx((len(data) - CHUNK_BYTES) / (2 * CHUNK_BYTES), rel=0.01)


def test_a_receiver_that_takes_nothing_is_cut_off(pair: list[Node]) -> None:
    here, there = pair
    kept = there.keep(noise(40 << 20))
    server = there.serve(stall_timeout_s=0.5)
    receiver = here.store.peer(attached=False)
    receiver.do(
        "from pyarrow import flight\n"
        "from rostral_objectstore.transfer.messages import Ticket\n"
        "shown = b'Bearer ' + open(path, 'rb').read().strip()\n"
        "options = flight.FlightCallOptions(headers=[(b'authorization', shown)])\n"
        "reader = flight.FlightClient('grpc+tcp://' + address).do_get(\n"
        "    flight.Ticket(Ticket(id, 0, 40 << 20).encode()), options)\n"
        "reader.read_chunk()",
        path=here.credentials.token_file,
        address=server.address,
        id=kept.id.binary(),
    )
    assert server.stats()["streams"] == 1
    os.kill(receiver.pid, signal.SIGSTOP)
    until(lambda: server.stats()["cut_off"] == 1, "the receiver is cut off")
    until(lambda: len(there.client.table.holder_slots(kept)) == 1, "one holder")
    os.kill(receiver.pid, signal.SIGKILL)


def test_a_server_closes_though_a_receiver_takes_nothing(pair: list[Node]) -> None:
    here, there = pair
    id = new_id()
    holder, address = there.serve_apart(noise(40 << 20), id)
    receiver = here.store.peer()
    receiver.do(
        "from rostral_objectstore.transfer import Credentials, FetchConfig, Fetcher\n"
        "fetcher = Fetcher(client.table, FetchConfig(credentials=Credentials(token_file=token)))",
        token=here.credentials.token_file,
    )
    receiver.begin("kept = fetcher.fetch(ObjectID(id), holders)", id=id.binary(), holders=[address])
    until(lambda: holder.ask("server.stats()['chunks_sent']") >= 2, "two chunks")
    os.kill(receiver.pid, signal.SIGSTOP)
    holder.do("server.close(timeout_s=0.2); del kept")
    os.kill(receiver.pid, signal.SIGKILL)


# ---- to many


@pytest.mark.parametrize("fan_out", [1, 2])
def test_a_broadcast_reaches_eight_stores_as_a_tree(
    folder: Path, nursery: Nursery, fan_out: int
) -> None:
    with nodes(folder, nursery, 9, 16 << 20) as cluster:
        data, id = noise(2 * CHUNK_BYTES + 5), new_id()
        kept: dict[str, ObjectHandle] = {}
        servers = [node.serve() for node in cluster]
        by_address = {
            server.address: (node, node.fetcher())
            for server, node in zip(servers, cluster, strict=True)
        }
        root, *others = by_address

        def fetch_at(address: str, holders: object) -> None:
            assert isinstance(holders, tuple)
            kept[address] = by_address[address][1].fetch(id, holders, holders_at_once=1)

        kept[root] = cluster[0].keep(data, id)
        assert broadcast(root, others, fetch_at, fan_out=fan_out) == dict.fromkeys(others)
        for address, (node, _) in by_address.items():
            assert node.bytes_of(kept[address]) == data
        # Everybody got it once, and the root sent it to its own children alone.
        assert sum(server.stats()["bytes_sent"] for server in servers) == 8 * len(data)
        assert servers[0].stats()["bytes_sent"] == 4 * len(data)
        kept.clear()


def test_below_a_node_that_fails_a_broadcast_goes_on() -> None:
    seen: dict[int, tuple[int, ...]] = {}

    def fetch_at(node: int, holders: object) -> None:
        assert isinstance(holders, tuple)
        seen[node] = holders
        if node == 1:
            raise ObjectFetchError("node 1 is dead")

    results = broadcast(0, list(range(1, 8)), fetch_at)
    assert isinstance(results.pop(1), ObjectFetchError)
    assert results == dict.fromkeys(range(2, 8))
    assert any(1 in holders and holders[-1] == 0 for holders in seen.values())


# ---- without the extra


def test_without_the_extra_an_error_says_which_to_install() -> None:
    code = (
        "import sys; sys.modules['pyarrow.flight'] = None\n"
        "import rostral_objectstore\n"
        "from rostral_objectstore.errors import MissingExtraError\n"
        "try:\n    import rostral_objectstore.transfer\n"
        "except MissingExtraError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'rostral-objectstore[transfer]'" in run.stdout


def test_a_pending_object_is_not_given_away(pair: list[Node]) -> None:
    here, there = pair
    expected = there.client.handle(ObjectID(os.urandom(20)))
    assert there.client.table.state(expected) == ObjectState.PENDING
    with pytest.raises(ObjectFetchError, match="not sealed here"):
        here.fetcher().fetch(expected.id, [there.serve().address])
