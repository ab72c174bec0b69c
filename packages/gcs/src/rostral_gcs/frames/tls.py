"""TLS on plain sockets, from the same files as gRPC's (``channels.py``), and TLS 1.3 alone.

This file owns making contexts of files, and noticing that a server's files have changed.
"""

from __future__ import annotations

import logging
import ssl

from rostral_gcs.credentials import TlsFiles
from rostral_gcs.errors import ConfigError, GcsError

__all__ = ["ServerTls", "client_context", "server_context"]

logger = logging.getLogger("rostral.gcs.frames")


def server_context(files: TlsFiles) -> ssl.SSLContext | None:
    """For who listens; with a CA, every peer must show a certificate. None: no TLS is set up.

    Raises:
        ConfigError: A file cannot be read or used.
        TokenFileError: The key's file is not ours alone.
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

    Raises:
        ConfigError: A file cannot be read or used.
        TokenFileError: The key's file is not ours alone.
    """
    if files.tls_ca_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _prepare(context, files)
    return context


class ServerTls:
    """A server's context, made anew when its files have changed. Ask it for each connection.

    Raises:
        ConfigError, TokenFileError: As ``server_context``, at making; later it keeps what it has.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = files.stamp()
        self._context = server_context(files)

    def context(self) -> ssl.SSLContext | None:
        """What the next connection is to be encrypted with; None: plain."""
        if self._context is not None:
            stamp = self._files.stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._context = server_context(self._files)
                except GcsError as error:
                    logger.error("the new TLS files are not used: %s", error)
        return self._context


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
            f"the TLS files of {files.tls_certificate_file or files.tls_ca_file} cannot be used: "
            f"{error}",
            hint="a certificate with its key, and the CA that signed it, all in PEM form",
        ) from error
