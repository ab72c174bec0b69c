"""Several Redis servers: failover by us, by Sentinel and by a cluster, and what was away fenced."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rostral_gcs import errors
from rostral_gcs.backends.base import Answer, Change
from rostral_gcs.backends.redis import RedisBackend
from rostral_gcs.backends.redis_layout import META_FIELDS, Keys, Meta
from rostral_gcs.backends.redis_primary import set_role
from rostral_gcs.backends.redis_storage import RedisStorage
from rostral_gcs.redis_options import RedisOptions

from .redis_servers import RedisFarm, RedisProcess, group_url

pytestmark = pytest.mark.slow

Open = Callable[..., RedisBackend]
META = Keys("rostral", 0).meta


@pytest.fixture
def backend_of(tmp_path: Path) -> Iterator[Open]:
    """Opens backends that look after their group, and closes them at the end."""
    made: list[RedisBackend] = []

    def make(url: str, **changes: object) -> RedisBackend:
        options = RedisOptions(urls=(url,), deadline_s=5.0, command_timeout_s=0.5, poll_s=0.02)
        options = replace(options, **changes)  # type: ignore[arg-type]
        assert options.problems(1) == []
        made.append(RedisStorage(options, shard_count=1, archive_dir=tmp_path).backend(0))
        made[-1].listen(lambda: None)
        made[-1].open()
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def _write(backend: RedisBackend, key: bytes) -> int:
    """One acknowledged write, planned again as often as need be, as a shard does it."""
    request_id = b"r" + key
    while True:
        gathered = backend.gather([request_id], {})
        assert gathered.standing is not None
        sequence = gathered.standing.last_sequence + 1
        if request_id in gathered.answers:
            return sequence
        try:
            answer = Answer(request_id, b"", 1.0)
            backend.commit([Change(sequence, 1, key, b"v", True)], [answer], durable=True)
        except errors.StateMovedError:
            continue
        return sequence


def _wait_field(server: RedisProcess, field: str, value: str) -> None:
    server.wait(lambda: (server.ask("HGET", META, field) or b"").decode() == value)


def _until_replicated(backend: RedisBackend, primary: RedisProcess, replicas: int = 1) -> None:
    """Waits until writes wait for replicas, and one has: before, the primary has them alone."""
    _wait_field(primary, "wait", str(replicas))
    _write(backend, b"step-%d" % time.monotonic_ns())


@pytest.mark.parametrize("count", [2, 3])
def test_a_killed_primary_is_replaced_and_nothing_acknowledged_is_lost(
    redis_farm: RedisFarm, backend_of: Open, count: int
) -> None:
    servers = redis_farm.group(count)
    backend = backend_of(group_url(servers))
    _write(backend, b"first")
    _until_replicated(backend, servers[0])
    keys = [b"%d" % at for at in range(50)]
    for at, key in enumerate(keys):
        if at == 25:
            servers[0].kill()
        _write(backend, key)
    assert set(backend.read(1, keys)) == set(keys)
    standing = backend._standing()
    assert standing is not None
    assert (standing.epoch, standing.wait) == (2, count - 2)
    assert standing.address != servers[0].address
    (gap,) = backend.refresh().gaps
    assert gap[1] - gap[0] == 1 << 32


def test_a_server_that_comes_back_follows_and_is_waited_for_again(
    redis_farm: RedisFarm, backend_of: Open
) -> None:
    first, second = redis_farm.group(2)
    backend = backend_of(group_url([first, second]))
    _write(backend, b"a")
    _until_replicated(backend, first)
    first.kill()
    _write(backend, b"b")
    _wait_field(second, "wait", "0")
    first.start()
    _until_replicated(backend, second)
    assert first.info("role") == "slave"
    # And back again: it has all that was written while it was away.
    second.kill()
    _write(backend, b"c")
    assert set(backend.read(1, [b"a", b"b", b"c"])) == {b"a", b"b", b"c"}
    assert (backend._standing() or pytest.fail("no primary")).address == first.address


def test_a_stopped_primary_is_replaced_and_fenced_when_it_goes_on(
    redis_farm: RedisFarm, backend_of: Open
) -> None:
    first, second = redis_farm.group(2)
    backend, idle = (backend_of(group_url([first, second])) for _ in range(2))
    _write(backend, b"a")
    _until_replicated(backend, first)
    _until_replicated(idle, first)
    first.send(signal.SIGSTOP)
    started_s = time.monotonic()
    _write(backend, b"b")
    # Half a second of silence, and half a second for the question whether it is dead.
    assert 0.5 < time.monotonic() - started_s < 3.0
    assert (backend._standing() or pytest.fail("no primary")).address == second.address
    first.send(signal.SIGCONT)
    # The other one still takes the old primary for the right one, and must not believe it.
    _write(idle, b"c")
    assert (idle._standing() or pytest.fail("no primary")).address == second.address
    first.wait(lambda: first.info("role") == "slave")
    _until_replicated(backend, second)
    assert set(backend.read(1, [b"a", b"b", b"c"])) == {b"a", b"b", b"c"}
    assert set(idle.read(1, [b"a", b"b", b"c"])) == {b"a", b"b", b"c"}


def test_without_its_replica_a_primary_acknowledges_nothing(
    redis_farm: RedisFarm, backend_of: Open
) -> None:
    first, second = redis_farm.group(2)
    backend = backend_of(group_url([first, second]), deadline_s=0.5)
    _write(backend, b"a")
    _until_replicated(backend, first)
    second.kill()
    with pytest.raises(errors.NotReplicatedError, match="0 of 1 replicas"):
        _write(backend, b"b")
    # What is not replicated is not shown either: a failover could take it back.
    with pytest.raises(errors.NotReplicatedError):
        backend.read(1, [b"b"])
    second.start("--replicaof", "127.0.0.1", str(first.port))
    second.wait(lambda: second.info("master_link_status") == "up")
    second.wait(lambda: _reads(backend, b"b"))
    first.kill()
    _write(backend, b"c")
    assert set(backend.read(1, [b"a", b"b", b"c"])) == {b"a", b"b", b"c"}


def _reads(backend: RedisBackend, key: bytes) -> bool:
    try:
        return key in backend.read(1, [key])
    except errors.NotReplicatedError:
        return False


def test_a_copy_that_may_lack_writes_is_not_promoted(
    redis_farm: RedisFarm, backend_of: Open
) -> None:
    first, second = redis_farm.group(2, "--appendfsync", "always")
    backend = backend_of(group_url([first, second]), deadline_s=1.0)
    _write(backend, b"a")
    _until_replicated(backend, first)
    first.kill()
    _write(backend, b"alone")
    # Two failures: the one that has it all dies, and the one that comes back never saw it.
    second.kill()
    first.start()
    with pytest.raises(errors.StorageUnavailableError, match="only servers of epoch 1 answer"):
        _write(backend, b"b")
    second.start()
    _write(backend, b"c")
    assert set(backend.read(1, [b"a", b"alone", b"c"])) == {b"a", b"alone", b"c"}


def test_two_services_agree_on_the_new_primary(redis_farm: RedisFarm, backend_of: Open) -> None:
    servers = redis_farm.group(3)
    backends = [backend_of(group_url(servers)) for _ in range(2)]
    _write(backends[0], b"a")
    _until_replicated(backends[0], servers[0])
    servers[0].kill()
    for at in range(20):
        _write(backends[at % 2], b"%d" % at)
    standings = [backend._standing() for backend in backends]
    assert standings[0] == standings[1]
    assert standings[0] is not None
    assert standings[0].epoch == 2
    assert {len(backend.read(1, [b"%d" % at for at in range(20)])) for backend in backends} == {20}


def test_fresh_servers_become_a_group(redis_farm: RedisFarm, backend_of: Open) -> None:
    servers = [redis_farm.server() for _ in range(3)]
    backend = backend_of(group_url(servers))
    _until_replicated(backend, servers[0])
    assert servers[0].info("connected_slaves") == "2"
    _write(backend, b"a")


def test_a_server_with_data_of_others_is_not_emptied(
    redis_farm: RedisFarm, backend_of: Open
) -> None:
    first, second = redis_farm.server(), redis_farm.server()
    url = group_url([first, second])
    backend = backend_of(url, wait_replicas=0)
    first.wait(lambda: first.info("connected_slaves") == "1")
    third = redis_farm.server()
    third.ask("SET", "theirs", "kept")
    backend.close()
    backend = backend_of(f"{url},{third.address}", wait_replicas=0)
    _write(backend, b"a")
    time.sleep(0.2)  # Ten turns of looking after the members.
    assert third.ask("GET", "theirs") == b"kept"


def test_a_replica_that_a_failover_left_over_is_taken_back(
    redis_farm: RedisFarm, backend_of: Open
) -> None:
    servers = redis_farm.group(3)
    backend = backend_of(group_url(servers))
    _until_replicated(backend, servers[0])
    servers[2].ask("REPLICAOF", "NO", "ONE")
    servers[0].wait(lambda: servers[0].info("connected_slaves") == "2")
    assert servers[2].info("role") == "slave"
    _write(backend, b"a")
    assert (backend._standing() or pytest.fail("no primary")).epoch == 1


def test_a_decision_on_an_epoch_that_is_over_changes_no_server(
    redis_farm: RedisFarm, backend_of: Open
) -> None:
    first, second = redis_farm.group(2)
    backend = backend_of(group_url([first, second]))
    _until_replicated(backend, first)
    fields = first.ask("HMGET", META, *META_FIELDS)
    seen = Meta.read(fields)
    assert seen is not None
    backend.close()
    link = second.link()
    keys = Keys("rostral", 0)
    assert not set_role(link, keys, replace(seen, epoch=0), "NO", "ONE")
    assert not set_role(link, keys, None, "NO", "ONE")
    assert second.info("role") == "slave"
    assert set_role(link, keys, seen, "NO", "ONE")
    assert second.info("role") == "master"
    link.close()


# --- Sentinel ------------------------------------------------------------------------------------


def test_sentinel_says_who_is_next(redis_farm: RedisFarm, backend_of: Open) -> None:
    servers = redis_farm.group(3)
    lines = (
        f"sentinel monitor ours 127.0.0.1 {servers[0].port} 1",
        "sentinel down-after-milliseconds ours 300",
        "sentinel failover-timeout ours 2000",
    )
    sentinel = redis_farm.server(*lines, sentinel=True)
    sentinel.wait(lambda: b"num-slaves,2" in b",".join(_sentinel_state(sentinel)))
    backend = backend_of(f"redis+sentinel://{sentinel.address}/ours", deadline_s=15.0)
    _write(backend, b"a")
    _until_replicated(backend, servers[0])
    servers[0].kill()
    _write(backend, b"b")
    assert set(backend.read(1, [b"a", b"b"])) == {b"a", b"b"}
    standing = backend._standing()
    assert standing is not None
    assert (standing.epoch, standing.address != servers[0].address) == (2, True)
    with pytest.raises(errors.ConfigError, match="knows no 'nobody'"):
        backend_of(f"redis+sentinel://{sentinel.address}/nobody")


def _sentinel_state(sentinel: RedisProcess) -> list[bytes]:
    state: list[bytes] = sentinel.ask("SENTINEL", "MASTER", "ours") or []
    return state


# --- Cluster -------------------------------------------------------------------------------------


def _cluster(farm: RedisFarm) -> list[RedisProcess]:
    """Three primaries that share the slots."""
    servers = [
        farm.server("--cluster-enabled", "yes", "--cluster-node-timeout", "1000") for _ in range(3)
    ]
    for at, server in enumerate(servers):
        first, last = at * 5462, min(at * 5462 + 5461, 16383)
        server.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        server.ask("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        if at:
            server.ask("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
    for server in servers:
        server.wait(functools.partial(_is_joined, server))
    return servers


def _is_joined(server: RedisProcess) -> bool:
    is_ok = b"cluster_state:ok" in server.ask("CLUSTER", "INFO")
    return is_ok and len(server.ask("CLUSTER", "SLOTS")) == 3


def _owner(servers: list[RedisProcess], slot: int) -> int:
    return min(slot // 5462, len(servers) - 1)


def test_a_cluster_is_followed_when_its_slot_moves(redis_farm: RedisFarm, backend_of: Open) -> None:
    servers = _cluster(redis_farm)
    url = "redis+cluster://" + ",".join(server.address for server in servers)
    backend = backend_of(url)
    _write(backend, b"a")
    slot = servers[0].ask("CLUSTER", "KEYSLOT", META)
    source = servers[_owner(servers, slot)]
    target = servers[(_owner(servers, slot) + 1) % 3]
    _move_slot(servers, source, target, slot)
    sequence = _write(backend, b"b")
    assert sequence > 1 << 32, "another server, another epoch"
    assert set(backend.read(1, [b"a", b"b"])) == {b"a", b"b"}
    assert target.ask("HGET", META, "epoch") == b"2"


def _move_slot(
    servers: list[RedisProcess],
    source: RedisProcess,
    target: RedisProcess,
    slot: int,
    meanwhile: Callable[[], None] | None = None,
) -> None:
    ids = {server.port: server.ask("CLUSTER", "MYID").decode() for server in servers}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
    while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    if meanwhile is not None:
        meanwhile()
    for server in (target, source):
        server.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])


def test_a_slot_whose_keys_have_moved_is_read_and_written_before_the_cluster_says_so(
    redis_farm: RedisFarm, backend_of: Open
) -> None:
    servers = _cluster(redis_farm)
    url = "redis+cluster://" + ",".join(server.address for server in servers)
    backend = backend_of(url, deadline_s=3.0)
    first = _write(backend, b"a")
    slot = servers[0].ask("CLUSTER", "KEYSLOT", META)
    source = servers[_owner(servers, slot)]
    target = servers[(_owner(servers, slot) + 1) % 3]

    def use() -> None:
        assert set(backend.read(1, [b"a"])) == {b"a"}
        assert _write(backend, b"b") == first + 1, "the old node still has the epoch"
        assert [row.key for row in backend.scan(1, b"", b"", 10, 1 << 20)[0]] == [b"a", b"b"]

    _move_slot(servers, source, target, slot, use)
    assert _write(backend, b"c") > 1 << 32
    assert set(backend.read(1, [b"a", b"b", b"c"])) == {b"a", b"b", b"c"}


def test_a_cluster_without_the_slot_is_named(redis_farm: RedisFarm, backend_of: Open) -> None:
    servers = _cluster(redis_farm)
    url = "redis+cluster://" + ",".join(server.address for server in servers)
    backend = backend_of(url, deadline_s=3.0)
    _write(backend, b"a")
    slot = servers[0].ask("CLUSTER", "KEYSLOT", META)
    servers[_owner(servers, slot)].kill()
    with pytest.raises(errors.StorageUnavailableError, match=r"CLUSTERDOWN|refused"):
        _write(backend, b"b")
