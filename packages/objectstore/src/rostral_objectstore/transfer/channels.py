"""Connections to other nodes' transfer servers, kept for the next fetch.

One connection carries one stream at a time: that is what makes streams parallel.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from rostral_gcs.auth import bearer_metadata
from rostral_objectstore.transfer.credentials import Credentials
from rostral_objectstore.transfer.extra import flight, pa
from rostral_objectstore.transfer.messages import CHUNK_BYTES

# A chunk and what Arrow and gRPC wrap around it. A source that sends more is cut off by gRPC before
# the bytes are kept.
_MESSAGE_BYTES_MAX = CHUNK_BYTES + (64 << 10)


class Channels:
    """Connections by address. All methods may be called from any thread.

    Raises: TokenFileError, ConfigError.
    """

    def __init__(self, credentials: Credentials, idle_max: int) -> None:
        self._secrets = credentials.load()
        self._idle_max = idle_max
        self._lock = threading.Lock()
        self._idle: list[tuple[str, Any]] = []  # the longest unused first
        self._headers = [
            (name.encode(), value.encode()) for name, value in bearer_metadata(self._secrets.token)
        ]

    def options(self, timeout_s: float) -> Any:
        """What goes with each call: the token, and how long it may take as a whole."""
        return flight.FlightCallOptions(timeout=timeout_s, headers=self._headers)

    @contextlib.contextmanager
    def connection(self, address: str) -> Iterator[Any]:
        """A connection for one call; it is kept if the block ends well."""
        client = self._take(address)
        try:
            yield client
        except BaseException:
            _close(client)
            raise
        self._keep(address, client)

    def close(self) -> None:
        """Closes those that nobody uses. Idempotent."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, client in idle:
            _close(client)

    def _take(self, address: str) -> Any:
        with self._lock:
            for index in reversed(range(len(self._idle))):
                if self._idle[index][0] == address:
                    return self._idle.pop(index)[1]
        return self._connect(address)

    def _keep(self, address: str, client: Any) -> None:
        with self._lock:
            self._idle.append((address, client))
            surplus = self._idle[: max(0, len(self._idle) - self._idle_max)]
            del self._idle[: len(surplus)]
        for _, old in surplus:
            _close(old)

    def _connect(self, address: str) -> Any:
        secrets = self._secrets
        scheme = "grpc+tcp" if secrets.ca is None else "grpc+tls"
        tls: dict[str, Any] = {}
        if secrets.ca is not None:
            tls["tls_root_certs"] = secrets.ca
            if secrets.certificate is not None:
                tls.update(cert_chain=secrets.certificate, private_key=secrets.key)
        options = [
            # Else clients of one address share one socket, and streams are not parallel.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
            # A proxy from the environment would see the token.
            ("grpc.enable_http_proxy", 0),
        ]
        return flight.FlightClient(f"{scheme}://{address}", generic_options=options, **tls)


def _close(client: Any) -> None:
    with contextlib.suppress(pa.ArrowException):
        client.close()
