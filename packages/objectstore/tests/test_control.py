"""The control socket: who may talk, what is refused, and that the daemon lives on."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from rostral_gcs.errors import ConfigError
from rostral_objectstore import ObjectHandle, StoreClient, StoreConfig
from rostral_objectstore.control import FRAME_BYTES_MAX, MAGIC, ControlClient
from rostral_objectstore.errors import (
    ObjectNotFoundError,
    ProtocolError,
    StoreUnavailableError,
    TooManyClientsError,
)

from .store import COMMAND, DEADLINE_S, Nursery, Store, running

GREETING = struct.pack("<8sII", MAGIC, 1, 0)


@pytest.fixture(scope="module")
def noisy_store(nursery: Nursery) -> Iterator[Store]:
    """A store whose daemon may log warnings, for all that is refused here."""
    with (
        tempfile.TemporaryDirectory(prefix="rostral-") as folder,
        running(Path(folder), nursery, 16 << 20) as store,
    ):
        store.quiet = False
        yield store


@pytest.fixture
def raw(noisy_store: Store) -> Iterator[socket.socket]:
    """A connection that has said nothing yet."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(noisy_store.socket)
        yield connection


def frame(payload: bytes) -> bytes:
    return struct.pack("<I", len(payload)) + payload


def refused(connection: socket.socket, sent: bytes) -> None:
    """The daemon closes the connection without an answer."""
    connection.sendall(sent)
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(100) == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<8sII", b"ROSTRAL!", 1, 0),
        struct.pack("<8sII", MAGIC, 99, 0),
        GREETING + struct.pack("<I", FRAME_BYTES_MAX + 1),
        GREETING + struct.pack("<I", 0xFFFFFFFF),
        GREETING + frame(b"\xc1\xc1\xc1"),
        GREETING + frame(msgspec.msgpack.encode({"not": "a list"})),
        GREETING + frame(msgspec.msgpack.encode([1, "stats"])),
        GREETING + frame(msgspec.msgpack.encode(7)),
        GREETING + frame(b""),
        GREETING + frame(b"\x91" * 100_000),
        GREETING + frame(msgspec.msgpack.encode([1, "stats", {}]) + b"trailing"),
    ],
)
def test_what_is_no_message_is_refused_and_the_daemon_lives(
    noisy_store: Store, raw: socket.socket, sent: bytes
) -> None:
    refused(raw, sent)
    with StoreClient.connect(noisy_store.socket) as client:
        assert client.get(client.put(1)) == 1


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("no such method", {}),
        ("attach", {}),
        ("attach", {"kind": "king", "worker_id": bytes(16), "job_id": bytes(16)}),
        ("attach", {"kind": "client", "worker_id": b"short", "job_id": bytes(16)}),
        ("attach", {"kind": "client", "worker_id": 5, "job_id": None}),
        ("pin", {}),
        ("pin", {"loc": -1, "version": 0, "id": bytes(20)}),
        ("pin", {"loc": 1 << 40, "version": 0, "id": bytes(20)}),
        ("pin", {"loc": "text", "version": 0, "id": bytes(20)}),
        ("pin", {"loc": 4, "version": 0, "id": None}),
        ("unpin", {"id": [1]}),
        ("list_objects", {"limit": "all"}),
        ("list_objects", {"limit": -1}),
    ],
)
def test_a_wrong_request_is_a_typed_error_and_the_connection_goes_on(
    noisy_store: Store, method: str, body: dict[str, object]
) -> None:
    client = ControlClient(noisy_store.socket)
    with pytest.raises((ProtocolError, ObjectNotFoundError)):
        client.call(method, body)
    assert client.call("stats", {})["capacity_bytes"] == 16 << 20
    client.close()


def test_a_wrong_body_is_refused(noisy_store: Store, raw: socket.socket) -> None:
    raw.sendall(GREETING + frame(msgspec.msgpack.encode([1, "attach", 7])))
    (length,) = struct.unpack("<I", raw.recv(4))
    request, ok, body = msgspec.msgpack.decode(raw.recv(length))
    assert (request, ok, body["name"]) == (1, False, "ProtocolError")


