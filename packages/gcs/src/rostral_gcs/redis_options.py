"""How a GCS reaches Redis: addresses, credentials and bounds.

This file owns the options, their checks and the form of a Redis URL. It opens nothing and imports
no Redis client.
"""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from rostral_gcs.errors import ConfigError

__all__ = ["RedisOptions", "RedisTarget", "Topology", "parse_redis_url"]

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FORMS: Final = (
    "redis://HOST:PORT[,HOST:PORT...][/DB], unix:///PATH, redis+sentinel://HOST:PORT,.../NAME or "
    "redis+cluster://HOST:PORT,...; rediss for TLS"
)


class Topology(enum.Enum):
    """Who says which server is the primary."""

    SINGLE = "single"
    """There is one server."""

    GROUP = "group"
    """A primary and its replicas, of which the GCS itself promotes one when the primary is gone."""

    SENTINEL = "sentinel"
    """Redis Sentinel."""

    CLUSTER = "cluster"
    """Redis Cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisTarget:
    """What a URL says.

    Attributes:
        topology: Who says which server is the primary.
        nodes: ``host:port`` of servers or Sentinels, or one path of a Unix socket.
        tls: Whether every connection is encrypted.
        db: The database's number; 0 in a cluster.
        username: Of the ACL user; empty for the default one.
        password: From the URL; prefer a file, since command lines can be seen by others.
        sentinel_name: What Sentinel calls the group; empty for other topologies.
    """

    topology: Topology
    nodes: tuple[str, ...]
    tls: bool = False
    db: int = 0
    username: str = ""
    password: str = ""
    sentinel_name: str = ""

    def __repr__(self) -> str:
        # Never the password: targets end in messages and logs.
        return f"RedisTarget({self.topology.value} {','.join(self.nodes)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """How one GCS server uses Redis. ``problems()`` says what is wrong with it.

    Attributes:
        urls: One for all shards, or one for each. See ``parse_redis_url``.
        password: Of the user that the URLs name; stands above a password in a URL.
        prefix: Every key begins with ``{prefix:shard}``, so that an ACL can be limited to it and a
            Redis Cluster keeps a shard's keys together.
        ca_file: Certificates that sign the servers', for TLS. None: those of the system.
        cert_file: Our own certificate, when the servers ask for one.
        key_file: Its key.
        wait_replicas: How many replicas must have a write before it is acknowledged. None: one,
            unless there is a single server. With n, the death of n servers loses nothing that was
            acknowledged. Counts once as many replicas have been there.
        wait_timeout_s: How long one WAIT takes before it is asked whether there is another primary.
        connect_timeout_s: How long a connect, or a question to a server that may be dead, may take.
        command_timeout_s: When a command has had no answer for this long, the server is taken for
            dead: what a silent partition costs. Above the pauses of a busy machine, since another
            server then takes over.
        deadline_s: How long a request is tried while there is no primary, before it is refused. Far
            below the clients' own, so that these can go to another GCS.
        poll_s: How often we look for what other services have written and whether a server that
            was away is back. Published hints make the first quicker.
    """

    urls: tuple[str, ...]
    password: str = ""
    prefix: str = "rostral"
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    wait_replicas: int | None = None
    wait_timeout_s: float = 0.1
    connect_timeout_s: float = 0.5
    command_timeout_s: float = 1.0
    deadline_s: float = 5.0
    poll_s: float = 0.5

    def __repr__(self) -> str:
        return f"RedisOptions({len(self.urls)} urls, prefix={self.prefix!r})"

    def target(self, shard: int) -> RedisTarget:
        """Where the shard lies.

        Raises:
            ConfigError: The URL is wrong.
        """
        return parse_redis_url(self.urls[shard if len(self.urls) > 1 else 0])

    def replicas_wanted(self, target: RedisTarget) -> int:
        """How many replicas must have a write before it is acknowledged."""
        if self.wait_replicas is not None:
            return self.wait_replicas
        return 0 if target.topology is Topology.SINGLE else 1

    def problems(self, shard_count: int) -> list[str]:
        """One line for each fault; none when all is well."""
        found: list[str] = []
        if len(self.urls) not in (1, shard_count):
            found.append(
                f"redis_urls has {len(self.urls)} entries; allowed: 1, or one for each of the "
                f"{shard_count} shards"
            )
        for url in self.urls:
            try:
                target = parse_redis_url(url)
            except ConfigError as error:
                found.extend(error.problems)
                continue
            found.extend(self._wait_problems(target))
            if (self.ca_file or self.cert_file) and not target.tls:
                found.append("redis_ca_file and redis_cert_file need rediss:// in every redis_url")
        if not _PREFIX.fullmatch(self.prefix):
            found.append(
                f"redis_prefix is {self.prefix[:80]!r}; allowed: 1 to 64 letters, digits, . _ or -"
            )
        if (self.cert_file is None) != (self.key_file is None):
            found.append("redis_cert_file and redis_key_file must be given together")
        for name in ("ca_file", "cert_file", "key_file"):
            path: Path | None = getattr(self, name)
            if path is not None and not path.is_file():
                found.append(f"redis_{name} {path} is no file")
        found.extend(
            f"redis_{field.name} is {value}; allowed: a finite number of seconds above 0"
            for field in fields(self)
            if field.name.endswith("_s")
            and not (math.isfinite(value := getattr(self, field.name)) and value > 0)
        )
        return found

    def _wait_problems(self, target: RedisTarget) -> list[str]:
        wanted = self.replicas_wanted(target)
        if wanted < 0:
            return [f"redis_wait_replicas is {wanted}; allowed: 0 or more"]
        if target.topology is Topology.GROUP and wanted >= len(target.nodes):
            return [
                f"redis_wait_replicas is {wanted}, but a group of {len(target.nodes)} servers has "
                f"{len(target.nodes) - 1} replicas"
            ]
        return []


def parse_redis_url(url: str) -> RedisTarget:
    """Reads ``redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]`` and its kin.

    Several hosts in ``redis://`` are a primary and its replicas, in any order; in
    ``redis+sentinel://`` they are Sentinels, and the path is the name of the group; in
    ``redis+cluster://`` they are any servers of the cluster. ``unix:///PATH`` is a local socket.
    ``rediss`` for ``redis`` encrypts.

    Raises:
        ConfigError: It is none of these; ``problems`` says why.
    """
    try:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        if parts.scheme == "unix":
            return _unix(parts)
        if scheme not in ("redis", "rediss") or kind not in ("", "sentinel", "cluster"):
            raise ValueError(f"the scheme {parts.scheme[:20]!r} is unknown")
        topology = Topology(kind) if kind else Topology.SINGLE
        default_port = _SENTINEL_PORT if topology is Topology.SENTINEL else _PORT
        nodes = _nodes(parts.netloc.rpartition("@")[2], default_port)
        if topology is Topology.SINGLE and len(nodes) > 1:
            topology = Topology.GROUP
        path = parts.path.strip("/")
        username, password = _credentials(parts)
        return RedisTarget(
            topology=topology,
            nodes=nodes,
            tls=scheme == "rediss",
            db=_db(path) if topology in (Topology.SINGLE, Topology.GROUP) else 0,
            username=username,
            password=password,
            sentinel_name=_sentinel_name(path) if topology is Topology.SENTINEL else "",
        )
    except ValueError as error:
        # Nothing behind the scheme is quoted: there may be a password in it.
        problem = f"redis_urls has one ({url.partition(':')[0][:20]}:...) that is wrong: {error}"
        raise ConfigError(
            problem, hint=f"write it as {_FORMS}", problems=(f"{problem}; allowed: {_FORMS}",)
        ) from error


def _unix(parts: SplitResult) -> RedisTarget:
    if not parts.path.startswith("/"):
        raise ValueError("a unix URL has three slashes: unix:///PATH")
    username, password = _credentials(parts)
    return RedisTarget(
        topology=Topology.SINGLE, nodes=(unquote(parts.path),), username=username, password=password
    )


def _credentials(parts: SplitResult) -> tuple[str, str]:
    userinfo, at, _ = parts.netloc.rpartition("@")
    if not at:
        return "", ""
    username, _, password = userinfo.partition(":")
    return unquote(username), unquote(password)


def _nodes(text: str, default_port: int) -> tuple[str, ...]:
    nodes: list[str] = []
    for part in text.split(","):
        found = urlsplit(f"//{part}")
        if not found.hostname:
            raise ValueError("a host is missing")
        # ``port`` raises ValueError itself when it is no port.
        host = f"[{found.hostname}]" if ":" in found.hostname else found.hostname
        nodes.append(f"{host}:{found.port or default_port}")
    if len(set(nodes)) != len(nodes):
        raise ValueError("a server is named twice")
    return tuple(nodes)


def _db(path: str) -> int:
    if path and not path.isdecimal():
        raise ValueError(f"the database {path[:20]!r} is no number")
    return int(path or 0)


def _sentinel_name(path: str) -> str:
    if not path or "/" in path:
        raise ValueError("the path must be the name that Sentinel has for the group")
    return unquote(path)
