"""TLS for servers that are given one context for all connections, such as those of HTTP.

Owns that such a context follows its files: each handshake is made with what they hold by then, so a
new certificate or authority needs no restart. The contexts themselves are made in ``tls.py``.
"""

from __future__ import annotations

import ssl

from rostral_gcs.credentials import TlsFiles
from rostral_gcs.tls import TlsContexts

__all__ = ["following_context"]


def following_context(files: TlsFiles) -> ssl.SSLContext | None:
    """For who listens, TLS 1.3 alone; with a CA, every peer must show a certificate of it.

    None: no TLS is set up.

    Raises:
        ConfigError: The files cannot be used.
        TokenFileError: The key's file is not ours alone.
    """
    contexts = TlsContexts(files)
    context = contexts.server()
    if context is None:
        return None

    def follow(peer: ssl.SSLObject, _name: str | None, first: ssl.SSLContext) -> None:
        now = contexts.server()
        if now is not None and now is not first:
            peer.context = now

    # Called in each handshake, with a name or none.
    context.sni_callback = follow
    return context
