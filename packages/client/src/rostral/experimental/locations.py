"""Where objects are, and how large."""

from __future__ import annotations

from typing import Any, TypedDict

from rostral import _context
from rostral.object_ref import ObjectRef
from rostral_objectstore._native.table import ObjectTable
from rostral_objectstore.layout import ObjectState


class ObjectLocation(TypedDict):
    """Where one object is.

    `node_ids` in hexadecimal, `object_size` in bytes; of an object that is not there yet, none and
    None. `did_spill` says whether its bytes are on disk.
    """

    node_ids: list[str]
    object_size: int | None
    did_spill: bool


def get_object_locations(
    obj_refs: list[ObjectRef[Any]], timeout_ms: int = -1
) -> dict[ObjectRef[Any], ObjectLocation]:
    """Where each of the objects is. Does not wait for those that are not there.

    Args:
        obj_refs: References.
        timeout_ms: Milliseconds; not needed, as what is asked for is known here.

    Raises: TypeError, ValueError for a reference of another store, NotConnectedError.
    """
    del timeout_ms
    return get_local_object_locations(obj_refs)


def get_local_object_locations(
    obj_refs: list[ObjectRef[Any]],
) -> dict[ObjectRef[Any], ObjectLocation]:
    """What this node knows of where each of the objects is.

    Raises: as `get_object_locations`.
    """
    if not isinstance(obj_refs, list):
        raise TypeError(f"it takes a list of references, not {type(obj_refs).__name__}")
    for index, ref in enumerate(obj_refs):
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"item {index} of the list is {type(ref).__name__}, not ObjectRef")
    current = _context.runtime()
    return {ref: _location(current.table, current.node_id, ref) for ref in obj_refs}


def _location(table: ObjectTable, node_id: bytes, ref: ObjectRef[Any]) -> ObjectLocation:
    state = ObjectState(table.state(ref))
    if state not in (ObjectState.SEALED, ObjectState.SPILLED):
        return ObjectLocation(node_ids=[], object_size=None, did_spill=False)
    return ObjectLocation(
        node_ids=[node_id.hex()],
        object_size=table.size(ref),
        did_spill=state is ObjectState.SPILLED,
    )
