"""What one Redis server can do to its backend: refuse, forget, be slow, be full, die, come back."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from rostral_gcs import errors
from rostral_gcs.backends.base import Answer, Change
from rostral_gcs.backends.redis import RedisBackend
from rostral_gcs.backends.redis_layout import Keys
from rostral_gcs.backends.redis_storage import RedisStorage
from rostral_gcs.redis_options import RedisOptions

from .redis_servers import (
    RedisFarm,
    RedisProcess,
    free_port,
    server_has_tls,
)

pytestmark = pytest.mark.slow

Open = Callable[..., RedisBackend]
META = Keys("rostral", 0).meta


@pytest.fixture
def backend_of(tmp_path: Path) -> Iterator[Open]:
    """Opens backends, and closes them at the end."""
    made: list[RedisBackend] = []

    def make(url: str, **changes: object) -> RedisBackend:
        options = RedisOptions(urls=(url,), deadline_s=0.5, command_timeout_s=0.5, poll_s=0.05)
        options = replace(options, **changes)  # type: ignore[arg-type]
        assert options.problems(1) == []
        made.append(RedisStorage(options, shard_count=1, archive_dir=tmp_path).backend(0))
        made[-1].open()
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def _put(sequence: int, key: bytes, value: bytes = b"v") -> Change:
    return Change(sequence, 1, key, value, True)


def _write(backend: RedisBackend, *keys: bytes, value: bytes = b"v") -> int:
    """One commit, planned on what there is, as a shard does it; returns its last sequence."""
    while True:
        last = backend.refresh().last_sequence
        changes = [_put(last + at, key, value) for at, key in enumerate(keys, 1)]
        try:
            backend.commit(changes, [], durable=True)
        except errors.StateMovedError:
            continue
        return changes[-1].sequence


def _present(backend: RedisBackend, keys: Sequence[bytes]) -> set[bytes]:
    return set(backend.read(1, keys))


# --- Not let in ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://{}", "NOAUTH"),
        ("redis://:wrong@{}", "WRONGPASS"),
        ("redis://nobody:secret@{}", "WRONGPASS"),
        ("redis://reader:secret@{}", "NOPERM"),
        ("redis://elsewhere:secret@{}", "NOPERM"),
    ],
)
def test_who_is_not_let_in_is_told_at_once(
    redis_farm: RedisFarm, backend_of: Open, url: str, says: str
) -> None:
    server = redis_farm.server("--requirepass", "secret", password="secret")
    server.ask("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+@connection", "+info")
    server.ask("ACL", "SETUSER", "elsewhere", "on", ">secret", "~other:*", "+@all")
    started_s = time.monotonic()
    with pytest.raises(errors.StorageDeniedError, match=says) as caught:
        backend_of(url.format(server.address), deadline_s=60.0)
    # Without another try, that is: those would go on until the deadline.
    assert time.monotonic() - started_s < 30.0
    assert "check user, password and rights" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_acl_user_limited_to_the_prefix_is_enough(
    redis_farm: RedisFarm, backend_of: Open
) -> None:
    server = redis_farm.server("--requirepass", "secret", password="secret")
    rights = (
        "+@hash",
        "+@sortedset",
        "+@scripting",
        "+@pubsub",
        "+wait",
        "+ping",
        "+info",
        "+time",
    )
    prefix = ("~{rostral:*", "&{rostral:*")
    server.ask("ACL", "SETUSER", "gcs", "on", ">word", *prefix, "-@all", *rights)
    backend = backend_of(f"redis://gcs:word@{server.address}")
    _write(backend, b"a")
    assert _present(backend, [b"a"]) == {b"a"}
    assert backend.trim(1) == 1
    backend.share_leases({b"node": 60.0})
    assert 59 < backend.remaining_leases([b"node", b"none"])[b"node"] <= 60


# --- Put off -------------------------------------------------------------------------------------


def test_a_full_server_refuses_writes_typed_and_serves_reads(
    redis_farm: RedisFarm, backend_of: Open
) -> None:
    server = redis_farm.server("--maxmemory-policy", "noeviction")
    backend = backend_of(server.url)
    _write(backend, b"a")
    server.ask("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(errors.StorageFullError, match="OOM") as caught:
        _write(backend, b"b")
    assert "nothing was written" in str(caught.value)
    assert _present(backend, [b"a", b"b"]) == {b"a"}
    server.ask("CONFIG", "SET", "maxmemory", "0")
    _write(backend, b"b")
    assert _present(backend, [b"a", b"b"]) == {b"a", b"b"}


def test_a_server_whose_disk_fails_refuses_writes_typed(
    redis_farm: RedisFarm, backend_of: Open, tmp_path: Path
) -> None:
    server = redis_farm.server()
    backend = backend_of(server.url)
    gone = tmp_path / "gone"
    gone.mkdir()
    server.ask("CONFIG", "SET", "dir", str(gone))
    server.ask("CONFIG", "SET", "save", "3600 1")
    gone.rmdir()
    server.ask("BGSAVE")
    server.wait(lambda: server.info("rdb_last_bgsave_status") == "err")
    with pytest.raises(errors.StorageFullError, match="MISCONF"):
        _write(backend, b"a")
    server.ask("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
    _write(backend, b"a")


def _load_slowly(server: RedisProcess) -> None:
    """Kills it and starts it again, so that it loads for more than a second."""
    server.ask("DEBUG", "POPULATE", "300", "other", "1024")
    server.ask("SAVE")
    server.kill()
    # It answers in between after so many bytes.
    steps = ("--loading-process-events-interval-bytes", "1024", "--key-load-delay", "4000")
    server.start(*steps, wait_ready=False)


def test_a_loading_server_is_waited_for(redis_server: RedisProcess, backend_of: Open) -> None:
    backend = backend_of(redis_server.url, deadline_s=8.0)
    _write(backend, b"a")
    _load_slowly(redis_server)
    started_s = time.monotonic()
    assert _present(backend, [b"a"]) == {b"a"}
    assert time.monotonic() - started_s > 0.5


def test_a_loading_server_is_named_when_patience_ends(
    redis_server: RedisProcess, backend_of: Open
) -> None:
    backend = backend_of(redis_server.url)
    _write(backend, b"a")
    _load_slowly(redis_server)
    redis_server.wait(lambda: b"loading:1" in (redis_server.ask("INFO", "persistence") or b""))
    with pytest.raises(errors.StorageUnavailableError, match="LOADING"):
        backend.refresh()


def test_a_busy_server_is_waited_for(redis_server: RedisProcess, backend_of: Open) -> None:
    backend = backend_of(redis_server.url, deadline_s=5.0)
    redis_server.ask("CONFIG", "SET", "busy-reply-threshold", "10")
    link = redis_server.link()
    turning = threading.Thread(
        target=lambda: link.ask([("EVAL", "while true do end", 0)]), daemon=True
    )
    turning.start()
    killer = threading.Timer(0.3, lambda: redis_server.ask("SCRIPT", "KILL"))
    killer.start()
    time.sleep(0.05)  # The script must run by then; that it does is seen below.
    started_s = time.monotonic()
    _write(backend, b"a")
    assert time.monotonic() - started_s > 0.1
    killer.join()
    turning.join()
    link.close()


def test_a_slow_server_only_delays(redis_server: RedisProcess, backend_of: Open) -> None:
    backend = backend_of(redis_server.url)
    link = redis_server.link()
    sleeping = threading.Thread(target=lambda: link.ask_one("DEBUG", "SLEEP", "0.3"))
    sleeping.start()
    _write(backend, b"a")
    sleeping.join()
    link.close()
    assert _present(backend, [b"a"]) == {b"a"}


def test_scripts_that_were_flushed_are_sent_again(
    redis_server: RedisProcess, backend_of: Open
) -> None:
    backend = backend_of(redis_server.url)
    for key in (b"a", b"b"):
        redis_server.ask("SCRIPT", "FLUSH", "SYNC")
        _write(backend, key)
        redis_server.ask("SCRIPT", "FLUSH", "SYNC")
        assert [row.key for row in backend.scan(1, b"", b"", 10, 1000)[0]][-1] == key


def test_a_server_made_a_replica_is_not_written_and_taken_back_later(
    redis_server: RedisProcess, backend_of: Open
) -> None:
    backend = backend_of(redis_server.url, wait_replicas=0)
    _write(backend, b"a")
    redis_server.ask("REPLICAOF", "127.0.0.1", free_port())
    with pytest.raises(errors.StorageUnavailableError, match=r"is a replica|READONLY"):
        _write(backend, b"b")
    redis_server.ask("REPLICAOF", "NO", "ONE")
    _write(backend, b"c")
    assert _present(backend, [b"a", b"b", b"c"]) == {b"a", b"c"}


# --- Dying ---------------------------------------------------------------------------------------


def test_kill_9_and_a_restart_lose_nothing_and_begin_an_epoch(
    redis_farm: RedisFarm, backend_of: Open
) -> None:
    # With everysec a server puts writes to the file off while the disk is busy.
    server = redis_farm.server("--appendonly", "yes", "--appendfsync", "always")
    backend = backend_of(server.url, deadline_s=5.0)
    last = _write(backend, b"a", b"b")
    server.kill()
    server.start(wait_ready=False)
    assert _present(backend, [b"a", b"b"]) == {b"a", b"b"}
    found = backend.refresh()
    assert found.gaps == ((last, found.last_sequence),)
    assert found.base_sequence == found.last_sequence > last
    assert _write(backend, b"c") == found.last_sequence + 1
    assert [change.key for change in backend.history(0, 10, 1000)] == [b"a", b"b", b"c"]


def test_a_server_that_is_gone_is_named_within_the_deadline(
    redis_server: RedisProcess, backend_of: Open
) -> None:
    backend = backend_of(redis_server.url)
    _write(backend, b"a")
    redis_server.kill()
    started_s = time.monotonic()
    with pytest.raises(errors.StorageUnavailableError) as caught:
        backend.refresh()
    assert 0.4 < time.monotonic() - started_s < 2
    assert f"among {redis_server.address}" in str(caught.value)


def test_a_stopped_server_is_a_typed_error_and_its_write_is_found_afterwards(
    redis_server: RedisProcess, backend_of: Open
) -> None:
    backend = backend_of(redis_server.url)
    assert _write(backend, b"a") == 1
    redis_server.send(signal.SIGSTOP)
    with pytest.raises(errors.StateMovedError, match="connection broke during a commit"):
        backend.commit([_put(2, b"a")], [Answer(b"r", b"p", 1.0)], durable=True)
    with pytest.raises(errors.StorageUnavailableError):
        backend.gather([b"r"], {})
    redis_server.send(signal.SIGCONT)
    # What the kernel held for it was run after all: its answer is there, so it is not run again.
    redis_server.wait(lambda: backend.gather([b"r"], {}).answers == {b"r": b"p"})
    assert backend.refresh().last_sequence == 2


def test_a_server_that_was_emptied_is_not_taken_for_a_new_one(
    redis_server: RedisProcess, backend_of: Open
) -> None:
    backend = backend_of(redis_server.url)
    _write(backend, b"a")
    redis_server.ask("FLUSHALL")
    with pytest.raises(errors.StorageError, match="is gone from Redis"):
        _write(backend, b"b")
    with pytest.raises(errors.StorageUnavailableError, match="holds no such shard any more"):
        _write(backend, b"b")
    assert redis_server.ask("DBSIZE") == 0


def test_a_server_of_an_older_epoch_is_passed_over(
    redis_server: RedisProcess, backend_of: Open
) -> None:
    backend = backend_of(redis_server.url)
    _write(backend, b"a")
    backend._finder.known_epoch = 7
    redis_server.ask("CLIENT", "KILL", "TYPE", "normal")
    with pytest.raises(errors.StorageUnavailableError, match="has epoch 1 and was away: 7"):
        _write(backend, b"b")


# --- Others who write, and other stores ----------------------------------------------------------


def test_of_two_services_the_slower_plans_again(
    redis_server: RedisProcess, backend_of: Open
) -> None:
    first, second = backend_of(redis_server.url), backend_of(redis_server.url)
    first.gather([b"r"], {})
    second.gather([b"r"], {})
    second.commit([_put(1, b"a", b"second")], [Answer(b"r", b"p", 1.0)], durable=True)
    with pytest.raises(errors.StateMovedError, match="written to meanwhile"):
        first.commit([_put(1, b"a", b"first")], [Answer(b"r", b"p", 1.0)], durable=True)
    gathered = first.gather([b"r"], {1: [b"a"]})
    assert gathered.answers == {b"r": b"p"}
    assert gathered.rows[1, b"a"].value == b"second"
    assert gathered.standing is not None
    assert gathered.standing.last_sequence == 1


def test_an_answer_alone_also_moves_the_state(redis_server: RedisProcess, backend_of: Open) -> None:
    first, second = backend_of(redis_server.url), backend_of(redis_server.url)
    first.gather([b"r"], {})
    second.gather([b"r"], {})
    second.commit([], [Answer(b"r", b"refused", 1.0)], durable=True)
    with pytest.raises(errors.StateMovedError):
        first.commit([_put(1, b"a")], [Answer(b"r", b"done", 1.0)], durable=True)
    assert first.recall(b"r") == b"refused"


def test_a_store_of_another_shape_is_refused(
    redis_server: RedisProcess, backend_of: Open, tmp_path: Path
) -> None:
    backend_of(redis_server.url)
    options = RedisOptions(urls=(redis_server.url,))
    two = RedisStorage(options, shard_count=2, archive_dir=tmp_path).backend(0)
    with pytest.raises(errors.ConfigError, match="was made with shard_count 1, asked for 2"):
        two.open()
    redis_server.ask("HSET", META, "format", "99")
    with pytest.raises(errors.VersionMismatchError, match="format 99"):
        backend_of(redis_server.url)
    redis_server.ask("HSET", META, "format", "1", "cluster_id", bytes(16).hex())
    storage = RedisStorage(options, shard_count=1, archive_dir=tmp_path)
    storage.backend(0).open()
    redis_server.ask("HSET", META, "cluster_id", bytes([1] * 16).hex())
    with pytest.raises(errors.StorageError, match="of another cluster"):
        storage.backend(0).open()


# --- Ways there ----------------------------------------------------------------------------------


def test_a_unix_socket_serves_as_well(
    redis_farm: RedisFarm, backend_of: Open, tmp_path: Path
) -> None:
    socket_path = tmp_path / "s"
    redis_farm.server("--unixsocket", str(socket_path))
    backend = backend_of(f"unix://{socket_path}")
    _write(backend, b"a")
    assert _present(backend, [b"a"]) == {b"a"}


def test_tls_needs_the_right_authority_and_our_own_certificate(
    redis_farm: RedisFarm, backend_of: Open, tmp_path: Path
) -> None:
    if not server_has_tls():
        pytest.skip("this Redis server was built without TLS; Debian's redis-tools has it")
    authority, other = trustme.CA(), trustme.CA()
    paths = {name: tmp_path / name for name in ("ca", "other", "server", "client", "key")}
    authority.cert_pem.write_to_path(paths["ca"])
    other.cert_pem.write_to_path(paths["other"])
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(paths["server"])
    ours = authority.issue_cert("gcs.example")
    ours.cert_chain_pems[0].write_to_path(paths["client"])
    ours.private_key_pem.write_to_path(paths["key"])
    tls_port = free_port()
    server = redis_farm.server(
        *("--tls-port", str(tls_port), "--tls-ca-cert-file", str(paths["ca"])),
        *("--tls-cert-file", str(paths["server"]), "--tls-key-file", str(paths["server"])),
    )
    url = f"rediss://127.0.0.1:{tls_port}"
    certificate = {"cert_file": paths["client"], "key_file": paths["key"]}
    backend = backend_of(url, ca_file=paths["ca"], **certificate)
    _write(backend, b"a")
    with pytest.raises(errors.StorageUnavailableError, match="certificate verify failed"):
        backend_of(url, ca_file=paths["other"], **certificate)
    with pytest.raises(errors.StorageUnavailableError):
        backend_of(url, ca_file=paths["ca"])
    with pytest.raises(errors.StorageUnavailableError, match=r"Hostname mismatch|not match"):
        backend_of(url.replace("127.0.0.1", "localhost"), ca_file=paths["ca"], **certificate)
    assert server.ask("PING") == b"PONG"


def test_the_command_line_serves_from_redis(redis_server: RedisProcess, tmp_path: Path) -> None:
    import sys

    from rostral_gcs import GcsClient, write_token

    token = write_token(tmp_path / "token")
    command = [sys.executable, "-m", "rostral_gcs", "serve", "--port=0", "--backend=redis"]
    command += [f"--token-file={tmp_path / 'token'}", f"--redis-url={redis_server.url}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().split()[-1]
            with GcsClient(address, token) as client:
                client.kv_put(b"k", b"v")
                assert client.kv_keys() == [b"k"]
        finally:
            process.terminate()
    assert process.returncode == 0
    assert redis_server.ask("DBSIZE") > 0
    assert [path.name for path in tmp_path.iterdir() if "redis" not in path.name] == ["token"]
