"""gRPC's channels and ports, with the TLS of a process's credentials.

One certificate serves both roles (``credentials.py``). With TLS both sides show one, signed by the
cluster's own CA, which alone is trusted; the name of the server must be in its certificate. TLS 1.2
is the oldest that gRPC speaks. A server reads its files again for each connection once they have
changed, so a new certificate needs no restart.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from rostral_gcs.credentials import TlsFiles, is_loopback, split_address
from rostral_gcs.errors import GcsError

__all__ = ["add_port", "open_channel"]

logger = logging.getLogger("rostral.gcs.channels")

Options = Sequence[tuple[str, Any]]


def add_port(server: grpc.aio.Server, address: str, tls: TlsFiles) -> int:
    """Has the server listen at the address. Returns the port; 0 if it cannot.

    Raises:
        ConfigError: The TLS files cannot be used.
        TokenFileError: The key's file is not ours alone.
        RuntimeError: The address cannot be bound.
    """
    if tls.tls_certificate_file is None:
        host, _ = split_address(address)
        if not is_loopback(host):
            logger.warning("listening at %s without TLS, as --insecure asks", address)
        return server.add_insecure_port(address)
    files = _ServerFiles(tls)
    credentials = grpc.dynamic_ssl_server_credentials(
        files.read(), files.read_if_changed, require_client_authentication=tls.is_mutual()
    )
    return server.add_secure_port(address, credentials)


def open_channel(address: str, tls: TlsFiles, *, options: Options) -> Any:
    """A channel to the address, for the running event loop.

    Raises:
        ConfigError, TokenFileError: The TLS files cannot be used.
    """
    if tls.tls_ca_file is not None:
        secrets = tls.load_tls()
        credentials = grpc.ssl_channel_credentials(secrets.ca, secrets.key, secrets.certificate)
        return grpc.aio.secure_channel(address, credentials, options=options)
    host, _ = split_address(address)
    if not is_loopback(host):
        logger.warning("the cluster token goes to %s without TLS", address)
    return grpc.aio.insecure_channel(address, options=options)


class _ServerFiles:
    """A server's files, read again once they change. gRPC asks at each handshake."""

    def __init__(self, tls: TlsFiles) -> None:
        self._tls = tls
        self._stamp = tls.stamp()

    def read(self) -> Any:
        secrets = self._tls.load_tls()
        assert secrets.certificate is not None and secrets.key is not None
        return grpc.ssl_server_certificate_configuration(
            [(secrets.key, secrets.certificate)], root_certificates=secrets.ca
        )

    def read_if_changed(self) -> Any:
        stamp = self._tls.stamp()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            return self.read()
        except (GcsError, OSError) as error:
            logger.error("the new TLS files are not used: %s", error)
            return None
