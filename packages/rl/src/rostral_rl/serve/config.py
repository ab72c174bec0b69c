"""The settings of one policy server, with their units, defaults and reasons.

No web framework is imported here: settings are looked at where none is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rostral.services import TlsFiles, Tokens, is_loopback, tls_files
from rostral_rl.errors import InvalidSettingError
from rostral_rl.serve.engine import EngineConfig

__all__ = ["ServeConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of one policy server.

    Attributes:
        host: Address to listen on.
        port: 0 takes a free one.
        grpc_port: Where gRPC is answered too, with the `grpc` extra: 0 takes a free one, -1, the
            default, answers none.
        token: Where given, every call but the two probes must carry `Authorization: Bearer
            <token>`. A `Tokens` may hold several, of scopes `read` and `driver`, and changes with
            its file.
        tls_certificate_file: PEM, this server's chain: with it HTTP is HTTPS, and gRPC encrypted
            too. Its files are read again once they change.
        tls_key_file: PEM, the certificate's key, of mode 0600 and ours.
        tls_ca_file: PEM: every caller must show a certificate that it signed.
        insecure: Listens beyond loopback without TLS: whoever sees the traffic sees the token.
        body_bytes_max: A longer body is refused before it is read.
        connections_max: Requests under way at once; one beyond is answered 503 by Uvicorn.
        hosts: What `Host` may say, without port. By default what loopback is called, and any
            where we listen elsewhere: there a token keeps pages of other sites out.
        engine: Limits of the engine.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int = -1
    token: str | Tokens | None = field(default=None, repr=False)
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    tls_ca_file: Path | None = None
    insecure: bool = False
    body_bytes_max: int = 8 << 20
    connections_max: int = 4096
    hosts: tuple[str, ...] = ()
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise InvalidSettingError(f"port must lie in 0..65535, got {self.port!r}")
        if not -1 <= self.grpc_port < 65536:
            raise InvalidSettingError(f"grpc_port must lie in -1..65535, got {self.grpc_port!r}")
        if problems := self.tls.problems():
            raise InvalidSettingError("; ".join(problems))
        if self.tls_ca_file is not None and self.tls_certificate_file is None:
            raise InvalidSettingError(
                "tls_ca_file: callers show certificates only to a server with TLS",
                hint="give tls_certificate_file and tls_key_file too",
            )
        if is_loopback(self.host):
            return
        if self.token is None:
            raise InvalidSettingError(
                f"refusing to listen on {self.host} without a token",
                hint="listen on 127.0.0.1, or give a token",
            )
        if self.tls_certificate_file is None and not self.insecure:
            raise InvalidSettingError(
                f"refusing to listen on {self.host} without TLS",
                hint="give tls_certificate_file and tls_key_file (rostral certs makes them), "
                "listen on 127.0.0.1, or say --insecure if the network is trusted",
            )

    @property
    def tls(self) -> TlsFiles:
        """The files of this server's TLS."""
        return tls_files(self.tls_certificate_file, self.tls_key_file, self.tls_ca_file)
