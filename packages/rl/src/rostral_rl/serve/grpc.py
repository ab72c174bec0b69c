"""The gRPC front of the policy server: the same engine, on the same event loop as HTTP.

Needs the `grpc` extra. The messages are those of `rostral_rl/_proto/policy.proto`.
"""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import grpc

from rostral.exceptions import RostralError
from rostral.grpc_services import add_port
from rostral.services import TlsFiles
from rostral_rl._proto import policy_pb2, policy_pb2_grpc
from rostral_rl.errors import (
    DeadlineError,
    NotServedError,
    OverloadedError,
    PermissionDeniedError,
    PortUnavailableError,
    RequestError,
    ShapeError,
    TooLargeError,
    UnauthenticatedError,
)
from rostral_rl.serve import wire
from rostral_rl.serve.access import Access, Scope
from rostral_rl.serve.engine import Engine
from rostral_rl.serve.names import DEFAULT_MODEL

__all__ = ["GrpcFront", "from_tensor", "to_tensor"]

logger = logging.getLogger("rostral.rl.serve")

CODES: tuple[tuple[type[RostralError], grpc.StatusCode], ...] = (
    (UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (NotServedError, grpc.StatusCode.NOT_FOUND),
    (TooLargeError, grpc.StatusCode.INVALID_ARGUMENT),
    (ShapeError, grpc.StatusCode.INVALID_ARGUMENT),
    (RequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
)
"""First match counts; an error of no such class is our bug, and its text stays in the log."""


def to_tensor(array: Any) -> policy_pb2.Tensor:
    """An array as a message."""
    return policy_pb2.Tensor(dtype=str(array.dtype), shape=array.shape, data=array.tobytes())


def from_tensor(tensor: policy_pb2.Tensor) -> Any:
    """The array of a message; a read-only view of it.

    Raises:
        ShapeError: The message contradicts itself.
    """
    return wire.array_of(tensor.data, tensor.dtype, tuple(tensor.shape))


class GrpcFront:
    """A gRPC server on the running event loop.

    Args:
        engine: Answers; closed by who made it.
        host: Address to listen on.
        port: A free one, which `reserve` found.
        access: Says who may ask for what.
        tls: Of this server; its files are read again for each connection once they have changed.
        body_bytes_max: A longer message is refused.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        host: str,
        port: int,
        access: Access,
        tls: TlsFiles,
        body_bytes_max: int,
    ) -> None:
        self._tls = tls
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        options = (
            ("grpc.max_receive_message_length", body_bytes_max),
            # Two servers on one port would each get some of the requests.
            ("grpc.so_reuseport", 0),
        )
        self._server = grpc.aio.server(options=options)
        add: Any = policy_pb2_grpc.add_PolicyServicer_to_server  # Generated, and untyped.
        add(_Servicer(engine, access), self._server)

    async def start(self) -> None:
        """Listens.

        Raises:
            PortUnavailableError: Somebody else does by now.
        """
        try:
            add_port(self._server, self._address, self._tls)
        except RuntimeError as error:
            raise PortUnavailableError(f"cannot listen on {self._address}") from error
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Finishes what is under way, for so long."""
        await self._server.stop(grace_s)


class _Servicer(policy_pb2_grpc.PolicyServicer):
    """The two calls."""

    def __init__(self, engine: Engine, access: Access) -> None:
        self._engine = engine
        self._access = access

    async def Act(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        """See the service."""
        try:
            self._authorise(context)
            reply = await self._engine.act(
                from_tensor(request.obs),
                model=request.model or DEFAULT_MODEL,
                version=request.version if request.HasField("version") else None,
                session=request.session or None,
                reset=request.reset,
                deadline_s=context.time_remaining(),
            )
        except Exception as error:
            await _refuse(context, error)
        return policy_pb2.ActReply(action=to_tensor(reply.actions), version=reply.version)

    async def EndSession(self, request: Any, context: Any) -> Any:  # noqa: N802 - likewise
        """See the service."""
        try:
            self._authorise(context)
            model = request.model or DEFAULT_MODEL
            if not self._engine.end_session(request.session, model=model):
                raise NotServedError(f"no session {request.session[:80]!r}")
        except Exception as error:
            await _refuse(context, error)
        return policy_pb2.EndSessionReply()

    def _authorise(self, context: Any) -> None:
        given = [value for key, value in context.invocation_metadata() if key == "authorization"]
        shown = str(given[0]) if len(given) == 1 else None
        self._access.check(shown, Scope.DRIVER, peer=context.peer())


async def _refuse(context: Any, error: Exception) -> NoReturn:
    """Ends the call with the error's code."""
    code = next((code for kind, code in CODES if isinstance(error, kind)), None)
    if code is None or not isinstance(error, RostralError):
        logger.error("a request failed", exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, "the policy failed; see the server's log")
        raise AssertionError("abort raises") from error
    trailing = [("rostral-code", error.code or "INTERNAL")]
    if isinstance(error, OverloadedError):
        trailing.append(("retry-after-s", f"{error.retry_after_s:.3f}"))
    text = error.message if error.hint is None else f"{error.message}; {error.hint}"
    await context.abort(code, text, tuple(trailing))
    raise AssertionError("abort raises") from error
