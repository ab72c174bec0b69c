"""What a token must be good for, by call: the GCS's table.

A method that is not named needs a node's token, so what is added is closed until it is thought of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rostral_gcs.errors import PermissionDeniedError
from rostral_gcs.tokens import Grant, Scope

__all__ = ["GCS_NEEDS", "Need", "denied"]

# Rows of the key-value table that are the cluster's own: whoever writes them is believed.
_OWN_NAMESPACES: Final = b"rostral."


@dataclass(frozen=True, slots=True)
class Need:
    """What a call needs.

    Attributes:
        scope: At least.
        of_request: What this very request needs beside that; None if that is all.
    """

    scope: Scope
    of_request: Callable[[Any], Scope] | None = None


def denied(method: str, needed: Scope, grant: Grant) -> PermissionDeniedError:
    """What the holder of a token is told that is not good for the call."""
    return PermissionDeniedError(
        f"{method} needs a token of scope {needed.name.lower()}; this one is of scope "
        f"{grant.scope.name.lower()}",
        hint="ask whoever runs the cluster for one: rostral token create",
    )


def _of_write(request: Any) -> Scope:
    if request.HasField("writer"):
        return Scope.NODE
    is_own = any(
        op.table == "nodes" or (op.table == "kv" and op.key.startswith(_OWN_NAMESPACES))
        for op in request.ops
    )
    return Scope.NODE if is_own else Scope.DRIVER


def _of_columns(request: Any) -> Scope:
    is_own = request.HasField("writer") or request.table in ("nodes", "kv")
    return Scope.NODE if is_own else Scope.DRIVER


GCS_NEEDS: Final[Mapping[str, Need]] = {
    "Hello": Need(Scope.READ),
    "Read": Need(Scope.READ),
    "Scan": Need(Scope.READ),
    "Query": Need(Scope.READ),
    "Watch": Need(Scope.READ),
    "Write": Need(Scope.DRIVER, _of_write),
    "WriteColumns": Need(Scope.DRIVER, _of_columns),
}
