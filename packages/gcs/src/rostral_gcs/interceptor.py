"""The serving side of the token: every call is checked before its message is read.

This file owns one gRPC server interceptor, which the services of other packages use too. It knows
nothing of tables.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from rostral_gcs.auth import tokens_match
from rostral_gcs.error_wire import abort_with
from rostral_gcs.errors import UnauthenticatedError

__all__ = ["TokenInterceptor"]

logger = logging.getLogger("rostral.gcs.interceptor")

_PREFIX = "Bearer "
# A stranger must not be able to fill the disk with our log.
_LOG_INTERVAL_S = 1.0
# Tells only whether the server serves, and those who ask have no token.
_OPEN = "/grpc.health.v1.Health/"


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,type-arg,unused-ignore]
    """Refuses each call whose metadata lacks the cluster token, as UNAUTHENTICATED.

    The standard health service alone is open, where a server has one.

    Args:
        token: The cluster token.

    Attributes:
        refused: Calls refused so far.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self.refused = 0
        self._logged_at_s = -_LOG_INTERVAL_S

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Lets the call through or answers it."""
        if handler_call_details.method.startswith(_OPEN):
            return await continuation(handler_call_details)
        for name, value in handler_call_details.invocation_metadata or ():
            if name == "authorization" and isinstance(value, str) and value.startswith(_PREFIX):
                if tokens_match(value.removeprefix(_PREFIX), self._token):
                    return await continuation(handler_call_details)
                break
        # A stream handler whatever the method's kind: it answers before the message is read, so a
        # stranger cannot make us take in up to message_size_max bytes.
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _refuse(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        self._count(context.peer())
        error = UnauthenticatedError(
            "the call carries no token or the wrong one",
            hint="use the token file that the server was started with",
        )
        if not context.done():
            await abort_with(context, error)
        yield b""  # Makes this a generator, as grpc wants for a stream; never reached.

    def _count(self, peer: str) -> None:
        self.refused += 1
        now_s = time.monotonic()
        if now_s - self._logged_at_s >= _LOG_INTERVAL_S:
            self._logged_at_s = now_s
            logger.warning(
                "refused a call without the cluster token peer=%s refused=%s", peer, self.refused
            )
