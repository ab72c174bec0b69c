"""Giving up the values of objects by hand."""

from __future__ import annotations

from typing import Any

from rostral import _context
from rostral.object_ref import ObjectRef


def free(
    object_refs: ObjectRef[Any] | list[ObjectRef[Any]],
    local_only: bool = False,  # noqa: FBT001 - Ray has it by position
) -> None:
    """Gives the memory of objects back at once, though references to them live.

    From then on `get` of them raises ObjectFreedError, in any process, and so does a task that
    they are arguments of; `wait` counts them as ready. They are not made again. Arrays and other
    views that live keep their bytes, and the memory goes with the last of them. A task's result
    that is not there yet is freed when it comes. What the values refer to is let go. Freed twice is
    freed once.

    Args:
        object_refs: References.
        local_only: Not needed: an object is on this node alone.

    Raises: TypeError, ValueError for a reference of another store, NotConnectedError,
        ClusterUnavailableError.
    """
    del local_only
    refs = [object_refs] if isinstance(object_refs, ObjectRef) else object_refs
    if not isinstance(refs, list):
        raise TypeError(f"free() takes a list of references, not {type(refs).__name__}")
    for index, ref in enumerate(refs):
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"item {index} of the list is {type(ref).__name__}, not ObjectRef")
    _context.runtime().free(refs)
