"""Answers observations with actions, in batches. No torch; Starlette and Uvicorn for HTTP alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rostral_rl.policy import Policy
    from rostral_rl.serve.http import PolicyServer

__all__ = ["serve"]


def serve(
    policy: Policy | str | os.PathLike[str],
    *,
    http: int = 8080,
    slo_ms: float = 5.0,
    host: str = "127.0.0.1",
    token: str | None = None,
) -> PolicyServer:
    """Makes a policy server; `with rl.serve("cartpole/", http=8080): ...` serves from a thread.

    Args:
        policy: A policy, or the folder of one.
        http: Port; 0 takes a free one, which `server.port` then tells.
        slo_ms: Latency objective of a forward pass; drives the batch size.
        host: Address to listen on; anything but loopback needs a token.
        token: Callers must present it.

    Raises:
        PolicyNotFoundError, PolicyCorruptError, PolicyFormatError: The folder cannot be loaded.
        PortUnavailableError: The address is taken or not ours.
        MissingExtraError: The `serve` extra is not installed.
    """
    from rostral_rl.checkpoint import load_policy
    from rostral_rl.policy import Policy
    from rostral_rl.serve.batcher import BatchConfig
    from rostral_rl.serve.http import PolicyServer, ServeConfig

    loaded = policy if isinstance(policy, Policy) else load_policy(policy)
    config = ServeConfig(host=host, port=http, token=token, batch=BatchConfig(slo_ms=slo_ms))
    return PolicyServer(loaded, config)
