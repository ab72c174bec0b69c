"""TLS on the sockets of byte streams, from the same files as Flight's."""

from __future__ import annotations

import ssl

from rostral_gcs.errors import ConfigError
from rostral_objectstore.transfer.credentials import Credentials


def server_context(credentials: Credentials) -> ssl.SSLContext | None:
    """For who listens; with a CA, every peer must show a certificate. None: no TLS is set up.

    Raises: ConfigError, TokenFileError.
    """
    if credentials.tls_certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _prepare(context, credentials)
    if credentials.tls_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(credentials: Credentials) -> ssl.SSLContext | None:
    """For who connects: trusts the CA alone. None: no TLS is set up.

    Raises: ConfigError, TokenFileError.
    """
    if credentials.tls_ca_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _prepare(context, credentials)
    return context


def _prepare(context: ssl.SSLContext, credentials: Credentials) -> None:
    secrets = credentials.load()  # which refuses files that others may read
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if credentials.tls_certificate_file is not None:
            context.load_cert_chain(credentials.tls_certificate_file, credentials.tls_key_file)
        if secrets.ca is not None:
            context.load_verify_locations(cadata=secrets.ca.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"the TLS files of {credentials.tls_certificate_file or credentials.tls_ca_file} "
            f"cannot be used: {error}",
            hint="a certificate with its key, and the CA that signed it, all in PEM form",
        ) from error
