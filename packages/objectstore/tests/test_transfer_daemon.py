"""The daemon's part: it serves its node's objects, and fetches once for all of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rostral_gcs.auth import write_token
from rostral_gcs.errors import ConfigError
from rostral_objectstore import StoreClient
from rostral_objectstore.errors import (
    ObjectFetchError,
    ObjectFetchTimeoutError,
    ProtocolError,
    StoreUnavailableError,
)
from rostral_objectstore.link import wait_until_served

from .nodes import new_id, noise
from .store import COMMAND, DEADLINE_S, Store, until

MIB = 1 << 20


class Daemon:
    """A daemon that takes part in transfers, and a client of it."""

    def __init__(self, folder: Path, name: str, *more: str) -> None:
        self.socket = str(folder / name)
        self.process = subprocess.Popen(
            [
                *(*COMMAND, "serve", "--socket", self.socket, "--memory", str(64 * MIB)),
                *("--transfer", "127.0.0.1:0", "--token-file", str(folder / "token"), *more),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = next(line for line in self.process.stdout if line.startswith("transfers at "))
        self.address = said.split()[-1]
        wait_until_served(self.socket, DEADLINE_S)
        self.client = StoreClient.connect(self.socket)

    def keep(self, data: bytes) -> object:
        """Seals an object here."""
        with self.client.create(len(data)) as writable:
            writable.buffer[:] = data
            return writable.seal()

    def stats(self) -> dict[str, Any]:
        """What its transfers count."""
        answer: dict[str, Any] = self.client._control.call("transfer_stats", {})
        return answer

    def end(self) -> None:
        """Ends it by SIGTERM, quickly and well."""
        self.client.close()
        self.process.terminate()
        try:
            assert self.process.wait(DEADLINE_S) in (0, -signal.SIGKILL)
        finally:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def pair(folder: Path) -> Iterator[list[Daemon]]:
    write_token(folder / "token")
    made = [Daemon(folder, name) for name in "ab"]
    yield made
    for daemon in made:
        daemon.end()


def test_a_client_gets_an_object_of_another_node(pair: list[Daemon]) -> None:
    here, there = pair
    value = {"x": noise(5 * MIB), "y": list(range(100))}
    kept = there.client.put(value)
    handle = here.client.fetch(kept.id, [there.address])
    assert here.client.get(handle, timeout_s=0) == value
    del handle


def test_many_processes_of_a_node_share_one_transfer(pair: list[Daemon]) -> None:
    here, there = pair
    kept = there.client.put(noise(5 * MIB))
    code = (
        "import sys\n"
        "from rostral_gcs.ids import ObjectID\n"
        "from rostral_objectstore import StoreClient\n"
        "client = StoreClient.connect(sys.argv[1])\n"
        "handle = client.fetch(ObjectID(bytes.fromhex(sys.argv[2])), [sys.argv[3]])\n"
        "assert len(client.get(handle, timeout_s=0)) == int(sys.argv[4])\n"
    )
    arguments = [COMMAND[0], "-c", code, here.socket, kept.id.hex(), there.address, str(5 * MIB)]
    askers = [subprocess.Popen(arguments) for _ in range(6)]
    assert [asker.wait(60) for asker in askers] == [0] * 6
    fetcher = here.stats()["fetcher"]
    assert fetcher["bytes"] < 6 * MIB
    assert fetcher["transfers"] == 1


def test_a_fetched_object_stays_until_its_room_is_wanted(pair: list[Daemon]) -> None:
    here, there = pair
    kept = there.client.put(noise(20 * MIB))
    handle = here.client.fetch(kept.id, [there.address])
    del handle
    assert here.client.contains(kept.id)
    large = here.client.put(noise(50 * MIB))
    assert not here.client.contains(kept.id)
    del large


def test_what_is_cached_here_makes_room_for_what_comes(pair: list[Daemon]) -> None:
    here, there = pair
    for seed in range(4):
        kept = there.client.put(noise(20 * MIB, seed))
        handle = here.client.fetch(kept.id, [there.address])
        assert here.client.get(handle, timeout_s=0) == noise(20 * MIB, seed)
        del handle, kept


def test_a_copy_can_be_fetched_from_in_turn(pair: list[Daemon], folder: Path) -> None:
    here, there = pair
    third = Daemon(folder, "c")
    try:
        kept = there.client.put(noise(2 * MIB))
        first = here.client.fetch(kept.id, [there.address])
        second = third.client.fetch(kept.id, [here.address])
        assert third.client.get(second, timeout_s=0) == noise(2 * MIB)
        del first, second
    finally:
        third.end()


def test_a_failed_fetch_is_the_clients_error_and_leaves_nothing(pair: list[Daemon]) -> None:
    here, there = pair
    id = new_id()
    with pytest.raises(ObjectFetchError, match="NOT_HOLDER"):
        here.client.fetch(id, [there.address, "127.0.0.1:1"])
    with pytest.raises(ConfigError, match="another machine"):
        here.client.fetch(id, ["10.0.0.1:1"])
    with pytest.raises(ConfigError, match="not an address"):
        here.client.fetch(id, ["http://evil.example/"])
    with pytest.raises(ConfigError, match="no holder"):
        here.client.fetch(id, [])
    with pytest.raises(ProtocolError):
        here.client._control.call("fetch", {"id": b"short", "holders": []})
    with pytest.raises(ProtocolError):
        here.client._control.call("fetch", {"id": id.binary(), "holders": [1]})
    assert here.client.list_objects() == []


def test_a_daemon_stops_though_fetches_are_under_way(folder: Path) -> None:
    write_token(folder / "token")
    here = Daemon(folder, "a")
    there = Daemon(folder, "b", "--transfer-bandwidth", str(2 * MIB))
    try:
        kept = there.client.put(noise(20 * MIB))
        code = (
            "import sys\n"
            "from rostral_gcs.ids import ObjectID\n"
            "from rostral_objectstore import StoreClient\n"
            "client = StoreClient.connect(sys.argv[1])\n"
            "try:\n    client.fetch(ObjectID(bytes.fromhex(sys.argv[2])), [sys.argv[3]])\n"
            "except Exception as error: print(type(error).__name__)\n"
        )
        asker = subprocess.Popen(
            [COMMAND[0], "-c", code, here.socket, kept.id.hex(), there.address],
            stdout=subprocess.PIPE,
            text=True,
        )
        until(lambda: there.stats()["server"]["chunks_sent"] > 2, "some chunks")
        here.end()
        out, _ = asker.communicate(timeout=DEADLINE_S)
        assert out.strip() in (StoreUnavailableError.__name__, "StoreClosedError")
    finally:
        there.end()


def test_a_store_without_transfers_says_how_to_have_them(store: Store) -> None:
    client = store.connect()
    with pytest.raises(ConfigError, match="--transfer HOST:PORT"):
        client.fetch(new_id(), ["127.0.0.1:1"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--transfer", "127.0.0.1:0"], "rostral-gcs token FILE"),
        (["--transfer", "0.0.0.0:0", "--token-file", "TOKEN"], "give a TLS certificate"),
        (["--transfer", "127.0.0.1", "--token-file", "TOKEN"], "not an address"),
    ],
)
def test_a_daemon_that_others_could_listen_to_does_not_start(
    folder: Path, arguments: list[str], said: str
) -> None:
    write_token(folder / "token")
    arguments = [str(folder / "token") if item == "TOKEN" else item for item in arguments]
    run = subprocess.run(
        [*COMMAND, "serve", "--socket", str(folder / "s"), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert run.returncode == 78
    assert said in run.stderr
    assert not os.path.exists(folder / "s")


def test_a_fetch_that_takes_too_long_says_so(folder: Path) -> None:
    write_token(folder / "token")
    here = Daemon(folder, "a")
    there = Daemon(folder, "b", "--transfer-bandwidth", str(2 * MIB))
    try:
        kept = there.client.put(noise(20 * MIB))
        with pytest.raises(ObjectFetchTimeoutError):
            here.client.fetch(kept.id, [there.address], timeout_s=0.5)
        assert here.client.list_objects() == []
        del kept
    finally:
        here.end()
        there.end()
