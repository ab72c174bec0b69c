"""The payload of a task: its arguments on their way from the caller to the worker.

A payload is one tag byte, the number of values that the worker must fetch, and a pickle. References
among the arguments travel as dependencies of the task and are put back in their places by the
worker, as values; references inside other values stay references. Large arguments become objects of
their own, so a payload stays small enough to be copied.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rostral.exceptions import NotPicklableError
from rostral.object_ref import CollectedRefs, ObjectRef
from rostral.serialization import SCALARS, dumps, first_unpicklable

# Above this an argument is put into the store: copied once, and read in place by the worker.
INLINE_BYTES_MAX = 100 << 10

EMPTY = b"E"
PLAIN = b"P"  # pickle of (args, kwargs)
# pickle of (args, kwargs, places): dependency i belongs at places[i], a position or a keyword
PLACED = b"D"
STORED = b"S"  # the PLAIN or PLACED payload is itself the value of the last dependency


COUNT = struct.Struct("<cI")


class Arguments(NamedTuple):
    """Arguments ready to be submitted."""

    payload: bytes
    dependencies: list[ObjectRef[Any]]
    nested: list[ObjectRef[Any]]


PLAIN_HEAD = COUNT.pack(PLAIN, 0)
NO_ARGUMENTS = Arguments(EMPTY, [], [])


def _is_large(value: object) -> bool:
    if isinstance(value, bytes | str):
        return len(value) > INLINE_BYTES_MAX
    size = getattr(value, "nbytes", 0)
    return type(size) is int and size > INLINE_BYTES_MAX


def encode(
    args: tuple[Any, ...], kwargs: dict[str, Any], put: Callable[[Any], ObjectRef[Any]]
) -> Arguments:
    """Packs the arguments of a call. `put` stores a value. Raises NotPicklableError."""
    if not kwargs:
        if not args:
            return NO_ARGUMENTS
        for value in args:
            if type(value) not in SCALARS:
                break
        else:
            # The commonest call by far: nothing in it to look for, nothing to go wrong.
            payload = PLAIN_HEAD + pickle.dumps((args, kwargs), 5)
            if len(payload) <= INLINE_BYTES_MAX:
                return Arguments(payload, [], [])
    dependencies: list[ObjectRef[Any]] = []
    places: list[int | str] = []
    placed_args: Sequence[Any] = args
    for index, value in enumerate(args):
        if isinstance(value, ObjectRef) or _is_large(value):
            if placed_args is args:
                placed_args = list(args)
            dependencies.append(value if isinstance(value, ObjectRef) else put(value))
            places.append(index)
            placed_args[index] = None  # type: ignore[index]
    placed_kwargs = kwargs
    for key, value in kwargs.items():
        if isinstance(value, ObjectRef) or _is_large(value):
            if placed_kwargs is kwargs:
                placed_kwargs = dict(kwargs)
            dependencies.append(value if isinstance(value, ObjectRef) else put(value))
            places.append(key)
            placed_kwargs[key] = None
    try:
        with CollectedRefs() as nested:
            if places:
                pickled = dumps((placed_args, placed_kwargs, places))
                payload = COUNT.pack(PLACED, len(places)) + pickled
            else:
                payload = PLAIN_HEAD + dumps((args, kwargs))
    except NotPicklableError as error:
        raise _naming_the_argument(error, placed_args, placed_kwargs) from error
    if len(payload) > INLINE_BYTES_MAX:
        dependencies.append(put(payload))
        payload = COUNT.pack(STORED, len(dependencies))
    return Arguments(payload, dependencies, nested)


def _naming_the_argument(
    error: NotPicklableError, args: Sequence[Any], kwargs: dict[str, Any]
) -> NotPicklableError:
    named = [(f"argument {index}", value) for index, value in enumerate(args)]
    culprit = first_unpicklable(
        [*named, *((f"argument {key!r}", value) for key, value in kwargs.items())]
    )
    if culprit is None:
        return error
    return NotPicklableError(
        f"{culprit} cannot be pickled: {error.reason}", hint=error.hint, reason=error.reason
    )


def value_count(payload: bytes) -> int:
    """How many of a task's dependencies, the first ones, are values; the others are only kept."""
    return 0 if payload == EMPTY else int(COUNT.unpack_from(payload)[1])


def decode(payload: bytes, values: list[Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    """The arguments of a call; `values` are those of its dependencies, in order."""
    if payload == EMPTY:
        return (), {}
    if payload[:1] == STORED:
        payload = values.pop()
    loaded = pickle.loads(memoryview(payload)[COUNT.size :])
    if payload[:1] == PLAIN:
        args, kwargs = loaded
        return args, kwargs
    args, kwargs, places = loaded
    args = list(args)
    for place, value in zip(places, values, strict=True):
        if type(place) is int:
            args[place] = value
        else:
            kwargs[place] = value
    return args, kwargs
