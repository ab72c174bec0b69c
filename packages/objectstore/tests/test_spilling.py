"""Short of memory: what does not fit lies on disk, and comes back as it was."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rostral_objectstore import ObjectHandle, StoreClient
from rostral_objectstore._native.table import Handle, ObjectTable
from rostral_objectstore.errors import (
    ObjectCorruptError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
)
from rostral_objectstore.layout import ObjectState
from rostral_objectstore.residents import Residents
from rostral_objectstore.spill import SpillStore

from .store import COMMAND, Nursery, PeerError, Store, running, until

CAPACITY = 64 << 20
MIB = 1 << 20


@pytest.fixture
def spill_directory(folder: Path) -> Path:
    path = folder / "spill"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def spilling(folder: Path, nursery: Nursery, spill_directory: Path) -> Iterator[Store]:
    """A store of 64 MiB that spills, with puts that wait for room up to five seconds."""
    options = ("--spill-dir", str(spill_directory), "--full-timeout", "5")
    with running(folder, nursery, CAPACITY, *options) as store:
        yield store
    assert list(spill_directory.iterdir()) == [], "the daemon leaves nothing on disk"


def array(number: int, size: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 255, size, dtype=np.uint8)


def spilled_files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.spill"))


def is_spilled(client: StoreClient, handle: ObjectHandle) -> bool:
    return client.table.state(handle) == ObjectState.SPILLED


def fill(client: StoreClient, count: int, size: int = MIB, first: int = 0) -> list[ObjectHandle]:
    return [client.put(array(first + number, size)) for number in range(count)]


MAKE = """
def make(number, size_bytes_max):
    "An object of some size and form, and its checksum."
    r = random.Random(number)
    size = int(2 ** r.uniform(5, np.log2(size_bytes_max)))
    data = np.random.default_rng(number).integers(0, 255, size, dtype=np.uint8)
    form = number % 4
    if form == 0:
        value = data.tobytes()
    elif form == 1:
        value = {"data": data, "again": data[: size // 2].copy(), "text": str(number)}
    elif form == 2:
        value = data
    else:
        value = [data[: size // 2].copy(), data[size // 2 :].copy(), number]
    return value, checksum(value)

def checksum(value):
    return hashlib.md5(pickle.dumps(value, protocol=4)).hexdigest()

def work(seed, bytes_max, size_bytes_max):
    "Puts that much, and reads it back in random order, some of it pinned meanwhile."
    r, kept, total, views = random.Random(seed), [], 0, []
    while total < bytes_max:
        value, expected = make(r.randrange(1 << 40), size_bytes_max)
        kept.append((client.put(value), expected))
        total += table.size(kept[-1][0])
        if r.random() < 0.1:
            handle, expected = r.choice(kept)
            views = views[-3:] + [(client.get(handle), expected)]
    for handle, expected in r.sample(kept, len(kept)):
        assert checksum(client.get(handle)) == expected, handle
    for value, expected in views:
        assert checksum(value) == expected
"""


@pytest.mark.slow
def test_three_times_the_memory_is_read_back_by_several_processes_at_once(
    spilling: Store,
) -> None:
    peers = [spilling.peer() for _ in range(3)]
    for number, peer in enumerate(peers):
        peer.do(MAKE)
        peer.begin(f"work({number}, {CAPACITY}, {CAPACITY // 16})")
    for peer in peers:
        peer.end(timeout_s=120)
    stats = spilling.watcher.stats()
    assert stats.spill_writes > 0
    assert stats.restored > 0
    assert stats.lost == 0


def until_written(store: Store, more: int) -> None:
    before = store.watcher.stats().spill_writes
    until(lambda: store.watcher.stats().spill_writes >= before + more, "objects written")


@pytest.mark.slow
def test_the_death_of_a_process_that_puts_and_reads_hurts_no_other(spilling: Store) -> None:
    survivor = spilling.peer()
    survivor.do(MAKE)
    survivor.begin(f"work(0, {2 * CAPACITY}, {CAPACITY // 16})")
    for number in range(4):
        victim = spilling.peer()
        slot = victim.ask("slot")
        victim.do(MAKE)
        victim.begin(f"work({number + 1}, {2 * CAPACITY}, {CAPACITY // 16})")
        until_written(spilling, 5 * number + 1)
        victim.kill()
        spilling.until_gone(slot)
    survivor.end(timeout_s=120)


def test_values_that_refer_to_others_keep_them_while_on_disk(spilling: Store) -> None:
    client = spilling.connect()
    inner = client.put(array(1, 2 * MIB))
    id = inner.id
    block = memoryview(array(2, 4 * MIB).tobytes())
    kept = [client.table.put(ObjectHandle, os.urandom(20), 2, b"x", [block], [inner])]
    del inner
    others = fill(client, 80, first=10)
    until(lambda: is_spilled(client, kept[0]), "spilling of the outer one")
    held = client.table.find(ObjectHandle, id.binary())
    assert held is not None
    np.testing.assert_array_equal(client.get(held), array(1, 2 * MIB))
    read = client.table.read(kept[0])
    assert read is not None
    assert bytes(read[3][0]) == bytes(block)
    del read, held, others
    kept.clear()
    until(lambda: client.table.find(ObjectHandle, id.binary()) is None, "both gone")


def test_what_is_being_read_stays_where_it_is(spilling: Store) -> None:
    client = spilling.connect()
    handle = client.put(array(1, 4 * MIB))
    view = client.get(handle)
    others = fill(client, 100, first=10)
    assert not is_spilled(client, handle)
    np.testing.assert_array_equal(view, array(1, 4 * MIB))
    del view
    others += fill(client, 100, first=200)
    assert is_spilled(client, handle)


def test_least_recently_used_goes_first(spilling: Store) -> None:
    client = spilling.connect()
    handles = fill(client, 40)
    tick = 0.25
    time.sleep(tick)  # the clock of LRU has moved
    for handle in handles[:10]:
        client.get(handle)
    handles += fill(client, 30, first=100)
    assert not any(is_spilled(client, handle) for handle in handles[:10])
    assert any(is_spilled(client, handle) for handle in handles[10:30])


def test_the_oldest_are_copied_before_anybody_asks_for_room(spilling: Store) -> None:
    client = spilling.connect()
    handles = fill(client, 58)
    until(lambda: client.stats().spill_writes >= 4, "copies ahead of need")
    assert client.stats().evicted == 0
    assert not any(is_spilled(client, handle) for handle in handles)


def test_what_has_its_copy_leaves_again_without_a_write(spilling: Store) -> None:
    client = spilling.connect()
    handles = fill(client, 120)
    until(lambda: client.stats().spill_writes >= 60, "spilling")
    for _ in range(3):
        for number, handle in enumerate(handles):
            np.testing.assert_array_equal(client.get(handle), array(number, MIB))
    assert client.stats().spill_writes <= 120
    assert client.stats().evicted > 120


def test_reading_it_all_once_has_hardly_more_written(spilling: Store) -> None:
    client = spilling.connect()
    handles = fill(client, 120)
    until(lambda: client.stats().spill_writes >= 60, "spilling")
    writes = client.stats().spill_writes
    for number, handle in enumerate(handles):
        np.testing.assert_array_equal(client.get(handle), array(number, MIB))
    assert client.stats().restored > 40
    assert client.stats().spill_writes < writes + 24


def test_an_object_that_many_want_is_read_once(spilling: Store) -> None:
    client = spilling.connect()
    wanted = client.put(array(1, 8 * MIB))
    others = fill(client, 80, first=10)
    assert is_spilled(client, wanted)
    del others
    before = client.stats().restored
    peers = [spilling.peer() for _ in range(4)]
    for peer in peers:
        peer.begin(
            "seen = bool((client.get(id) == expected).all())",
            id=wanted.id,
            expected=array(1, 8 * MIB),
        )
    for peer in peers:
        peer.end()
        assert peer.ask("seen")
    assert client.stats().restored == before + 1


def test_deleted_objects_give_their_disk_space_back(spilling: Store, spill_directory: Path) -> None:
    client = spilling.connect()
    handles = fill(client, 150)
    assert spilled_files(spill_directory)
    del handles[10:]
    until(lambda: client.stats().spill_file_bytes < 60 * MIB, "dead files deleted")
    for number, handle in enumerate(handles):
        np.testing.assert_array_equal(client.get(handle), array(number, MIB))
    handles.clear()
    del handle
    until(lambda: spilled_files(spill_directory) == [], "all files deleted")
    assert client.stats().spilled_bytes == 0


# ---- no room


def test_a_store_full_of_what_is_being_read_names_the_holders(spilling: Store) -> None:
    reader = spilling.peer()
    reader.do("handles = [client.put(np.zeros(1 << 20, np.uint8)) for _ in range(60)]")
    reader.do("views = [client.get(handle) for handle in handles]")
    client = spilling.connect()
    began = time.monotonic()
    with pytest.raises(ObjectStoreFullError) as caught:
        client.put(np.zeros(10 * MIB, np.uint8))
    assert 4.5 < time.monotonic() - began < 15
    assert f"client {reader.pid}" in str(caught.value)
    assert "being read" in str(caught.value)
    reader.do("del views")
    client.put(np.zeros(10 * MIB, np.uint8))


def test_a_put_waits_until_somebody_lets_go(spilling: Store) -> None:
    reader, writer = spilling.peer(), spilling.peer()
    reader.do("handles = [client.put(np.zeros(1 << 20, np.uint8)) for _ in range(60)]")
    reader.do("views = [client.get(handle) for handle in handles]")
    writer.begin("kept = client.put(np.ones(10 << 20, np.uint8))")
    assert not writer._connection.poll(0.3)
    reader.do("views.clear()")
    writer.end()


def test_an_object_larger_than_the_store_fails_at_once(spilling: Store) -> None:
    client = spilling.connect()
    began = time.monotonic()
    with pytest.raises(ObjectStoreFullError, match="the whole store has"):
        client.put(np.zeros(CAPACITY + 1, np.uint8))
    assert time.monotonic() - began < 2


def test_ctrl_c_is_heard_while_waiting_for_room(spilling: Store) -> None:
    peer = spilling.peer()
    peer.do("handles = [client.put(np.zeros(1 << 20, np.uint8)) for _ in range(60)]")
    peer.do("views = [client.get(handle) for handle in handles]")
    peer.do("signal.signal(signal.SIGINT, signal.default_int_handler)")
    peer.begin("client.put(np.zeros(10 << 20, np.uint8))")
    assert not peer._connection.poll(0.3)
    os.kill(peer.pid, signal.SIGINT)
    with pytest.raises(PeerError) as caught:
        peer.end()
    assert caught.value.name == "KeyboardInterrupt"
    peer.do("views.clear(); client.put(np.zeros(10 << 20, np.uint8))")


def test_a_disk_over_its_limit_is_an_error_and_no_harm(
    folder: Path, nursery: Nursery, spill_directory: Path
) -> None:
    options = ("--spill-dir", str(spill_directory), "--spill-limit", "16M")
    with running(folder, nursery, CAPACITY, *options) as store:
        client = store.connect()
        handles: list[ObjectHandle] = []
        with pytest.raises(OutOfDiskError) as caught:
            while True:
                handles += fill(client, 1, first=len(handles))
        assert caught.value.path.startswith(str(spill_directory))
        assert caught.value.need_bytes > 0
        assert len(handles) > 70
        for number, handle in enumerate(handles):
            np.testing.assert_array_equal(client.get(handle), array(number, MIB))
        del handles[:30], handle
        until(lambda: client.stats().spilled_objects < 10, "disk space comes back")
        handles += fill(client, 25, first=1000)


# ---- damage


def spill_one(store: Store, client: StoreClient) -> tuple[ObjectHandle, list[ObjectHandle]]:
    wanted = client.put(array(1, 2 * MIB))
    others = fill(client, 100, first=10)
    assert is_spilled(client, wanted)
    return wanted, others


def test_a_corrupt_copy_is_an_error_for_its_object_alone(
    spilling: Store, spill_directory: Path
) -> None:
    spilling.quiet = False
    client = spilling.connect()
    wanted, others = spill_one(spilling, client)
    path = spilled_files(spill_directory)[0]
    with path.open("r+b") as file:
        file.seek(64 + 128 + MIB)
        file.write(b"anything else")
    with pytest.raises(ObjectCorruptError) as caught:
        client.get(wanted)
    assert (caught.value.path, caught.value.offset) == (str(path), 64)
    assert wanted.hex() in str(caught.value)
    with pytest.raises(ObjectLostError):
        client.get(wanted)
    for number, handle in enumerate(others):
        np.testing.assert_array_equal(client.get(handle), array(10 + number, MIB))


def test_whoever_waits_for_a_lost_object_is_told(spilling: Store, spill_directory: Path) -> None:
    spilling.quiet = False
    client = spilling.connect()
    wanted, others = spill_one(spilling, client)
    for path in spilled_files(spill_directory):
        path.unlink()
    peers = [spilling.peer() for _ in range(3)]
    for peer in peers:
        peer.begin("client.get(id)", id=wanted.id)
    for peer in peers:
        with pytest.raises(PeerError) as caught:
            peer.end()
        assert caught.value.name in ("ObjectCorruptError", "ObjectLostError")
    del others
    others = fill(client, 20)
    np.testing.assert_array_equal(client.get(others[3]), array(3, MIB))


# ---- the working thread's part, with no daemon


@pytest.fixture
def residents(table: ObjectTable, spill_directory: Path) -> Iterator[Residents]:
    spill = SpillStore([str(spill_directory)], free_share_min=0.0)
    yield Residents(table, spill)
    spill.close()


def test_cached_copies_are_dropped_before_anything_is_written(
    table: ObjectTable, residents: Residents
) -> None:
    own = [table.put(Handle, os.urandom(20), 2, bytes(MIB), [], []) for _ in range(20)]
    for _ in range(38):
        residents.cached.add(table.put(Handle, os.urandom(20), 2, bytes(MIB), [], []))
    assert residents.free(20 * MIB, 20 * MIB)
    assert residents.fits(20 * MIB, MIB)
    assert residents.counts.dropped >= 15
    assert residents.counts.spilled == 0
    residents.cached.clear()
    del own


def test_without_a_disk_only_what_is_safe_elsewhere_goes(table: ObjectTable) -> None:
    residents = Residents(table, None)
    own = [table.put(Handle, os.urandom(20), 2, bytes(MIB), [], []) for _ in range(58)]
    assert not residents.free(20 * MIB, MIB)
    assert len(own) == len(residents.candidates())


def digest_of(table: ObjectTable, handle: Handle) -> bytes:
    read = table.read(handle)
    assert read is not None
    return hashlib.md5(bytes(read[2])).digest()


def test_scattered_room_is_joined(table: ObjectTable, residents: Residents) -> None:
    rng = random.Random(1)
    handles = [table.put(Handle, os.urandom(20), 2, rng.randbytes(MIB), [], []) for _ in range(58)]
    digests = [digest_of(table, one) for one in handles]
    kept = list(zip(handles, digests, strict=True))[::2]
    del handles
    assert not residents.fits(0, 16 * MIB)
    residents.free(16 * MIB, 16 * MIB)
    assert residents.fits(16 * MIB, 16 * MIB)
    for handle, digest in kept:
        assert residents.restore(handle)
        assert digest_of(table, handle) == digest


# ---- the command line


def serve(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "serve", "--socket", str(folder / "store"), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize("size", ["10 apples", "1e9", "G", ""])
def test_a_size_that_is_none_is_a_usage_error(folder: Path, size: str) -> None:
    refused = serve(folder, "--memory", size)
    assert refused.returncode == 2
    assert f"'--memory': '{size}'" in refused.stderr
    assert "allowed: bytes" in refused.stderr


def test_a_size_that_is_too_small_says_what_the_least_is(folder: Path) -> None:
    refused = serve(folder, "--memory", "-1")
    assert refused.returncode == 78
    assert "--memory: memory_bytes is -1: the least that works is" in refused.stderr


def test_every_spill_directory_that_cannot_be_used_is_named_at_once(folder: Path) -> None:
    (folder / "link").symlink_to(folder)
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    names = ("missing", "link", "open")
    options = [part for name in names for part in ("--spill-dir", str(folder / name))]
    refused = serve(folder, "--memory", "64M", *options)
    assert refused.returncode == 78
    assert all(str(folder / name) in refused.stderr for name in names)
    assert not (folder / "store").exists()
