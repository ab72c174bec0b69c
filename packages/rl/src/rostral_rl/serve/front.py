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
    tls_certificate: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
    insecure: bool = False,
) -> PolicyServer:
    """Makes a policy server; `with rl.serve("cartpole/", http=8080): ...` serves from a thread.

    Args:
        policy: A policy, or where one lies: a folder of ours, an ONNX file, a zip of
            Stable-Baselines3; or several of these, by name.
        http: Port; 0 takes a free one, which `server.port` then tells.
        grpc: Port for gRPC beside it, `server.grpc_port`; none by default.
        slo_ms: Latency objective of a request; drives the batch size.
        host: Address to listen on; anything but loopback needs a token and TLS.
        token: Callers must present it.
        tls_certificate: PEM, this server's chain: serves HTTPS, and gRPC encrypted.
        tls_key: PEM, its key, of mode 0600 and ours.
        tls_ca: PEM: callers must show a certificate that it signed.
        insecure: Beyond loopback without TLS all the same.

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
        tls_certificate_file=_path(tls_certificate),
        tls_key_file=_path(tls_key),
        tls_ca_file=_path(tls_ca),
        insecure=insecure,
        engine=engine,
    )
    return PolicyServer(models, config)


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)


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
