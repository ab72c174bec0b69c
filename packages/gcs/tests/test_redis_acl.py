"""S25: the Redis user that the README describes can do nothing to the server or to others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rostral_gcs.backends.redis_link import RedisLink, ReplyError
from rostral_gcs.redis_options import RedisOptions, RedisTarget, Topology

from .redis_servers import RedisProcess

pytestmark = pytest.mark.slow

PASSWORD = "p" * 32
README = Path(__file__).parents[1] / "README.md"


def documented_rules() -> list[str]:
    """What the README says that a user needs, for a server alone."""
    text = README.read_text()
    begin = text.index("`~{rostral:*") + 1
    return text[begin : text.index("`", begin)].split()


@pytest.fixture
def guarded(redis_server: RedisProcess) -> RedisProcess:
    """A server with that user, some rows of others, and nothing for strangers."""
    redis_server.ask("SET", "others:row", "theirs")
    rules = ["on", f">{PASSWORD}", *documented_rules()]
    redis_server.ask("ACL", "SETUSER", "gcs", "reset", *rules)
    return redis_server


@pytest.fixture
def ours(guarded: RedisProcess) -> Iterator[RedisLink]:
    """A connection as that user: what somebody has who got hold of its password."""
    target = RedisTarget(
        topology=Topology.SINGLE, nodes=(guarded.address,), username="gcs", password=PASSWORD
    )
    url = f"redis://gcs@{guarded.address}"
    options = RedisOptions(urls=(url,), password=PASSWORD)
    link = RedisLink(guarded.address, target, options, timeout_s=5.0)
    yield link
    link.close()


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "dir", "/tmp"),
        ("ACL", "SETUSER", "gcs", "on", "allkeys", "allcommands"),
        ("SHUTDOWN", "NOSAVE"),
        ("DEBUG", "SLEEP", "10"),
        ("REPLICAOF", "192.0.2.1", "6379"),
        ("KEYS", "*"),
        ("SAVE",),
        ("GET", "others:row"),
        ("HGET", "others:row", "x"),
        ("EVAL", "return redis.call('get', KEYS[1])", "1", "others:row"),
        ("EVAL", "return redis.call('flushall')", "0"),
        ("SUBSCRIBE", "others"),
    ],
)
def test_that_user_can_do_nothing_to_the_server_or_to_others(
    guarded: RedisProcess, ours: RedisLink, command: tuple[str, ...]
) -> None:
    with pytest.raises(ReplyError, match=r"(?i)permission|can't access|can't run this"):
        ours.ask_one(*command)
    assert guarded.ask("GET", "others:row") == b"theirs"
