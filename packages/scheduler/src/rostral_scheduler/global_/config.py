"""The configuration of a global scheduler and of its clients: all bounds stand here.

This file owns the fields, units, defaults and their reasons. It reads neither environment nor
command line (``cli.py`` does) and starts nothing.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from rostral_gcs.credentials import TlsFiles, check_bind, tls_files
from rostral_gcs.errors import ConfigError
from rostral_gcs.tokens import Tokens, token_problems
from rostral_scheduler.core.placement import PlacementLimits

__all__ = ["GlobalSchedulerConfig", "PlacingOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSchedulerConfig:
    """How one global scheduler runs. Call ``validate()`` before use.

    Attributes:
        gcs_address: ``host:port`` of the GCS.
        token: The cluster token: of its own calls, and what callers must show.
        bind: Address to listen on. Loopback by default: closed unless told otherwise.
        port: TCP port; 0 lets the system choose: clients find it in the GCS.
        advertise: The host that others reach it at; empty: ``bind``.
        insecure: Allows a bind to more than loopback though the channel is not encrypted.
        tls_certificate_file: PEM, its chain, as server and towards the GCS; with it the channels
            are encrypted.
        tls_key_file: PEM, the certificate's key, of mode 0600 and ours.
        tls_ca_file: PEM, who signs the cluster's certificates: every peer must show one.
        limits: Of the policy.
        batch_tasks_max: Most tasks in one call.
        calls_max: Calls at once; beyond it they are refused, and clients try another scheduler.
        slice_tasks: After so many the event loop looks after other calls and reports.
        message_size_max: Largest gRPC message in bytes, either way.
        row_lease_s: Its row in the GCS is rewritten a few times in this; one that is not counts as
            dead.
        shutdown_grace_s: How long a stop waits for calls under way.
    """

    gcs_address: str
    token: str | Tokens = field(repr=False)
    bind: str = "127.0.0.1"
    port: int = 0
    advertise: str = ""
    insecure: bool = False
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None
    limits: PlacementLimits = field(default_factory=PlacementLimits)
    batch_tasks_max: int = 10_000
    calls_max: int = 1000
    slice_tasks: int = 500
    message_size_max: int = 64 * 1024 * 1024
    row_lease_s: float = 5.0
    shutdown_grace_s: float = 1.0

    def validate(self) -> None:
        """Checks every field and reports all faults at once.

        Raises:
            ConfigError: One or more fields are wrong; ``problems`` lists them.
            InsecureBindError: All fields are right but the bind is not loopback and not
                ``insecure``.
        """
        problems = [*_check_numbers(self), *self.limits.problems()]
        if not 0 <= self.port <= 65535:
            problems.append(f"port is {self.port}; allowed: 0 (any free one) to 65535")
        problems += [*token_problems(self.token), *self.tls.problems()]
        if ":" not in self.gcs_address:
            problems.append(f"gcs_address is {self.gcs_address[:80]!r}; allowed: HOST:PORT")
        address = _parse_bind(self.bind)
        if address is None:
            problems.append(f"bind is {self.bind[:80]!r}; allowed: an IPv4 or IPv6 address")
        elif address.is_unspecified and not self.advertise:
            problems.append(f"bind is {self.bind} without advertise; allowed: with the host's name")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacingOptions:
    """Bounds of one client of the global schedulers.

    Attributes:
        timeout_s: How long ``place`` tries, all schedulers together.
        call_timeout_s: How long one scheduler may take to answer: long against the placing of a
            full batch (0.1 s), short against a lease.
        batch_tasks_max: Most tasks in one call; larger batches are split.
        message_size_max: Largest gRPC message in bytes, either way.
        refresh_s: How long the list of schedulers is used before it is read again.
        avoid_s: How long a scheduler that failed is tried after all others.
        limits: Of the policy, where the client places by itself.
    """

    timeout_s: float = 5.0
    call_timeout_s: float = 1.0
    batch_tasks_max: int = 1000
    message_size_max: int = 64 * 1024 * 1024
    refresh_s: float = 1.0
    avoid_s: float = 2.0
    limits: PlacementLimits = field(default_factory=PlacementLimits)

    def validate(self) -> None:
        """Checks every field.

        Raises:
            ConfigError: One or more fields are wrong; ``problems`` lists them.
        """
        problems = [*_check_numbers(self), *self.limits.problems()]
        if problems:
            raise ConfigError(
                "the options are wrong: " + "; ".join(problems),
                hint="correct all of these",
                problems=problems,
            )


def _check_numbers(config: GlobalSchedulerConfig | PlacingOptions) -> list[str]:
    return [
        f"{one.name} is {getattr(config, one.name)}; allowed: a finite number above 0"
        for one in fields(config)
        if one.name.endswith(("_s", "_max", "_tasks"))
        and not (math.isfinite(getattr(config, one.name)) and getattr(config, one.name) > 0)
    ]


def _parse_bind(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
