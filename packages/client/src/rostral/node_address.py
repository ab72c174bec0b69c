"""The host at which other nodes reach this one: what its scheduler and its store listen at."""

from __future__ import annotations

import ipaddress
import socket

from rostral.launcher import NodeSettings
from rostral_gcs.credentials import TlsFiles, split_address

LOOPBACK = "127.0.0.1"
# A network for documentation: nobody is there, and nothing is sent.
_ELSEWHERE = ("192.0.2.1", 9)


def own_address(settings: NodeSettings, tls: TlsFiles) -> str:
    """That of the interface towards the GCS; for a head, what its GCS is bound to.

    Without TLS no further than the loopback, since what comes from other nodes is run.

    Raises: ConfigError for a GCS address that is none.
    """
    if not tls.is_mutual():
        return LOOPBACK
    if settings.head:
        if not ipaddress.ip_address(settings.bind).is_unspecified:
            return settings.bind
        towards = _ELSEWHERE
    else:
        towards = split_address(str(settings.gcs_address))
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(*towards, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # Nothing is sent by this: it says by which of our addresses we would.
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        # No way there: whoever connects to the GCS will say so.
        return LOOPBACK
