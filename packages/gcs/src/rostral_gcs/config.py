"""The configuration of a GCS server and its limits: all bounds stand here.

This file owns the fields, units, defaults and their reasons. It reads neither environment nor
command line (``cli.py`` does) and starts nothing.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path

from rostral_gcs.credentials import TlsFiles, check_bind, tls_files
from rostral_gcs.errors import ConfigError
from rostral_gcs.redis_options import RedisOptions
from rostral_gcs.tokens import Tokens, token_problems

__all__ = ["GcsConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsConfig:
    """How one GCS server runs. Call ``validate()`` before use.

    Attributes:
        data_dir: Where the shards' files lie; made with mode 0700 when missing. Unused with Redis.
        token: The cluster token that every call must carry.
        bind: Address to listen on. Loopback by default: closed unless told otherwise.
        port: TCP port; 0 lets the system choose, so that many clusters fit on one machine.
        framed: Whether the same calls are also served over sockets of our own, which clients take
            by themselves, since a call costs a fifth of gRPC's there. Else gRPC carries all.
        frames_port: Where these are; 0 lets the system choose, and clients are told.
        insecure: Allows a bind to more than loopback though the channel is not encrypted.
        tls_certificate_file: PEM, this server's chain; with it the channel is encrypted.
        tls_key_file: PEM, the certificate's key, of mode 0600 and ours.
        tls_ca_file: PEM, who signs the cluster's certificates: every client must show one.
        redis: Keeps the rows in Redis. None: in files of ``data_dir``.
        shard_count: Number of shards when the data directory is made; more can be added. One by
            default: on one disk a single file groups the most writes into each sync.
        key_size_max: Longest key in bytes.
        value_size_max: Largest value in bytes; larger function blobs are stored in chunks.
        message_size_max: Largest gRPC message in bytes, either way.
        batch_ops_max: Most operations or keys in one request.
        scan_limit_max: Most rows in one page of a scan.
        page_size_max: A page of a scan, a read or a watch ends after this many bytes of values.
        queue_commands_max: Commands waiting for a shard's thread; beyond it, RESOURCE_EXHAUSTED.
        queue_size_max: Bytes of lineage waiting for a shard's thread; beyond it, the same.
        group_ops_max: Most operations in one commit. Larger groups sync less often but make each
            caller wait longer.
        commit_on_loop: Whether the event loop commits a small write that nothing else waits with,
            instead of a thread: that saves its caller two hops between them. The loop stands still
            while the disk syncs, so not where it has other work than the GCS.
        history_count_max: Changes kept on disk for watches to resume from, for each shard.
        history_size_max: The same in bytes of values.
        ring_count_max: Newest changes also kept in memory, for each shard, so that watchers that
            keep up never read from disk.
        ring_size_max: The same in bytes of values.
        lineage_memory_max: Most bytes of memory for the indexes of tasks and events, all shards
            together: about 1.5 million. What is over is flushed to files before; when all of it is
            unfinished, CONTROL_PLANE_FULL. In Redis as many rows are kept, which take more there.
        archive_dir: With Redis, where these files lie. Services of one store on several machines
            need a folder that they share. None: `archive` in data_dir.
        archive_form: Form of these files: ``parquet``, ``sqlite``, or ``auto`` for Parquet when
            pyarrow (the extra ``archive``) is installed.
        retry_window_s: How long the answer of a request is remembered, so that the same request
            sent again after a lost reply is not applied twice. Clients give up well before.
        node_lease_s_min: Shortest lease a node may ask for. Below it a loaded machine's pauses
            would look like deaths.
        node_lease_s_max: Longest lease a node may ask for.
        lease_check_interval_s: How often expired leases are looked for.
        pause_s_min: When upkeep has not run for this long the server itself was stopped, and the
            time does not count against leases. Many check intervals, so that a busy loop is none.
        health_interval_s: How often the health service looks whether every shard answers, and how
            long an answer may take.
        metrics_port: A page of Prometheus metrics is served there on loopback, by the extra
            `metrics`; 0 takes any free port. None: none is served.
        watchers_max: Watches open at once.
        shutdown_grace_s: How long a stop waits for calls under way.
    """

    data_dir: Path
    token: str | Tokens = field(repr=False)
    bind: str = "127.0.0.1"
    port: int = 0
    framed: bool = True
    frames_port: int = 0
    insecure: bool = False
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None
    redis: RedisOptions | None = None
    shard_count: int = 1
    key_size_max: int = 1024
    value_size_max: int = 512 * 1024
    message_size_max: int = 64 * 1024 * 1024
    batch_ops_max: int = 10_000
    scan_limit_max: int = 10_000
    page_size_max: int = 4 * 1024 * 1024
    queue_commands_max: int = 10_000
    queue_size_max: int = 64 * 1024 * 1024
    group_ops_max: int = 5_000
    commit_on_loop: bool = False
    history_count_max: int = 100_000
    history_size_max: int = 64 * 1024 * 1024
    ring_count_max: int = 10_000
    ring_size_max: int = 16 * 1024 * 1024
    lineage_memory_max: int = 256 * 1024 * 1024
    archive_dir: Path | None = None
    archive_form: str = "auto"
    retry_window_s: float = 120.0
    node_lease_s_min: float = 0.1
    node_lease_s_max: float = 3600.0
    lease_check_interval_s: float = 0.1
    pause_s_min: float = 1.0
    health_interval_s: float = 1.0
    metrics_port: int | None = None
    watchers_max: int = 10_000
    shutdown_grace_s: float = 2.0

    def __repr__(self) -> str:
        # Never the token: configurations end in logs.
        return f"GcsConfig(data_dir={str(self.data_dir)!r}, bind={self.bind!r}, port={self.port})"

    def validate(self) -> None:
        """Checks every field and reports all faults at once.

        Raises:
            ConfigError: One or more fields are wrong; ``problems`` lists them.
            InsecureBindError: All fields are right but the bind is not loopback and not
                ``insecure``.
        """
        problems = [*self._check_counts(), *self._check_seconds()]
        if not 0 <= self.port <= 65535:
            problems.append(f"port is {self.port}; allowed: 0 (any free one) to 65535")
        if not 0 <= self.frames_port <= 65535:
            problems.append(f"frames_port is {self.frames_port}; allowed: 0 (any) to 65535")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            problems.append(f"metrics_port is {self.metrics_port}; allowed: 0 (any) to 65535")
        problems += [*token_problems(self.token), *self.tls.problems()]
        if not 1 <= self.shard_count <= 256:
            problems.append(f"shard_count is {self.shard_count}; allowed: 1 to 256")
        elif self.redis is not None:
            problems.extend(self.redis.problems(self.shard_count))
        if self.archive_form not in ("auto", "sqlite", "parquet"):
            problems.append(
                f"archive_form is {self.archive_form[:80]!r}; allowed: auto, sqlite, parquet"
            )
        elif self.archive_form == "parquet" and find_spec("pyarrow") is None:
            problems.append(
                "archive_form is 'parquet'; that needs: pip install rostral-gcs[archive]"
            )
        address = _parse_bind(self.bind)
        if address is None:
            problems.append(f"bind is {self.bind[:80]!r}; allowed: an IPv4 or IPv6 address")
        if problems:
            raise ConfigError(
                "the configuration is wrong: " + "; ".join(problems),
                hint="nothing was started; correct all of these",
                problems=problems,
            )
        check_bind(self.bind, self.tls, insecure=self.insecure)

    @property
    def tls(self) -> TlsFiles:
        """The files of its TLS."""
        return tls_files(self.tls_certificate_file, self.tls_key_file, self.tls_ca_file)

    def _check_counts(self) -> list[str]:
        names = [
            field.name
            for field in fields(self)
            if field.name.endswith("_max") and not field.name.endswith("_s_max")
        ]
        return [
            f"{name} is {getattr(self, name)}; allowed: 1 or more"
            for name in names
            if getattr(self, name) < 1
        ]

    def _check_seconds(self) -> list[str]:
        names = [
            field.name for field in fields(self) if field.name.endswith(("_s", "_s_min", "_s_max"))
        ]
        return [
            f"{name} is {getattr(self, name)}; allowed: a finite number of seconds above 0"
            for name in names
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0)
        ]


def _parse_bind(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if text == "localhost":
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