def test_one_connection_attaches_once(store: Store) -> None:
    client = ControlClient(store.socket)
    body = {"kind": "client", "worker_id": bytes(16), "job_id": bytes(16)}
    _, fds = client.call_with_fds("attach", body)
    os.close(fds[0])
    with pytest.raises(ProtocolError, match="attached already"):
        client.call("attach", body)
    client.close()


def test_errors_arrive_as_they_were_raised(store: Store) -> None:
    client = ControlClient(store.socket)
    with pytest.raises(ObjectNotFoundError) as caught:
        client.call("pin", {"loc": 0, "version": 0, "id": b"x" * 20})
    assert caught.value.hint == "keep a reference to what you pass on"
    assert b"x".hex() * 20 in str(caught.value)
    assert not isinstance(caught.value, TooManyClientsError)
    client.close()


def test_the_socket_is_its_users_alone(store: Store) -> None:
    assert Path(store.socket).stat().st_mode & 0o777 == 0o600


def serve(path: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "serve", "--socket", path, "--memory", str(16 << 20)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def test_a_second_daemon_on_the_socket_is_refused(store: Store) -> None:
    second = serve(store.socket)
    assert second.returncode == 1
    assert "another daemon listens at" in second.stderr
    assert store.watcher.stats().clients == 1


def test_a_stale_socket_is_replaced(folder: Path, store: Store) -> None:
    store.process.kill()
    store.process.wait()
    assert Path(store.socket).is_socket()
    with pytest.raises(StoreUnavailableError, match="nothing answers"):
        StoreClient.connect(store.socket)
    command = [*COMMAND, "serve", "--socket", store.socket, "--memory", str(16 << 20)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second:
        assert second.stdout is not None
        assert second.stdout.readline() == f"serving at {store.socket}\n"
        with StoreClient.connect(store.socket) as client:
            assert client.get(client.put("again")) == "again"
        second.terminate()
    assert second.returncode == 0
    assert not Path(store.socket).exists()


def test_a_path_that_cannot_be_a_socket_is_refused(folder: Path) -> None:
    (folder / "file").write_text("mine")
    refused = serve(str(folder / "file"))
    assert refused.returncode == 1
    assert "cannot listen at" in refused.stderr
    assert (folder / "file").read_text() == "mine"
    deep = folder / ("d" * 100)
    deep.mkdir()
    assert "longer than the 107 bytes" in serve(str(deep / "socket")).stderr


def test_a_daemon_that_does_not_answer_is_given_up_on(folder: Path) -> None:
    path = str(folder / "mute")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        client = ControlClient(path, timeout_s=0.05)
        with pytest.raises(StoreUnavailableError, match="did not answer stats in time"):
            client.call("stats", {})
        client.close()
        with pytest.raises(StoreUnavailableError, match="is closed"):
            client.call("stats", {})


def test_pinned_objects_stay_when_every_client_has_left(store: Store) -> None:
    client = store.connect()
    handle = client.put("kept")
    id = handle.id
    client.pin(handle)
    client.close()
    store.until_gone(client.slot)
    other = store.connect()
    assert other.get(id, timeout_s=0) == "kept"
    assert [o.id for o in other.list_objects()] == [id]
    other.unpin(id)
    with pytest.raises(ObjectNotFoundError, match="not pinned"):
        other.unpin(id)
    assert not other.contains(id)


def test_stats_say_how_full_and_how_many(store: Store) -> None:
    client = store.connect()
    before = client.stats()
    handle = client.put(bytes(10 << 20))
    after = client.stats()
    assert after.capacity_bytes == 512 << 20
    assert after.used_bytes - before.used_bytes >= 10 << 20
    assert after.clients == 2
    assert isinstance(handle, ObjectHandle)


def test_a_wrong_configuration_names_every_fault_at_once(folder: Path) -> None:
    config = StoreConfig(
        socket_path=str(folder / "missing" / "socket"), memory_bytes=1, node_id=b"", cpu_count=0
    )
    with pytest.raises(ConfigError) as caught:
        config.validate()
    assert len(caught.value.problems) == 4
