"""Redis URLs and options: what they mean, and every fault named at once, without the password."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rostral_gcs.errors import ConfigError
from rostral_gcs.gcs_settings import SETTINGS
from rostral_gcs.redis_options import RedisOptions, RedisTarget, Topology, parse_redis_url
from rostral_gcs.services.settings import Flag


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://h", RedisTarget(topology=Topology.SINGLE, nodes=("h:6379",))),
        ("redis://h:1/3", RedisTarget(topology=Topology.SINGLE, nodes=("h:1",), db=3)),
        ("redis://[::1]:7", RedisTarget(topology=Topology.SINGLE, nodes=("[::1]:7",))),
        (
            "rediss://u:p%40ss@a,b:2",
            RedisTarget(
                topology=Topology.GROUP,
                nodes=("a:6379", "b:2"),
                tls=True,
                username="u",
                password="p@ss",
            ),
        ),
        (
            "redis+sentinel://s1,s2:5/ours",
            RedisTarget(
                topology=Topology.SENTINEL, nodes=("s1:26379", "s2:5"), sentinel_name="ours"
            ),
        ),
        (
            "rediss+cluster://c1:7000,c2:7001",
            RedisTarget(topology=Topology.CLUSTER, nodes=("c1:7000", "c2:7001"), tls=True),
        ),
        ("unix:///run/r.sock", RedisTarget(topology=Topology.SINGLE, nodes=("/run/r.sock",))),
    ],
)
def test_a_url_says_where_redis_is(url: str, target: RedisTarget) -> None:
    assert parse_redis_url(url) == target


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://h", "the scheme 'http' is unknown"),
        ("redis+ring://h", "the scheme 'redis+ring' is unknown"),
        ("redis://", "a host is missing"),
        ("redis://a,,b", "a host is missing"),
        ("redis://a:1,a:1", "a server is named twice"),
        ("redis://u:canary@h:port", "wrong"),
        ("redis://h/three", "the database 'three' is no number"),
        ("redis+sentinel://s", "the path must be the name"),
        ("unix:relative", "three slashes"),
    ],
)
def test_a_wrong_url_is_named_without_its_password(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        parse_redis_url(url)
    assert "redis+cluster://" in str(caught.value)
    assert "canary" not in str(caught.value)
    assert caught.value.problems[0].startswith("redis_urls")


def test_secrets_are_in_no_representation() -> None:
    target = parse_redis_url("redis://u:canary@h")
    options = RedisOptions(urls=("redis://u:canary@h",), password="canary")
    assert "canary" not in repr(target) + repr(options)


def test_every_fault_of_the_options_is_named(tmp_path: Path) -> None:
    options = RedisOptions(
        urls=("redis://a,b", "ftp://c", "redis://d"),
        prefix="two words",
        cert_file=tmp_path / "missing",
        wait_replicas=2,
        wait_timeout_s=0.0,
        poll_s=float("nan"),
    )
    problems = "\n".join(options.problems(2))
    for says in (
        "redis_urls has 3 entries; allowed: 1, or one for each of the 2 shards",
        "redis_urls has one (ftp:...) that is wrong: the scheme 'ftp' is unknown",
        "redis_wait_replicas is 2, but a group of 2 servers has 1 replicas",
        "redis_prefix is 'two words'",
        "redis_cert_file and redis_key_file must be given together",
        f"redis_cert_file {tmp_path / 'missing'} is no file",
        "redis_ca_file and redis_cert_file need rediss://",
        "redis_wait_timeout_s is 0.0",
        "redis_poll_s is nan",
    ):
        assert says in problems
    assert (
        replace(options, urls=("redis://a",), wait_replicas=-1)
        .problems(1)[0]
        .startswith("redis_wait_replicas is -1")
    )


def test_a_configuration_file_can_name_redis_and_its_faults_have_their_lines(
    tmp_path: Path,
) -> None:
    password = tmp_path / "password"
    password.write_text("canary\n")
    password.chmod(0o600)
    file = tmp_path / "gcs.toml"
    lines = ['backend = "redis"', 'redis_urls = ["redis://a:1,b:2"]', "redis_wait_replicas = 1"]
    file.write_text("\n".join([*lines, f'redis_password_file = "{password}"']))
    file.chmod(0o600)
    redis = SETTINGS.read(file, environ={}).config.config.redis
    assert redis is not None
    assert (redis.password, redis.wait_replicas) == ("canary", 1)
    assert redis.target(0).nodes == ("a:1", "b:2")
    file.write_text("\n".join([*lines[:2], "redis_wait_replicas = 5", "redis_poll_s = 0"]))
    with pytest.raises(ConfigError) as caught:
        SETTINGS.read(file, environ={})
    assert f"{file}:3: redis_wait_replicas is 5" in str(caught.value)
    assert f"{file}:4: redis_poll_s is 0.0" in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"backend": "redis"}, "redis_urls is empty"),
        ({"redis_urls": ("redis://h",)}, "redis_urls is given, but backend is embedded"),
        (
            {"backend": "redis", "redis_urls": ("redis://h",), "redis_password_file": Path("/no")},
            "redis_password_file /no cannot be read",
        ),
    ],
)
def test_contradictions_are_refused(flags: dict[str, object], says: str) -> None:
    given = {name: Flag(f"--{name}", value) for name, value in flags.items()}
    with pytest.raises(ConfigError, match=says):
        SETTINGS.read(None, flags=given, environ={})


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("canary")
    password.chmod(0o644)
    flags = {
        "backend": Flag("--backend", "redis"),
        "redis_urls": Flag("--redis-url", ("redis://h",)),
        "redis_password_file": Flag("--redis-password-file", password),
    }
    with pytest.raises(ConfigError, match="has mode 0644; allowed: 0600") as caught:
        SETTINGS.read(None, flags=flags, environ={})
    assert "canary" not in str(caught.value)
