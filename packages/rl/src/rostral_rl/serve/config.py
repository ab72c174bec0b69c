"""The settings of one policy server, with their units, defaults and reasons.

No web framework is imported here: settings are looked at where none is needed.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from rostral_rl.errors import InvalidSettingError
from rostral_rl.serve.engine import EngineConfig

__all__ = ["ServeConfig", "is_loopback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of one policy server.

    Attributes:
        host: Address to listen on.
        port: 0 takes a free one.
        grpc_port: Where gRPC is answered too, with the `grpc` extra: 0 takes a free one, -1, the
            default, answers none.
        token: Where given, every call but the two probes must carry `Authorization: Bearer
            <token>`.
        body_bytes_max: A longer body is refused before it is read.
        connections_max: Requests under way at once; one beyond is answered 503 by Uvicorn.
        hosts: What `Host` may say, without port. By default what loopback is called, and any
            where we listen elsewhere: there a token keeps pages of other sites out.
        engine: Limits of the engine.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int = -1
    token: str | None = field(default=None, repr=False)
    body_bytes_max: int = 8 << 20
    connections_max: int = 4096
    hosts: tuple[str, ...] = ()
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise InvalidSettingError(f"port must lie in 0..65535, got {self.port!r}")
        if not -1 <= self.grpc_port < 65536:
            raise InvalidSettingError(f"grpc_port must lie in -1..65535, got {self.grpc_port!r}")
        if self.token is None and not is_loopback(self.host):
            raise InvalidSettingError(
                f"refusing to listen on {self.host} without a token",
                hint="listen on 127.0.0.1, or give a token",
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
