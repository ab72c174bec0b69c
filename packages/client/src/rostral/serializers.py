"""Serializers that users register for their own classes, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

# What a pickler calls for an instance, by class.
REGISTERED: dict[type, Callable[[Any], tuple[Any, ...]]] = {}


def register_serializer(
    cls: type[T], *, serializer: Callable[[T], Any], deserializer: Callable[[Any], T]
) -> None:
    """How instances of a class are taken apart here, and put together again elsewhere.

    Holds in this process alone: a task that returns such instances registers it too. Subclasses are
    not meant. The deserializer travels with each instance. Registering again replaces.

    Args:
        cls: The class; not one of Python's own simple types.
        serializer: Makes of an instance what can be pickled.
        deserializer: Makes an instance of that again.

    Raises: TypeError.
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_serializer() takes a class, not {type(cls).__name__}")
    if cls.__module__ == "builtins":
        raise TypeError(f"{cls.__name__} is a type of Python's own, which keeps its pickle")
    for name, function in (("serializer", serializer), ("deserializer", deserializer)):
        if not callable(function):
            raise TypeError(f"{name} must be callable, not {type(function).__name__}")
    REGISTERED[cls] = lambda instance: (deserializer, (serializer(instance),))


def deregister_serializer(cls: type) -> None:
    """Back to the class's own way. Nothing happens if none was registered."""
    REGISTERED.pop(cls, None)
