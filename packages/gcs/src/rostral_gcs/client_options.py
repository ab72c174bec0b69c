"""How a client waits, retries and batches: all its bounds.

This file owns the fields, units, defaults and their reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rostral_gcs.credentials import TlsFiles

__all__ = ["ClientOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Bounds of one client.

    Attributes:
        connect_timeout_s: How long ``connect`` tries before it says that nothing listens.
        call_timeout_s: How long a call tries, retries included, so that a restart of the server is
            ridden through. Well below the server's retry window, within which a write sent again
            is not applied twice.
        attempt_timeout_s: With several addresses: how long one may be silent before the next is
            tried. Above what a failover of the storage takes.
        watch_timeout_s: How long a watch tries to reconnect before it gives up.
        backoff_s_min: First pause before a retry; each further one is longer and jittered, so that
            a thousand nodes do not return in step.
        backoff_s_max: Longest pause.
        batching: Whether writes that are made while a request is under way go together in the next.
            Without it each call is a request of its own, and calls made at the same time are
            applied in any order.
        batch_ops_max: Most writes in one request.
        batch_size_max: A request ends after this many bytes of values.
        pending_ops_max: Writes waiting in the client; beyond it, callers wait.
        message_size_max: Largest message either way, bytes; as the server's.
        framed: Whether calls go over the service's own sockets where it has them; else, and where
            these cannot be reached, gRPC carries all.
        tls: With its CA the channel is encrypted; its certificate is shown to the server.
    """

    connect_timeout_s: float = 5.0
    call_timeout_s: float = 10.0
    attempt_timeout_s: float = 3.0
    watch_timeout_s: float = 60.0
    backoff_s_min: float = 0.02
    backoff_s_max: float = 1.0
    batching: bool = True
    batch_ops_max: int = 1000
    batch_size_max: int = 4 * 1024 * 1024
    pending_ops_max: int = 100_000
    message_size_max: int = 64 * 1024 * 1024
    framed: bool = True
    tls: TlsFiles = field(default_factory=TlsFiles)
