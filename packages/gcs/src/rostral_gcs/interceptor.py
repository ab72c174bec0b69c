"""The serving side of tokens: every call is checked before its message is read.

This file owns one gRPC server interceptor, which the services of other packages use too. It knows
nothing of tables: what a call needs is told to it (``needs.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
import grpc.aio

from rostral_gcs.error_wire import abort_with
from rostral_gcs.errors import GcsError, UnauthenticatedError
from rostral_gcs.needs import Need, denied
from rostral_gcs.tokens import Grant, Scope, Tokens

__all__ = ["TokenInterceptor"]

logger = logging.getLogger("rostral.gcs.interceptor")

_PREFIX: Final = "Bearer "
# A stranger must not be able to fill the disk with our log.
_LOG_INTERVAL_S: Final = 1.0
# Tells only whether the server serves, and those who ask have no token.
_OPEN: Final = "/grpc.health.v1.Health/"
_NODE: Final = Need(Scope.NODE)


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,type-arg,unused-ignore]
    """Refuses each call whose metadata lacks a token of the cluster, as UNAUTHENTICATED.

    One whose token is not good for the call is refused as PERMISSION_DENIED.

    The standard health service alone is open, where a server has one.

    Args:
        tokens: The cluster's.
        needs: What calls need, by the name of the method; any other needs a node's token.

    Attributes:
        refused: Calls refused so far.
    """

    def __init__(self, tokens: str | Tokens, needs: Mapping[str, Need] | None = None) -> None:
        self._tokens = Tokens.of(tokens)
        self._needs = needs or {}
        self.refused = 0
        self._logged_at_s = -_LOG_INTERVAL_S

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Lets the call through or answers it."""
        if handler_call_details.method.startswith(_OPEN):
            return await continuation(handler_call_details)
        grant = self._grant(handler_call_details.invocation_metadata or ())
        if grant is None:
            return self._refusal(
                UnauthenticatedError(
                    "the call carries no token or the wrong one",
                    hint="use the token file that the server was started with",
                )
            )
        method = str(handler_call_details.method).rpartition("/")[2]
        need = self._needs.get(method, _NODE)
        if grant.scope < need.scope:
            return self._refusal(denied(method, need.scope, grant))
        handler = await continuation(handler_call_details)
        if handler is None or need.of_request is None or grant.scope is Scope.NODE:
            return handler
        return self._checked(handler, method, need.of_request, grant)

    def _grant(self, metadata: Any) -> Grant | None:
        for name, value in metadata:
            if name == "authorization":
                is_ours = isinstance(value, str) and value.startswith(_PREFIX)
                return self._tokens.find(value.removeprefix(_PREFIX)) if is_ours else None
        return None

    def _checked(
        self, handler: Any, method: str, of_request: Callable[[Any], Scope], grant: Grant
    ) -> Any:
        """The handler of a call with one message, which is looked at first."""

        async def check(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            needed = of_request(request)
            if grant.scope < needed:
                self._count(context.peer())
                await abort_with(context, denied(method, needed, grant))
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            check,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _refusal(self, error: GcsError) -> Any:
        async def refuse(
            requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[bytes]:
            self._count(context.peer())
            if not context.done():
                await abort_with(context, error)
            yield b""  # Makes this a generator, as grpc wants for a stream; never reached.

        # A stream handler whatever the method's kind: it answers before the message is read, so a
        # stranger cannot make us take in up to message_size_max bytes.
        return grpc.stream_stream_rpc_method_handler(refuse)

    def _count(self, peer: str) -> None:
        self.refused += 1
        now_s = time.monotonic()
        if now_s - self._logged_at_s >= _LOG_INTERVAL_S:
            self._logged_at_s = now_s
            logger.warning("refused a call for its token peer=%s refused=%s", peer, self.refused)
