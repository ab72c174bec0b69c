"""Why a value cannot be sent to another process: the parts of it that are to blame."""

from __future__ import annotations

import sys
from typing import IO, Any, NamedTuple

from rostral.culprits import culprits
from rostral.exceptions import NotPicklableError
from rostral.object_ref import CollectedRefs
from rostral.serialization import dumps

DEPTH_MAX = 3


class FailureTuple(NamedTuple):
    """Something that cannot be pickled, its name, and what it is a part of."""

    obj: Any
    name: str
    parent: Any


def inspect_serializability(
    base_obj: object,
    name: str | None = None,
    depth: int = DEPTH_MAX,
    print_file: IO[str] | None = None,
) -> tuple[bool, set[FailureTuple]]:
    """Says whether a value can be pickled and, in a report that it prints, what in it cannot.

    Args:
        base_obj: The value.
        name: What the report calls it.
        depth: How far into it the search goes.
        print_file: Where to; standard output if not given.

    Returns:
        (whether it can, the innermost parts that cannot). Parts that are not hashable are told by
        their `repr`.
    """
    out = sys.stdout if print_file is None else print_file
    called = name or getattr(base_obj, "__qualname__", None) or repr(base_obj)[:80]
    with CollectedRefs():
        try:
            dumps(base_obj)
        except NotPicklableError as error:
            reason = error.reason
        else:
            out.write(f"{called} can be pickled\n")
            return True, set()
    found = list(culprits(base_obj, called, depth))
    out.write(f"{called} cannot be pickled: {reason}\n")
    for path, part, _ in found:
        out.write(f"  {path} is to blame: a {type(part).__qualname__}\n")
    return False, {
        FailureTuple(_hashable(part), path, _hashable(parent)) for path, part, parent in found
    }


def _hashable(value: object) -> object:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
