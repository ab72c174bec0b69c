"""What in a value, or in a function's closure, is to blame when it cannot be pickled."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator

from rostral.exceptions import NotPicklableError
from rostral.serialization import first_unpicklable

# How far into a value the report of an error looks, and how many parts it names.
REPORT_DEPTH = 3
REPORT_PARTS_MAX = 5


def captured(code: object) -> Iterator[tuple[str, object]]:
    """What a function, or the methods of a class, take along from where they are defined."""
    if isinstance(code, tuple):
        for part in code:
            yield from captured(part)
    elif inspect.isclass(code):
        for name, member in vars(code).items():
            if inspect.isfunction(member):
                yield from captured(member)
            elif not name.startswith("__"):
                yield f"{code.__qualname__}.{name}", member
    elif inspect.isfunction(code):
        variables = inspect.getclosurevars(code)
        yield from variables.nonlocals.items()
        yield from variables.globals.items()
        for parameter in inspect.signature(code).parameters.values():
            if parameter.default is not parameter.empty:
                yield f"the default of {parameter.name}", parameter.default


def parts_of(value: object, path: str) -> Iterator[tuple[str, object]]:
    """What a value is made of, each part with the way to it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"a key of {path}", key
            yield f"{path}[{key!r:.40}]", item
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item
    elif isinstance(value, set | frozenset):
        for item in value:
            yield f"an item of {path}", item
    elif inspect.isfunction(value) or inspect.isclass(value):
        for name, item in captured(value):
            yield f"{name}, captured by {path}", item
    else:
        for name, item in getattr(value, "__dict__", {}).items():
            yield f"{path}.{name}", item


def culprits(
    value: object, path: str, depth: int, parent: object = None
) -> Iterator[tuple[str, object, object]]:
    """The innermost parts that cannot be pickled: the way to each, the part, what it is a part of.

    Looks at most `depth` levels into the value, which cannot be pickled itself.
    """
    found = False
    if depth > 0:
        for name, part in parts_of(value, path):
            if first_unpicklable([(name, part)]) is not None:
                found = True
                yield from culprits(part, name, depth - 1, value)
    if not found:
        yield path, value, parent


def blaming_parts(error: NotPicklableError, value: object) -> NotPicklableError:
    """The same error, with a report of what in the value is to blame."""
    found = itertools.islice(culprits(value, "value", REPORT_DEPTH), REPORT_PARTS_MAX)
    lines = [f"\n  {path}: a {type(part).__qualname__}" for path, part, _ in found]
    return NotPicklableError(
        f"{error.message}; to blame:{''.join(lines)}\n", hint=error.hint, reason=error.reason
    )
