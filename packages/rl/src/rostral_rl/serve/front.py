"""`rl.serve`: from policies, or the folders of some, to a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rostral_rl.errors import ModelRejectedError

if TYPE_CHECKING:
    from rostral_rl.serve.http import PolicyServer
    from rostral_rl.serve.servable import AnyServable

    Source: TypeAlias = AnyServable | str | os.PathLike[str]


def serve(
    policy: Source | Mapping[str, Source],
    *,
    http: int = 8080,
    grpc: int | None = None,
    slo_ms: float = 5.0,
    host: str = "127.0.0.1",
    token: str | None = None,
) -> PolicyServer:
    """Makes a policy server; `with rl.serve("cartpole/", http=8080): ...` serves from a thread.

    Args:
        policy: A policy, or where one lies: a folder of ours, an ONNX file, a zip of
            Stable-Baselines3; or several of these, by name.
        http: Port; 0 takes a free one, which `server.port` then tells.
        grpc: Port for gRPC beside it, `server.grpc_port`; none by default.
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
    config = ServeConfig(
        host=host,
        port=http,
        grpc_port=-1 if grpc is None else grpc,
        token=token,
        engine=engine,
    )
    return PolicyServer(models, config)


def load(source: Source) -> AnyServable:
    """A policy as it is, or from a folder of ours, an ONNX file or a zip of Stable-Baselines3.

    Raises:
        PolicyNotFoundError: There is no such folder or file.
        ModelRejectedError: It is damaged, of another format, or would have to be unpickled.
        MissingExtraError: An ONNX file, without the `onnx` extra.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    match Path(source).suffix:
        case ".onnx":
            from rostral_rl.serve.onnx import load_onnx

            return load_onnx(source)
        case ".zip":
            from rostral_rl.serve.sb3 import load_sb3

            return load_sb3(source)
        case ".pkl" | ".pickle" | ".pt" | ".pth":
            raise ModelRejectedError(
                f"{os.fspath(source)} would have to be unpickled, which runs whatever it holds",
                hint="save a policy folder, or export it as ONNX",
            )
        case _:
            from rostral_rl.checkpoint import load_policy

            return load_policy(source)
