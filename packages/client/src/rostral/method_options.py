"""`method`: what the methods of an actor class say about their calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, Unpack, overload

from rostral.exceptions import UnknownMethodOptionError
from rostral.options import MethodKeywords, MethodOptions, changed

F = TypeVar("F", bound=Callable[..., Any])


@overload
def method(*, num_returns: int | str, **options: Unpack[MethodKeywords]) -> Callable[[F], F]: ...
@overload
def method(**options: Unpack[MethodKeywords]) -> Callable[[F], F]: ...
def method(**options: Any) -> Callable[[F], F]:
    """Decorates a method of an actor class with options: how it is called unless a call says else.

    Raises:
        UnknownMethodOptionError: No such option, or none at all (an AssertionError, as in Ray).
        TypeError: An option of the wrong type.
        ValueError: An option out of range.
    """
    known = [field.name for field in dataclasses.fields(MethodOptions)]
    for name in options:
        if name not in known:
            raise UnknownMethodOptionError.unknown(name, known)
    if not options:
        raise UnknownMethodOptionError(
            "@method was given no options", hint="options are " + ", ".join(known)
        )
    checked = changed(MethodOptions(), options)

    def decorate(function: F) -> F:
        function.__rostral_method__ = checked  # type: ignore[attr-defined]
        return function

    return decorate
