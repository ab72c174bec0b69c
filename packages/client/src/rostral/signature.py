"""The check of a call's arguments on the caller's side, before anything is sent."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_UNLIMITED = 1 << 30
_ANYTHING = inspect.Signature(
    [
        inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
    ]
)


class Signature:
    """What a function takes; fast for the calls that are plainly right.

    Args:
        function: The function. One that says nothing of its parameters takes anything.
        drop_first: Whether its first parameter is `self`, which a caller does not give.
    """

    __slots__ = ("_is_simple", "_least", "_most", "_signature")

    def __init__(self, function: Callable[..., Any], *, drop_first: bool = False) -> None:
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            signature, drop_first = _ANYTHING, False
        parameters = list(signature.parameters.values())
        # `def __init__(*args)` takes self among the others.
        if drop_first and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            parameters = parameters[1:]
        self._signature = signature.replace(parameters=parameters)
        positional = [
            p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        self._least = sum(p.default is p.empty for p in positional)
        self._most = len(positional)
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            self._most = _UNLIMITED
        self._is_simple = not any(
            p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters
        )

    def check(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises TypeError, as calling the function here would."""
        if not kwargs and self._is_simple and self._least <= len(args) <= self._most:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None
