"""TLS on plain sockets, from the same files as gRPC's (``credentials.py``): TLS 1.3, or none.

Imports neither grpc nor asyncio: what is made here serves threads and event loops alike.
"""

from __future__ import annotations

import logging
import ssl

from rostral_gcs.credentials import TlsFiles
from rostral_gcs.errors import ConfigError, GcsError

__all__ = ["TlsContexts", "client_context", "server_context"]

logger = logging.getLogger("rostral.gcs.tls")


def server_context(files: TlsFiles) -> ssl.SSLContext | None:
    """For who listens; with a CA, every peer must show a certificate. None: no TLS is set up.

    Raises: ConfigError, TokenFileError.
    """
    if files.tls_certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _prepare(context, files)
    if files.tls_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext | None:
    """For who connects: trusts the CA alone. None: no TLS is set up.

    Raises: ConfigError, TokenFileError.
    """
    if files.tls_ca_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _prepare(context, files)
    return context


def _prepare(context: ssl.SSLContext, files: TlsFiles) -> None:
    secrets = files.load_tls()  # which refuses files that others may read
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if files.tls_certificate_file is not None:
            context.load_cert_chain(files.tls_certificate_file, files.tls_key_file)
        if secrets.ca is not None:
            context.load_verify_locations(cadata=secrets.ca.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"the TLS files of {files.tls_certificate_file or files.tls_ca_file} "
            f"cannot be used: {error}",
            hint="a certificate with its key, and the CA that signed it, all in PEM form",
        ) from error


class TlsContexts:
    """The contexts of a process that both listens and connects; made anew once a file changes.

    Ask for one for each connection: so a new certificate needs no restart.

    Raises: ConfigError, TokenFileError, when it is made.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = files.stamp()
        self._server, self._client = server_context(files), client_context(files)

    @property
    def is_mutual(self) -> bool:
        """Whether both sides show a certificate."""
        return self._files.is_mutual()

    def server(self) -> ssl.SSLContext | None:
        """As `server_context`; what was good before, while a new file cannot be used."""
        self._look()
        return self._server

    def client(self) -> ssl.SSLContext | None:
        """As `client_context`; what was good before, while a new file cannot be used."""
        self._look()
        return self._client

    def _look(self) -> None:
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._server, self._client = server_context(self._files), client_context(self._files)
        except GcsError as error:
            logger.error("the new TLS files are not used: %s", error)
