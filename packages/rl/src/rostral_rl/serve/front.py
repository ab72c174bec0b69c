"""`rl.serve`: from policies, or the folders of some, to a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rostral_rl.serve.http import PolicyServer
    from rostral_rl.serve.servable import AnyServable

    Source: TypeAlias = AnyServable | str | os.PathLike[str]


def serve(
    policy: Source | Mapping[str, Source],
    *,
    http: int = 8080,
    slo_ms: float = 5.0,
    host: str = "127.0.0.1",
    token: str | None = None,
) -> PolicyServer:
    """Makes a policy server; `with rl.serve("cartpole/", http=8080): ...` serves from a thread.

    Args:
        policy: A policy, or the folder of one; or several, by name.
        http: Port; 0 takes a free one, which `server.port` then tells.
        slo_ms: Latency objective of a request; drives the batch size.
        host: Address to listen on; anything but loopback needs a token.
        token: Callers must present it.

    Raises:
        PolicyNotFoundError: There is no policy folder of that name.
        ModelRejectedError: A folder is damaged or of another format, or its policy cannot act.
        PortUnavailableError: The address is taken or not ours.
        MissingExtraError: The `serve` extra is not installed.
    """
    from rostral_rl.serve.batcher import BatchConfig
    from rostral_rl.serve.config import ServeConfig
    from rostral_rl.serve.engine import EngineConfig
    from rostral_rl.serve.http import PolicyServer
    from rostral_rl.serve.names import DEFAULT_MODEL

    sources = policy if isinstance(policy, Mapping) else {DEFAULT_MODEL: policy}
    models = {name: load(source) for name, source in sources.items()}
    engine = EngineConfig(batch=BatchConfig(slo_ms=slo_ms))
    return PolicyServer(models, ServeConfig(host=host, port=http, token=token, engine=engine))


def load(source: Source) -> AnyServable:
    """A policy as it is, or from its folder.

    Raises:
        PolicyNotFoundError: There is no policy folder of that name.
        ModelRejectedError: It is damaged, or of another format.
    """
    from rostral_rl.checkpoint import load_policy

    if isinstance(source, str | os.PathLike):
        return load_policy(source)
    return source
