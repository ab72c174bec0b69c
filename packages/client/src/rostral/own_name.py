"""The name of an actor's class inside of its own methods.

`@remote` binds a class's name to an ActorClass, so `super(A, self)` in a method of A would be given
no class. In the process of an actor the name means the class itself again, with `remote` and
`options` on it, so that `A.remote()` goes on working there. Only classes that say `super` are
touched.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any, TypeGuard

from rostral.actor import ActorClass

__all__ = ["bind_own_name"]


def bind_own_name(cls: type) -> None:
    """Makes methods of the class, and of its bases, that say `super` see classes by their names."""
    for base in cls.__mro__:
        for function in _functions(base):
            if "super" in function.__code__.co_names:
                _bind(function, base)


def _functions(cls: type) -> Iterator[FunctionType]:
    for member in list(vars(cls).values()):
        plain = member.fget if isinstance(member, property) else inspect.unwrap(_inner(member))
        if isinstance(plain, FunctionType):
            yield plain


def _inner(member: Any) -> Any:
    return member.__func__ if isinstance(member, staticmethod | classmethod) else member


def _bind(function: FunctionType, cls: type) -> None:
    for name in function.__code__.co_names:
        found = function.__globals__.get(name)
        if _is_of(found, cls):
            function.__globals__[name] = _with_remote(cls, found)
    for cell in function.__closure__ or ():
        try:
            found = cell.cell_contents
        except ValueError:  # A name that has no value yet.
            continue
        if _is_of(found, cls):
            cell.cell_contents = _with_remote(cls, found)


def _is_of(found: Any, cls: type) -> TypeGuard[ActorClass[..., Any]]:
    # By what it is called: the class within the ActorClass may be another copy of the same.
    return isinstance(found, ActorClass) and found._cls.__qualname__ == cls.__qualname__


def _with_remote(cls: type, actor_class: ActorClass[..., Any]) -> type:
    for name in ("remote", "options"):
        if not hasattr(cls, name):
            setattr(cls, name, staticmethod(getattr(actor_class, name)))
    return cls
