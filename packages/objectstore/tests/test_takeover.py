"""The daemon dies and comes back: with the segment handed back to it, and without.

The service manager's part, keeping a descriptor and giving it to the next daemon, is played by the
test, over the very protocol that systemd speaks.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rostral_gcs.auth import write_token
from rostral_gcs.ids import ObjectID
from rostral_objectstore import StoreClient
from rostral_objectstore._native import repair
from rostral_objectstore.errors import StoreClosedError, StoreRestartedError
from rostral_objectstore.layout import SlotState

from .manager import Manager
from .store import until


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    manager.start()
    yield manager
    manager.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_sealed_object_is_lost_with_the_daemon(manager: Manager, number: int) -> None:
    """1. Objects held, pinned and viewed. 2. The daemon dies. 3. The next has all of them."""
    with StoreClient.connect(manager.socket) as client, StoreClient.connect(manager.socket) as gone:
        held = client.put(np.arange(50_000))
        pinned = client.put("kept by the store")
        client.pin(pinned)
        pinned_id = pinned.id
        del pinned
        left_behind = gone.put(np.ones(100_000)).id
        manager.kill(number)
        view = client.get(held)
        between = client.put("put while nobody served")
        gone.close()

        manager.start()
        assert client.stats().clients >= 1
        np.testing.assert_array_equal(view, np.arange(50_000))
        assert client.get(between) == "put while nobody served"
        with StoreClient.connect(manager.socket) as newcomer:
            assert newcomer.get(pinned_id) == "kept by the store"
            np.testing.assert_array_equal(newcomer.get(held.id), np.arange(50_000))
            until(lambda: not newcomer.contains(left_behind), "burial of who left meanwhile")
            newcomer.unpin(pinned_id)
            assert not newcomer.contains(pinned_id)
        del view


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_on_disk_is_found_by_the_next_daemon(manager: Manager, number: int) -> None:
    with StoreClient.connect(manager.socket) as client:
        handles = [client.put(np.full(500_000, i)) for i in range(40)]  # 160 MB in 64 MB
        manager.kill(number)
        manager.start()
        for i in random.Random(1).sample(range(40), 40):
            array = client.get(handles[i])
            assert array.shape == (500_000,)
            assert (array == i).all()
        del array
        more = [client.put(np.full(500_000, -i)) for i in range(20)]
        assert all((client.get(handle) == -i).all() for i, handle in enumerate(more))
        handles.clear()
        more.clear()
        until(lambda: client.stats().spilled_objects == 0, "the disk is free again")
    assert manager.kill(signal.SIGTERM) == 0


@pytest.mark.slow
def test_what_a_store_left_on_disk_goes_with_the_next_one(manager: Manager) -> None:
    with StoreClient.connect(manager.socket) as client:
        handles = [client.put(np.full(500_000, i)) for i in range(40)]
        manager.kill()
        manager.start(hand_back=False)
        (folder,) = manager.spill.iterdir()
        assert [path.name for path in folder.iterdir()] == ["lock"]
        del handles


@pytest.mark.slow
def test_who_dies_while_nobody_serves_is_buried_by_the_next_daemon(manager: Manager) -> None:
    code = (
        "import sys; from rostral_objectstore import StoreClient; "
        "from rostral_gcs.ids import ObjectID; c = StoreClient.connect(sys.argv[1]); "
        "h = c.put(b'x' * 100000, ObjectID(b'i' * 20)); w = c.create(1 << 20); "
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, manager.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with StoreClient.connect(manager.socket) as client:
            before = repair.audit(client.table)
            manager.kill()
            other.kill()
            other.wait()
            assert client.contains(ObjectID(b"i" * 20))
            manager.start()
            until(lambda: not client.contains(ObjectID(b"i" * 20)), "burial")
            until(lambda: repair.audit(client.table)["blocks"] == 0, "the memory is free again")
            assert before["blocks"] > 0
            until(lambda: len(client.segment.slots_in_state(SlotState.LIVE)) == 2, "slots")


@pytest.mark.slow
def test_a_client_learns_that_the_store_was_started_anew(manager: Manager) -> None:
    client = StoreClient.connect(manager.socket)
    view = client.get(client.put(np.arange(10_000)))
    manager.kill()
    manager.start(hand_back=False)
    with pytest.raises(StoreRestartedError, match="started anew"):
        client.stats()
    with pytest.raises(StoreClosedError, match="attach again"):
        client.put(1)
    np.testing.assert_array_equal(view, np.arange(10_000))
    client.close()
    with StoreClient.connect(manager.socket) as again:
        assert again.get(again.put(1)) == 1


@pytest.mark.slow
def test_a_segment_that_cannot_be_used_is_dropped(manager: Manager) -> None:
    manager.kill()
    os.close(manager.parked)
    manager.parked = os.memfd_create("rostral-segment")
    os.write(manager.parked, bytes(100))
    manager.start()
    assert "FDSTOREREMOVE=1" in manager.said
    with StoreClient.connect(manager.socket) as client:
        assert client.get(client.put(1)) == 1


@pytest.mark.slow
def test_a_daemon_that_stops_and_continues_loses_nothing(manager: Manager) -> None:
    """Slow is not dead: nobody else may take the segment over while it is only stopped."""
    with StoreClient.connect(manager.socket) as client:
        assert manager._daemon is not None
        manager._daemon.send_signal(signal.SIGSTOP)
        handle = client.put(np.ones(1000))
        manager._daemon.send_signal(signal.SIGCONT)
        assert client.stats().clients == 1
        assert client.get(handle).sum() == 1000


@pytest.mark.slow
def test_the_next_daemon_serves_transfers_where_the_dead_one_did(
    manager: Manager, tmp_path: Path
) -> None:
    """1. Others were told where to fetch. 2. The daemon dies. 3. The next answers there, unasked.

    4. A store that begins anew has other objects: it does not.
    """
    pytest.importorskip("pyarrow")
    token_file = tmp_path / "token"
    write_token(token_file)
    manager.kill()
    manager.start(hand_back=False, more=["--token-file", str(token_file)])
    note = Path(f"{manager.socket}.transfers")
    with StoreClient.connect(manager.socket) as client:
        address = client.transfer_address()
        host, _, port = address.rpartition(":")
        assert note.read_text() == f"{port}\n"
        manager.kill()
        manager.start(more=["--token-file", str(token_file)])
        until(lambda: is_answered(host, int(port)), "somebody listens there")
        assert client.transfer_address() == address
    manager.kill()
    manager.start(hand_back=False)
    assert not note.exists()


def is_answered(host: str, port: int) -> bool:
    """Whether anybody listens there."""
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True
