"""Who may ask a policy server for what: one rule for its HTTP and its gRPC front.

Looking at the server (its policies, its metrics) needs a token of scope `read`; acting, which takes
the server's time and a session's memory, one of scope `driver`. A token that says no scope is good
for both.
"""

from __future__ import annotations

import logging
import time

from rostral.services import Scope, Tokens
from rostral_rl.errors import PermissionDeniedError, UnauthenticatedError

__all__ = ["Access", "Scope"]

logger = logging.getLogger("rostral.rl.serve")

_PREFIX = "Bearer "
# A stranger must not be able to fill the disk with our log.
_LOG_INTERVAL_S = 1.0


class Access:
    """Checks what callers show.

    Args:
        tokens: The valid ones; one text that never changes; None: nobody shows any.

    Attributes:
        refused: Requests turned away so far.
    """

    def __init__(self, tokens: str | Tokens | None) -> None:
        self._tokens = None if tokens is None else Tokens.of(tokens)
        self.refused = 0
        self._logged_at_s = -_LOG_INTERVAL_S

    def check(self, authorization: str | None, scope: Scope, *, peer: str) -> None:
        """Returns if the caller may.

        Args:
            authorization: What the header of that name says; None: there is none, or several.
            scope: What is asked for needs.
            peer: Who asks, for the log.

        Raises:
            UnauthenticatedError: No token, or none that is valid.
            PermissionDeniedError: One that is not good for this.
        """
        if self._tokens is None:
            return
        shown = authorization or ""
        given = shown.removeprefix(_PREFIX) if shown.startswith(_PREFIX) else ""
        grant = self._tokens.find(given)
        if grant is None:
            self._count(peer)
            raise UnauthenticatedError(
                "the token is missing or wrong", hint="Authorization: Bearer <token>"
            )
        if grant.scope < scope:
            self._count(peer)
            raise PermissionDeniedError(
                f"this needs a token of scope {scope.name.lower()}; yours is of scope "
                f"{grant.scope.name.lower()}",
                hint="ask whoever runs the server for one: rostral token create",
            )

    def _count(self, peer: str) -> None:
        self.refused += 1
        now_s = time.monotonic()
        if now_s - self._logged_at_s >= _LOG_INTERVAL_S:
            self._logged_at_s = now_s
            logger.warning("refused a request for its token peer=%s refused=%s", peer, self.refused)
